"""One GPT, trained. Read: config, model, data, engine, loop (step_reporter, rewinder; metrics, mlflow_sender), rank;
checkpoints, export, health beside them; planner for layouts."""
