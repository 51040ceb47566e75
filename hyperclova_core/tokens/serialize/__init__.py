"""Shards in training order: staging, runs, merging, shards, shard_files, megatron_format, stage."""
