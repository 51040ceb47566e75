#!/bin/bash
# Prints the secrets of a small cluster with random values. `create` refuses those that are there, as it must: databases know the first, and
# no pseudonym can be matched without the key it was made with.
#   helm/secrets.sh [RELEASE] | kubectl -n NAMESPACE create -f -        (RELEASE: `platform`, as in docs/kubernetes.md)
set -euo pipefail
release="${1:-platform}"
random() { head -c "${1:-32}" /dev/urandom | od -An -tx1 | tr -d ' \n'; }
secret() {
    printf -- '---\napiVersion: v1\nkind: Secret\nmetadata: {name: %s}\ntype: Opaque\nstringData:\n' "$1"
    shift
    while [ $# -gt 0 ]; do printf "  %s: '%s'\n" "$1" "$2"; shift 2; done
}
airflow=$(random) mlflow=$(random) s3=$(random) restricted=$(random)
secret s3-credentials AWS_ACCESS_KEY_ID hyperclova AWS_SECRET_ACCESS_KEY "$s3"
secret s3-server config.json "{\"identities\": [{\"name\": \"hyperclova\", \"credentials\": [{\"accessKey\": \"hyperclova\", \"secretKey\": \"$s3\"}], \"actions\": [\"Admin:hyperclova\", \"Read:hyperclova\", \"List:hyperclova\", \"Tagging:hyperclova\", \"Write:hyperclova\"]}, {\"name\": \"restricted\", \"credentials\": [{\"accessKey\": \"restricted\", \"secretKey\": \"$restricted\"}], \"actions\": [\"Admin:hyperclova-restricted\", \"Read:hyperclova-restricted\", \"List:hyperclova-restricted\", \"Tagging:hyperclova-restricted\", \"Write:hyperclova-restricted\"]}]}"
secret hyperclova-restricted HYPERCLOVA_RESTRICTED_ACCESS_KEY_ID restricted HYPERCLOVA_RESTRICTED_SECRET_ACCESS_KEY "$restricted"
secret hyperclova-spark secret "$(random)"
secret hyperclova-pseudonym HYPERCLOVA_PSEUDONYM_KEY "$(random)"
secret hyperclova-postgresql POSTGRES_PASSWORD "$(random)" AIRFLOW_PASSWORD "$airflow" MLFLOW_PASSWORD "$mlflow"
secret hyperclova-mlflow MLFLOW_BACKEND_STORE_URI "postgresql+psycopg2://mlflow:$mlflow@$release-postgresql/mlflow" MLFLOW_AUTH_ADMIN_PASSWORD "$(random 16)" MLFLOW_FLASK_SERVER_SECRET_KEY "$(random)"
secret hyperclova-mlflow-writer MLFLOW_TRACKING_USERNAME jobs MLFLOW_TRACKING_PASSWORD "$(random)"
secret hyperclova-airflow-metadata connection "postgresql+psycopg2://airflow:$airflow@$release-postgresql/airflow"
secret hyperclova-airflow-fernet fernet-key "$(head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n')"
secret hyperclova-airflow-api api-secret-key "$(random)"
secret hyperclova-airflow-jwt jwt-secret "$(random 64)"
