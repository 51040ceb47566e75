"""Checkpoints of all ranks together: saved as fragments by name, loaded under any layout.

Each rank writes the fp32 weights and both moments of AdamW that its optimizer holds, in safetensors. At the same layout every rank
finds its own and goes on to the bit; at any other, whole parameters are put together and divided anew: there is nothing to convert
first, and no pickle.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save_file

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import ConfigError, DataError, HyperclovaError
from hyperclova_core.training.checkpoints.committed import MANIFEST, steps_in
from hyperclova_core.training.checkpoints.fence import Fence
from hyperclova_core.training.checkpoints.files import (
    FORMAT,
    checksum_of,
    forget_copies,
    prune,
    sizes_in,
    usable,
    verify_files,
)
from hyperclova_core.training.checkpoints.reader import KINDS, MOMENTS, WEIGHT, open_checkpoint
from hyperclova_core.training.health.watchdog import moved
from hyperclova_core.training.model.sizes import ModelSize
from hyperclova_core.training.model.weights import name_in_pipeline

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankPlacement:
    """Where a rank is in the layout, and what identifies its training.

    Args:
        identity: of the mathematics, data and model: equal for all layouts of one training.
        stable_until: samples up to which a longer training would have done the same (schedule wsd), else None.
    """

    model: ModelSize
    vocabulary: int
    sequence_length: int
    layout: Mapping[str, int]
    pipeline_rank: int
    tensor_rank: int
    data_rank: int
    identity: str
    stable_until: int | None = None

    @property
    def rank_name(self) -> str:
        """Which part of a checkpoint is this rank's."""
        return f"pipeline-{self.pipeline_rank:03d}-tensor-{self.tensor_rank:03d}-data-{self.data_rank:03d}"


def save_checkpoint(
    engine: Any, fence: Fence, place: RankPlacement, state: Mapping[str, Any], keep_last: int, keep_every: int
) -> str:
    """Save on all ranks, make the checkpoint complete on the first, and remove those that are not to be kept; its folder.

    Args:
        fence: of the folder; asked before the first change, and again (writing may have taken minutes) before the manifest and what is removed.
        state: what training needs to go on: `step`, `data_offset`, the windows of the spike guard, the last losses.

    Raises:
        TransientError: the disk is full; checkpoints that were complete stay.
        PreemptedError: another attempt has begun.
    """
    fence.check()
    base = storage.join(fence.folder, f"step-{state['step']}")
    if dist.get_rank() == 0:
        storage.remove(storage.join(base, MANIFEST))  # of the same step, from before training went back
    dist.barrier()
    tensors, fragments = _fragments(engine, place)
    path = storage.join(base, f"{place.rank_name}-{fence.attempt}.safetensors")
    storage.make_folder(base)
    temporary = storage.temporary_for(path)
    try:
        with storage.explained(path):
            try:
                save_file(tensors, temporary)
            except SafetensorError as error:
                raise OSError(_errno_in(str(error)), str(error)) from error
        checksum, size = checksum_of(temporary), Path(temporary).stat().st_size
        storage.install(temporary, path, checksum)
    finally:
        Path(temporary).unlink(missing_ok=True)
    entry = {
        "file": path.rsplit("/", 1)[-1],
        "rank": place.rank_name,
        "bytes": size,
        "checksum": checksum,
        "tensor_rank": place.tensor_rank,
        "fragments": fragments,
    }
    entries: list[Any] = [None] * dist.get_world_size() if dist.get_rank() == 0 else []
    dist.gather_object(entry, entries or None)
    fence.check()
    if dist.get_rank() == 0:
        _refuse_unshared(base, entries)
        record = {
            "format": FORMAT,
            "identity": place.identity,
            "attempt": fence.attempt,
            "stable_until": place.stable_until,
            "layout": dict(place.layout),
            "model": place.model.model_dump(mode="json"),
            "vocabulary": place.vocabulary,
            "sequence_length": place.sequence_length,
            "optimizer_steps": _optimizer_steps(engine),
            **state,
            "files": entries,
        }
        storage.write_bytes(storage.join(base, MANIFEST), json.dumps(record).encode())
        for stray in set(sizes_in(base)) - {entry["file"] for entry in entries} - {MANIFEST}:  # of an attempt that died
            storage.remove(storage.join(base, stray))
        prune(fence.folder, int(state["step"]), keep_last, keep_every)
    dist.barrier()
    return base


def _refuse_unshared(base: str, entries: list[dict[str, Any]]) -> None:
    """All files must be where the first rank sees them.

    Raises:
        ConfigError: some are not.
    """
    sizes = sizes_in(base)
    missing = [entry["file"] for entry in entries if sizes.get(entry["file"]) != entry["bytes"]]
    if missing:
        raise ConfigError(
            "Not all ranks write checkpoints to one place",
            where=base,
            why=f"{len(missing)} of {len(entries)} files are not seen from the first rank, such as {missing[0]}",
            remedy="give `checkpoints` a folder that all machines share, or one in S3; no checkpoint was made of it",
        )


def _errno_in(message: str) -> int:
    """safetensors tells the operating system's number in its text only: `... (os error 28)`."""
    _, found, rest = message.partition("os error ")
    return int(rest.split(")")[0]) if found else 0


