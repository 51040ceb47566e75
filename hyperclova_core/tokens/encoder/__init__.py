"""Whole columns to ids: column_encoder over kernels and cache_misses, pretoken_cache (the memo), worker_encoder (kept by a worker)."""
