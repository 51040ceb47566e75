"""Airflow's side of the platform: operators that start a stage and wait. What is done is in `hyperclova_core`."""

from operators.deepspeed_job import DeepSpeedJobOperator, trainings_at_once
from operators.spark_stage import SparkStageOperator

__all__ = ["DeepSpeedJobOperator", "SparkStageOperator", "trainings_at_once"]
