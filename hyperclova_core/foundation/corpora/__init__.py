"""A corpus that grows: versions (base, increments, tombstones), retention (what may be removed, and when)."""
