"""From text to token ids on disk: morphemes → tokenizer → encoder → mix plan → Megatron shards in training order."""
