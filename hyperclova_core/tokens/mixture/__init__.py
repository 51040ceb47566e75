"""The corpus mixer: plan, leaves, stage, composition (what came out against the plan)."""
