"""Shards to samples: token_stream, samples."""
