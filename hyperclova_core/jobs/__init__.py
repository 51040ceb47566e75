"""GPU jobs and Spark drivers. Read: spec, config, backend (the protocol), backends (this machine), launcher, failure_causes, gpu_hours; kubernetes, spark."""
