# GPU jobs: torchrun, DeepSpeed, evaluation, export. The default base has CUDA's runtime; a CPU base does for trying.
#   docker build -f docker/trainer.Dockerfile -t hyperclova-trainer .
ARG BASE_IMAGE=nvidia/cuda:12.9.1-runtime-ubuntu24.04

FROM ${BASE_IMAGE} AS build
ARG TORCH_INDEX_URL=
COPY docker/python.sh /tmp/
RUN sh /tmp/python.sh
WORKDIR /opt/hyperclova/app
COPY pyproject.toml constraints.txt README.md ./
COPY hyperclova_core hyperclova_core
COPY operators operators
# torch first, by itself where its index is another one (https://download.pytorch.org/whl/cu129 for CUDA, …/cpu for none)
RUN if [ -n "${TORCH_INDEX_URL}" ]; then PIP_EXTRA_INDEX_URL="${TORCH_INDEX_URL}" /opt/hyperclova/bin/pip install --no-cache-dir \
        --disable-pip-version-check --constraint constraints.txt torch; fi \
 && /opt/hyperclova/bin/pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt --editable '.[trainer]'

FROM ${BASE_IMAGE}
ARG USER_ID=10001
COPY docker/python.sh /tmp/
RUN sh /tmp/python.sh runtime \
 && groupadd --gid ${USER_ID} hyperclova && useradd --uid ${USER_ID} --gid ${USER_ID} --create-home hyperclova
COPY --from=build --chown=root:root /opt/hyperclova /opt/hyperclova
COPY conf /opt/hyperclova/app/conf
ENV PATH=/opt/hyperclova/bin:${PATH} \
    PYTHONUNBUFFERED=1
USER ${USER_ID}
WORKDIR /home/hyperclova
HEALTHCHECK NONE
# what a job's manifest starts; the file is mounted
ENTRYPOINT ["python", "-m", "hyperclova_core.jobs.launcher"]
CMD ["--help"]
