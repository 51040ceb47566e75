"""Training: data → model (split over data, tensor and pipeline) → engine → checkpoints → export. `rank` is the program."""
