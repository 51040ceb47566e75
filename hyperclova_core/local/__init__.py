"""The platform on one machine: demo text, the services (Airflow, MLflow) as processes, and `make run`."""
