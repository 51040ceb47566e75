"""A checkpoint of any layout as Hugging Face's `GPT2LMHeadModel`: safetensors, tokenizer, model card; and back.

Nothing is exported whose loss, in fp32 by transformers' own code, is not that of our model rebuilt in one process.
"""

from __future__ import annotations

import glob
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import ConfigError, DataError
from hyperclova_core.tokens.special_tokens import EOD_ID
from hyperclova_core.tokens.tokenizer.tokenizer import MEMO_FILE
from hyperclova_core.training.checkpoints.files import forget_copies, read_checkpoint, verify_files
from hyperclova_core.training.checkpoints.reader import CheckpointReader, open_checkpoint
from hyperclova_core.training.export.model_card import model_card
from hyperclova_core.training.model.gpt import WholeModel
from hyperclova_core.training.model.sizes import ModelSize
from hyperclova_core.training.model.weights import name_in_module

log = logging.getLogger(__name__)

WEIGHTS, INDEX, CONFIG, CARD = "model.safetensors", "model.safetensors.index.json", "config.json", "README.md"
FILE_BYTES = 4 << 30
"""A file holds as many whole parameters as fit; one is held in memory at a time, and one file."""
TOLERANCE = 1e-5
_MODULES = {
    "qkv": "attn.c_attn",
    "proj": "attn.c_proj",
    "fc": "mlp.c_fc",
    "out": "mlp.c_proj",
    "ln1": "ln_1",
    "ln2": "ln_2",
}
_TRANSPOSED = ("qkv.weight", "proj.weight", "fc.weight", "out.weight")


def name_in_gpt2(name: str) -> str:
    """One of our parameters by GPT-2's name."""
    first, _, rest = name.partition(".")
    if first.startswith("h"):
        module, _, kind = rest.partition(".")
        return f"transformer.h.{first[1:]}.{_MODULES[module]}.{kind}"
    return f"transformer.{name}"


def is_transposed(name: str) -> bool:
    """Whether GPT-2 (whose linear layers are Conv1D) holds a parameter the other way round."""
    return name.startswith("h") and name.partition(".")[2] in _TRANSPOSED


def export_checkpoint(
    checkpoint: str,
    output: str,
    tokenizer: str | None = None,
    samples: torch.Tensor | None = None,
    card: Mapping[str, Any] | None = None,
    result: Mapping[str, Any] | None = None,
) -> float:
    """Write a checkpoint as a model of Hugging Face; the largest relative difference of losses that the gate saw.

    Args:
        checkpoint: its folder, or that of its training (the newest is taken); local or s3://.
        tokenizer: a folder whose files, but for what only speeds up a corpus, go with the model.
        samples: ids of shape (n, sequence_length + 1) to compare losses on, beside made-up ones.
        card, result: facts for the model card: of the corpus, and of the training.

    Raises:
        DataError: the checkpoint is absent or damaged, or losses differ: nothing is exported then.
        ConfigError: transformers is not installed.
    """
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    record = read_checkpoint(checkpoint)
    verify_files(record)
    name = Path(output.rstrip("/")).name
    made = storage.scratch_folder("exports", f"{name}-{os.getpid()}") if storage.is_remote(output) else _beside(output)
    try:
        with open_checkpoint(record) as reader:
            _write_weights(reader, made)
            storage.write_json(storage.join(made, CONFIG), _config(reader))
            _copy_tokenizer(tokenizer, made)
            difference = _compare(reader, made, samples)
        facts = {"format": record["format"], "step": record["step"], "difference": difference}
        storage.write_bytes(
            storage.join(made, CARD), model_card(name, reader.model, record, facts, card or {}, result or {}).encode()
        )
        _publish(made, output)
    finally:
        shutil.rmtree(made, ignore_errors=True)
        forget_copies(record["folder"])
    log.info("exported step %s; losses of both models differ by %.1e at most", record["step"], difference)
    return difference


def _beside(output: str) -> str:
    path = storage.local_path(output)
    for left in path.parent.glob(f".{glob.escape(path.name)}-*"):  # by an export that was killed
        shutil.rmtree(left, ignore_errors=True)
    made = path.parent / f".{path.name}-{os.getpid()}"
    storage.make_folder(str(made))
    return str(made)


def _publish(made: str, output: str) -> None:
    """Give the files their names, the configuration last: a folder without it is no model."""
    storage.make_folder(output)
    storage.remove(storage.join(output, CONFIG))
    names = sorted((path.name for path in Path(made).iterdir()), key=lambda name: (name == CONFIG, name))
    for stale in storage.list_names(output):
        if stale not in names and stale.startswith("model") and stale.endswith((".safetensors", ".json")):
            storage.remove(storage.join(output, stale))
    for name in names:
        storage.install(os.path.join(made, name), storage.join(output, name))


def _files(reader: CheckpointReader) -> list[list[str]]:
    """Names of parameters, file by file."""
    files: list[list[str]] = [[]]
    size = 0
    for name, weight in reader.weights.items():
        own = 4 * math.prod(weight.shape)
        if files[-1] and size + own > FILE_BYTES:
            files.append([])
            size = 0
        files[-1].append(name)
        size += own
    return files


