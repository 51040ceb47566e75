"""Weights out of any topology as one GPT-2 model in safetensors (Hugging Face's `GPT2LMHeadModel`), and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.tokens.specials import EOD_ID
from hyperclova_core.training.config import JobConfig
from hyperclova_core.training.model import EMBEDDING_LAYERS, WholeModel
from hyperclova_core.training.parallel import tensor_group
from hyperclova_core.training.sizes import ModelSize

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_LINEARS = {"qkv": "attn.c_attn", "proj": "attn.c_proj", "fc": "mlp.c_fc", "out": "mlp.c_proj"}
_NORMS = {"ln1": "ln_1", "ln2": "ln_2"}
_SHARDED = {
    "qkv.weight": (0, 3),
    "qkv.bias": (0, 3),
    "fc.weight": (0, 1),
    "fc.bias": (0, 1),
    "proj.weight": (1, 1),
    "out.weight": (1, 1),
}


def export_model(engine: Any, job: JobConfig, folder: str) -> None:
    """Gather the weights of all ranks into one model; every rank calls it, rank 0 writes."""
    parts = storage.join(folder, "parts")
    storage.make_folder(parts)
    coordinate = engine.grid
    if coordinate.get_data_parallel_rank() == 0:
        stage, tensor = coordinate.get_pipe_parallel_rank(), tensor_group().rank
        state = {
            name: parameter.detach().float().cpu().contiguous() for name, parameter in engine.module.named_parameters()
        }
        save_file(
            state, str(storage.local_path(storage.join(parts, f"stage-{stage:03d}-tensor-{tensor:03d}.safetensors")))
        )
    dist.barrier()
    if dist.get_rank() == 0:
        write_model(_merge(parts), job.train.size.model, job.padded_vocabulary, job.train.context, folder)
        storage.remove_tree(parts)
    dist.barrier()


def _merge(parts: str) -> dict[str, torch.Tensor]:
    by_stage: dict[str, list[dict[str, torch.Tensor]]] = {}
    for path in storage.list_files(parts):
        by_stage.setdefault(Path(path).name.split("-tensor-")[0], []).append(load_file(path))
    whole: dict[str, torch.Tensor] = {}
    for shards in by_stage.values():
        for name in shards[0]:
            whole[name] = _join(name, [shard[name] for shard in shards])
    return whole


def _join(name: str, shards: list[torch.Tensor]) -> torch.Tensor:
    if len(shards) == 1:
        return shards[0]
    if name.startswith("tied_modules.wte"):
        return torch.cat(shards, 0)
    rule = _SHARDED.get(name.partition(".")[2])
    if rule is None:
        return shards[0]
    dimension, count = rule
    split = [shard.chunk(count, dimension) for shard in shards]
    return torch.cat([torch.cat([pieces[part] for pieces in split], dimension) for part in range(count)], dimension)


def write_model(state: dict[str, torch.Tensor], model: ModelSize, vocabulary: int, context: int, folder: str) -> None:
    """Write `model.safetensors` and `config.json` in GPT-2's names (Conv1D weights are transposed)."""
    renamed = {
        "transformer.wte.weight": state["tied_modules.wte.weight"],
        "transformer.wpe.weight": state["1.weight"],
        "transformer.ln_f.weight": state[f"{EMBEDDING_LAYERS + model.layers}.ln.weight"],
        "transformer.ln_f.bias": state[f"{EMBEDDING_LAYERS + model.layers}.ln.bias"],
    }
    for number in range(model.layers):
        ours, theirs = f"{EMBEDDING_LAYERS + number}.", f"transformer.h.{number}."
        for name, target in _LINEARS.items():
            renamed[f"{theirs}{target}.weight"] = state[f"{ours}{name}.weight"].t().contiguous()
            renamed[f"{theirs}{target}.bias"] = state[f"{ours}{name}.bias"]
        for name, target in _NORMS.items():
            for kind in ("weight", "bias"):
                renamed[f"{theirs}{target}.{kind}"] = state[f"{ours}{name}.{kind}"]
    storage.make_folder(folder)
    with storage.replacing(storage.join(folder, WEIGHTS)) as temporary:
        save_file(renamed, temporary, metadata={"format": "pt"})
    config = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": vocabulary,
        "n_positions": context,
        "n_embd": model.width,
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
    storage.write_json(storage.join(folder, CONFIG), config)


def load_model(folder: str) -> WholeModel:
    """A model that `write_model` wrote, ready for evaluation.

    Raises:
        DataError: there is none, or its weights do not fit its configuration.
    """
    if not storage.exists(storage.join(folder, CONFIG)):
        raise DataError(
            "No model here",
            where=folder,
            why=f"there is no {CONFIG}",
            remedy="give the `model` folder that training wrote",
        )
    config = storage.read_json(storage.join(folder, CONFIG))
    shape = ModelSize(layers=config["n_layer"], width=config["n_embd"], heads=config["n_head"], learning_rate=1.0)
    model = WholeModel(shape, config["vocab_size"], config["n_positions"])
    theirs = load_file(storage.localized(storage.join(folder, WEIGHTS)))
    state = {"embedding.weight": theirs["transformer.wte.weight"], "positions.weight": theirs["transformer.wpe.weight"]}
    for kind in ("weight", "bias"):
        state[f"norm.ln.{kind}"] = theirs[f"transformer.ln_f.{kind}"]
        for number in range(shape.layers):
            for name, target in {**_LINEARS, **_NORMS}.items():
                value = theirs[f"transformer.h.{number}.{target}.{kind}"]
                state[f"blocks.{number}.{name}.{kind}"] = value.t() if name in _LINEARS and kind == "weight" else value
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(
            "The model's weights do not fit its configuration",
            where=folder,
            why=str(error).splitlines()[-1].strip(),
            remedy="export the model again",
        ) from error
    return model.eval()
