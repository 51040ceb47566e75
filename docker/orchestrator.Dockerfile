# Airflow (API server, scheduler, DAG processor, triggerer) and MLflow's server. It plans and waits; stages and jobs run in the other images.
#   docker build -f docker/orchestrator.Dockerfile -t hyperclova-orchestrator .
# For everything on one machine (docker/compose.yaml): --build-arg EXTRAS=local,cluster, which has Spark's and the trainer's packages too.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG EXTRAS=orchestrator,cluster
COPY docker/python.sh /tmp/
RUN sh /tmp/python.sh
WORKDIR /opt/hyperclova/app
COPY pyproject.toml constraints.txt README.md ./
COPY hyperclova_core hyperclova_core
COPY operators operators
# spark-submit starts stages on a cluster from here, so pyspark is in this image too; its Java comes with the base below
RUN /opt/hyperclova/bin/pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt --editable ".[${EXTRAS}]" pyspark

FROM ${BASE_IMAGE}
ARG USER_ID=10001
COPY docker/python.sh /tmp/
RUN sh /tmp/python.sh runtime openjdk-17-jre-headless \
 && groupadd --gid ${USER_ID} hyperclova && useradd --uid ${USER_ID} --gid ${USER_ID} --create-home hyperclova \
 && install -d -o ${USER_ID} -g ${USER_ID} /opt/airflow /opt/airflow/logs /scratch
COPY --from=build --chown=root:root /opt/hyperclova /opt/hyperclova
COPY docker/orchestrator-entrypoint.sh /entrypoint
COPY dags /opt/hyperclova/app/dags
COPY conf /opt/hyperclova/app/conf
ENV PATH=/opt/hyperclova/bin:${PATH} \
    AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/hyperclova/app/dags \
    AIRFLOW__CORE__LOAD_EXAMPLES=false \
    PYTHONPATH=/opt/hyperclova/app \
    PYTHONUNBUFFERED=1
USER ${USER_ID}
WORKDIR /home/hyperclova
HEALTHCHECK --interval=30s --timeout=20s --start-period=120s --retries=5 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/api/v2/monitor/health', timeout=15)"]
ENTRYPOINT ["/entrypoint"]
CMD ["api-server"]
