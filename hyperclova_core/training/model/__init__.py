"""The model and how it is laid over ranks: sizes, layout, micro_batch, tensor_parallel, gpt, weights."""
