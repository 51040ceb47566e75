"""Byte-level BPE: byte_to_unicode, training, merges (compiled)."""
