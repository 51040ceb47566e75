"""Documents quoted whole in others: winnowing (fingerprints), contained."""
