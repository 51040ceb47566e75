"""Near-duplicates. The files in the order they run: normalise → signatures → candidates → components → stage (survivors)."""
