"""Near-duplicates: signatures, lsh_banding (candidates), verify (their similarity)."""
