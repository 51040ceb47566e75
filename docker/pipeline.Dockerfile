# Spark stages, as driver and as executors: text work, gates, tokens.
#   docker build -f docker/pipeline.Dockerfile -t hyperclova-pipeline .
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
COPY docker/python.sh /tmp/
RUN sh /tmp/python.sh
WORKDIR /opt/hyperclova/app
COPY pyproject.toml constraints.txt README.md ./
COPY hyperclova_core hyperclova_core
COPY operators operators
RUN /opt/hyperclova/bin/pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt --editable '.[pipeline]'

FROM ${BASE_IMAGE}
ARG USER_ID=10001
COPY docker/python.sh /tmp/
RUN sh /tmp/python.sh runtime openjdk-17-jre-headless \
 && groupadd --gid ${USER_ID} hyperclova && useradd --uid ${USER_ID} --gid ${USER_ID} --create-home hyperclova
COPY --from=build --chown=root:root /opt/hyperclova /opt/hyperclova
COPY conf /opt/hyperclova/app/conf
ENV PATH=/opt/hyperclova/bin:${PATH} \
    PYSPARK_PYTHON=/opt/hyperclova/bin/python \
    NUMBA_CACHE_DIR=/tmp/numba \
    PYTHONUNBUFFERED=1
USER ${USER_ID}
WORKDIR /home/hyperclova
HEALTHCHECK NONE
ENTRYPOINT ["hyperclova"]
CMD ["--help"]
