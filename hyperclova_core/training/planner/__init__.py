"""A planner of layouts: memory, time and cost of training a model on so many devices, from published formulas."""
