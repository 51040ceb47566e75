"""Everything the platform does to Korean text, without the orchestrator: stages, tokens, training, evaluation."""

__version__ = "0.1.0"
