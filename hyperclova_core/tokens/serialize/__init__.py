"""Shards in training order: staging (runs), shards, shard_files, megatron_format, stage."""
