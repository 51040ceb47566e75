"""One GPT, trained. Read: config, model, data, engine, loop, rank; checkpoints, export, health beside them; planner for layouts."""
