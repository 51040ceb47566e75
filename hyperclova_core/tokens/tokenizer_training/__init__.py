"""Learning a tokenizer from a sample composed as the mixture: learning, stage, report."""
