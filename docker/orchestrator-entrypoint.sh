#!/bin/sh
# Airflow's chart starts `bash -c …` and `airflow …` by /entrypoint; its own image takes words without a program as Airflow's.
set -eu
case "${1:-}" in
airflow | bash | sh | python* | mlflow | hyperclova | spark-submit | /*) exec "$@" ;;
*) exec airflow "$@" ;;
esac
