"""megatron-core's GPTDataset over a shard, in the peers' environment: samples a second on stdout."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time


def main() -> None:
    """`peer_gptdataset.py PREFIX VOCABULARY CONTEXT SAMPLES`."""
    prefix, vocabulary, context, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    import torch.distributed as dist
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    class Tokenizer:
        """What the dataset asks of one."""

        eod, pad, bos, unique_identifiers = 0, 0, 0, {"class": "none"}

        @property
        def vocab_size(self) -> int:
            return vocabulary

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="1")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    with tempfile.TemporaryDirectory() as cache:
        config = GPTDatasetConfig(
            random_seed=1,
            sequence_length=context,
            blend=([prefix], None),
            split="1,0,0",
            path_to_cache=cache,
            tokenizer=Tokenizer(),
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,
        )
        started = time.perf_counter()
        data = BlendedMegatronDatasetBuilder(GPTDataset, [count, 0, 0], lambda: True, config).build()[0]
        built = time.perf_counter() - started
        best = 0.0
        for _ in range(3):
            started = time.perf_counter()
            for index in range(count):
                data[index]
            best = max(best, count / (time.perf_counter() - started))
    sys.stdout.write("\n" + json.dumps({"samples_per_second": best, "build_seconds": built}) + "\n")


if __name__ == "__main__":
    main()
