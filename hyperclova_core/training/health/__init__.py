"""What may go wrong in a step: non_finite, spikes, watchdog."""
