"""Evaluation: few-shot tasks, waterfall curves, generation. `job` is the program of the evaluate stage."""
