"""Evaluation items in the corpus: evaluation_sets, decontaminate."""