def _fragments(engine: Any, place: RankPlacement) -> tuple[dict[str, torch.Tensor], dict[str, list[int]]]:
    """What this rank's optimizer holds: tensors by kind and name, and (start, length) in the rank's share of each parameter."""
    tensors, fragments = {}, {}
    for own, parameter in engine.module.named_parameters():
        name, held = name_in_pipeline(own, place.model.layers), parameter._hp_mapping
        if held is None or (
            name == "wte.weight" and place.pipeline_rank > 0
        ):  # the tied embedding is the first stage's
            continue
        fragments[name] = [held.lp_fragment_address.start, held.lp_fragment_address.numel]
        for kind in KINDS:
            value = held.get_hp_fragment(None if kind == WEIGHT else kind)
            tensors[f"{kind}/{name}"] = value.detach().float().cpu().clone()
    return tensors, fragments


def _optimizer_steps(engine: Any) -> int:
    states = list(engine.optimizer.optimizer.state.values())
    return int(states[0]["step"]) if states else 0


def load_newest(
    engine: Any, folder: str, place: RankPlacement, must: bool = False, below: int | None = None
) -> dict[str, Any] | None:
    """Load the newest complete and undamaged checkpoint; its manifest, or None where there is none. Every rank calls it.

    Args:
        must: having none is an error.
        below: only those of earlier steps.

    Raises:
        DataError: it is of another training; there is none although there must be; or there are some, and none can be used.
    """
    there: list[Any] = [None]
    if dist.get_rank() == 0:  # one lists, so that all take the same
        there = [[step for step in steps_in(folder) if below is None or step < below]]
    dist.broadcast_object_list(there, src=0)
    for step in there[0]:
        base = storage.join(folder, f"step-{step}")
        chief: list[Any] = [None]
        if dist.get_rank() == 0:
            chief = [usable(base)]
        dist.broadcast_object_list(chief, src=0)
        record = chief[0]
        if record is None:
            continue
        refuse_other(record, place)
        sound = _agreed(partial(verify_files, record, dist.get_rank(), dist.get_world_size(), place.rank_name))
        loaded = sound and _agreed(partial(_load, engine, record, place))
        if int(os.environ.get("LOCAL_RANK", "0")) == 0:
            forget_copies(base)
        if loaded:
            engine.optimizer.update_lp_params()
            return dict(record)
        if dist.get_rank() == 0:
            log.warning("Checkpoint %s cannot be used; the one before it is tried", base)
    if must or there[0]:
        raise DataError(
            "There is no checkpoint to go on from",
            where=folder,
            why=f"all {len(there[0])} that are there are damaged or of another version"
            if there[0]
            else "resuming was asked for, and no complete checkpoint is there",
            remedy="bring back the files that the log names, or start anew in an empty folder (with resume: auto)",
        )
    return None


def _agreed(action: Callable[[], None]) -> bool:
    """Whether an action ends well on all ranks; its error is told where it does not."""
    passed = 1
    try:
        action()
    except (HyperclovaError, OSError, SafetensorError) as error:
        log.warning("%s", error)
        passed = 0
    flag = torch.tensor(passed, device="cuda" if torch.cuda.is_available() else "cpu")
    dist.all_reduce(flag, op=dist.ReduceOp.MIN)
    return bool(flag.item())


def refuse_other(record: Mapping[str, Any], place: RankPlacement) -> None:
    """A checkpoint of another training.

    Raises:
        DataError: model, data or mathematics differ, or its decay has begun and this one's has not.
    """
    reason = ""
    ours = {
        "model": place.model.model_dump(mode="json"),
        "vocabulary": place.vocabulary,
        "sequence_length": place.sequence_length,
    }
    for key, value in ours.items():
        if record[key] != value:
            reason = f"its {key} is {record[key]}, not {value}"
            break
    if not reason and record["identity"] != place.identity:
        reason = "schedule, batch, seed, optimizer or data differ"
    if not reason and record["stable_until"] is not None and place.stable_until is not None:
        bound = min(record["stable_until"], place.stable_until)
        if record["consumed_samples"] > bound and record["stable_until"] != place.stable_until:
            reason = f"{record['consumed_samples']} samples are read, and the stable phase both share ended at {bound}"
    if reason:
        raise DataError(
            "The checkpoint is of another training",
            where=record["folder"],
            why=reason,
            remedy="give another output folder, or remove the checkpoints",
        )


def prepare_moments(engine: Any, steps: int = 0) -> None:
    """Moments of zero for all parameters, after `steps` steps, linked to their fragments. DeepSpeed links them during the first
    step, when the optimizer has those of its first parameter group only."""
    optimizer = engine.optimizer
    for group in optimizer.optimizer.param_groups:
        for flat in group["params"]:
            state = optimizer.optimizer.state[flat]
            state["step"] = torch.tensor(float(steps), device=flat.device)
            for kind in MOMENTS:  # those that are there are used again: two of them do not fit beside each other
                state[kind] = state[kind].zero_() if kind in state else torch.zeros_like(flat)
    optimizer._hp_optimizer_states_linked = False
    optimizer._lazy_init_hp_params_optimizer_state()


@torch.no_grad()
def _load(engine: Any, record: Mapping[str, Any], place: RankPlacement) -> None:
    prepare_moments(engine, int(record["optimizer_steps"]))
    ranks = int(place.layout["tensor"])
    with open_checkpoint(record) as reader:
        for own, parameter in engine.module.named_parameters():
            held = parameter._hp_mapping
            if held is None:
                continue
            address = held.lp_fragment_address
            name = name_in_pipeline(own, place.model.layers)
            moved(f"loading {name}")
            for kind in KINDS:
                part = reader.part(name, kind, place.tensor_rank, ranks, address.start, address.numel)
                held.get_hp_fragment(None if kind == WEIGHT else kind).copy_(part)