def _write_weights(reader: CheckpointReader, folder: str) -> None:
    files = _files(reader)
    names = (
        [WEIGHTS]
        if len(files) == 1
        else [f"model-{n + 1:05d}-of-{len(files):05d}.safetensors" for n in range(len(files))]
    )
    index: dict[str, str] = {}
    for file, parameters in zip(names, files, strict=True):
        tensors = {}
        for name in parameters:
            value = reader.whole(name)
            tensors[name_in_gpt2(name)] = (value.t() if is_transposed(name) else value).contiguous()
            index[name_in_gpt2(name)] = file
        with storage.replacing(storage.join(folder, file)) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})
    if len(files) > 1:
        total = sum(4 * math.prod(weight.shape) for weight in reader.weights.values())
        storage.write_json(storage.join(folder, INDEX), {"metadata": {"total_size": total}, "weight_map": index})


def _config(reader: CheckpointReader) -> dict[str, Any]:
    model = reader.model
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": reader.record["vocabulary"],
        "n_positions": reader.record["sequence_length"],
        "n_embd": model.hidden_size,
        "n_layer": model.layers,
        "n_head": model.heads,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": True,
        "bos_token_id": EOD_ID,
        "eos_token_id": EOD_ID,
        "torch_dtype": "float32",
    }


def _copy_tokenizer(tokenizer: str | None, folder: str) -> None:
    for name in storage.list_names(tokenizer) if tokenizer else ():
        if name != MEMO_FILE and storage.is_file(storage.join(str(tokenizer), name)):
            storage.write_bytes(storage.join(folder, name), storage.read_bytes(storage.join(str(tokenizer), name)))


def _compare(reader: CheckpointReader, folder: str, samples: torch.Tensor | None) -> float:
    """Losses of both models on the same ids; the largest relative difference.

    Raises:
        DataError: it is over the tolerance.
    """
    try:
        from transformers import GPT2LMHeadModel
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise ConfigError(
            "transformers is not installed",
            why="a model is exported only after its loss has been compared with that of transformers' own GPT-2",
            remedy="pip install 'hyperclova[trainer]'",
        ) from error
    disable_progress_bar()
    sequence_length, vocabulary = int(reader.record["sequence_length"]), int(reader.record["vocabulary"])
    generator = torch.Generator().manual_seed(0)
    made_up = torch.randint(0, vocabulary, (1, sequence_length + 1), generator=generator)
    batches = [made_up, *([] if samples is None else samples.split(1))]
    ours = _losses(_rebuilt(reader), batches)
    theirs = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    found = _losses(lambda ids: theirs(ids).logits, batches)
    difference = max(abs(a - b) / max(abs(a), 1e-9) for a, b in zip(ours, found, strict=True))
    if not difference <= TOLERANCE:
        raise DataError(
            "The exported model is not the trained one; nothing was exported",
            where=reader.record["folder"],
            why=f"losses {ours} and {found} differ by {difference:.1e} of their size, {TOLERANCE:.0e} is allowed",
            remedy="look whether the installed transformers changed its GPT-2; the checkpoint is unharmed",
        )
    return difference


@torch.no_grad()
def _losses(model: Any, batches: list[torch.Tensor]) -> list[float]:
    losses = []
    for ids in batches:
        logits = model(ids[:, :-1]).float()
        losses.append(float(F.cross_entropy(logits.reshape(-1, logits.size(-1)), ids[:, 1:].reshape(-1))))
    return losses


def _rebuilt(reader: CheckpointReader) -> WholeModel:
    return _filled(
        reader.model, reader.record["vocabulary"], reader.record["sequence_length"], lambda name: reader.whole(name)
    )


def _filled(model: ModelSize, vocabulary: int, sequence_length: int, value_of: Any) -> WholeModel:
    whole = WholeModel(model, vocabulary, sequence_length, initialised=False)
    with torch.no_grad():
        for own, parameter in whole.named_parameters():
            parameter.copy_(value_of(name_in_module(own)))
    return whole.eval()


def load_model(folder: str) -> WholeModel:
    """A model that was exported, ready for evaluation; local or s3://.

    Raises:
        DataError: there is none, or its weights do not fit its configuration.
    """
    if not storage.exists(storage.join(folder, CONFIG)):
        raise DataError(
            "No model here",
            where=folder,
            why=f"there is no {CONFIG}",
            remedy="give the `model` folder that training wrote, or the output of `hyperclova export`",
        )
    config = storage.read_json(storage.join(folder, CONFIG))
    shape = ModelSize(layers=config["n_layer"], hidden_size=config["n_embd"], heads=config["n_head"], learning_rate=1.0)
    try:
        tensors = dict(_tensors(folder))
        return _filled(
            shape,
            config["vocab_size"],
            config["n_positions"],
            lambda name: tensors[name_in_gpt2(name)].t() if is_transposed(name) else tensors[name_in_gpt2(name)],
        )
    except (RuntimeError, KeyError) as error:
        raise DataError(
            "The model's weights do not fit its configuration",
            where=folder,
            why=str(error).splitlines()[-1].strip(),
            remedy="export the model again",
        ) from error


def _tensors(folder: str) -> Iterator[tuple[str, torch.Tensor]]:
    files = [WEIGHTS]
    if storage.exists(storage.join(folder, INDEX)):
        files = sorted(set(json.loads(storage.read_bytes(storage.join(folder, INDEX)))["weight_map"].values()))
    for file in files:
        with safe_open(storage.localized(storage.join(folder, file)), "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - a file, not a mapping
                yield name, opened.get_tensor(name)
