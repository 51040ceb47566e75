"""Spark drivers as pods: pods, driver, entry."""
