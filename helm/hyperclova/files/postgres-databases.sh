#!/bin/bash
# Once, on an empty volume: a database and an owner for each of Airflow and MLflow. Passwords stay in the environment, never in arguments.
set -euo pipefail
for owner in airflow mlflow; do
    variable="${owner^^}_PASSWORD"
    PASSWORD="${!variable}" psql -v ON_ERROR_STOP=1 --username postgres <<SQL
\getenv password PASSWORD
CREATE ROLE $owner LOGIN PASSWORD :'password';
CREATE DATABASE $owner OWNER $owner;
SQL
done
