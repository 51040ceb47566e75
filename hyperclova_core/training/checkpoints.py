"""Checkpoints that any layout reads: fp32 weights and both moments of AdamW by name, in safetensors, each rank its own fragments.

    checkpoints/step-40/pipeline-000-tensor-001-data-000.safetensors   what that rank's optimizer holds, one-dimensional
    checkpoints/step-40/manifest.json                                  written last: without it the checkpoint is not there

At the same layout every rank finds its own file and goes on to the bit. At any other, whole parameters are put together from
the fragments and divided anew; there is nothing to convert first, and no pickle. On disk or in S3.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import ConfigError, DataError, HyperclovaError
from hyperclova_core.training.health import moved
from hyperclova_core.training.sizes import ModelSize
from hyperclova_core.training.weights import Weight, name_in_pipeline, weights_of

log = logging.getLogger(__name__)

FORMAT = 2
MANIFEST = "manifest.json"
WEIGHT, MOMENTS = "weight", ("exp_avg", "exp_avg_sq")
KINDS = (WEIGHT, *MOMENTS)
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Place:
    """Where a rank is in the layout, and what identifies its training.

    Args:
        identity: of the mathematics, data and model: equal for all layouts of one training.
        stable_until: samples up to which a longer training would have done the same (schedule wsd), else None.
    """

    model: ModelSize
    vocabulary: int
    context: int
    layout: Mapping[str, int]
    pipeline_rank: int
    tensor_rank: int
    data_rank: int
    identity: str
    stable_until: int | None = None

    @property
    def file(self) -> str:
        """This rank's file in a checkpoint."""
        return f"pipeline-{self.pipeline_rank:03d}-tensor-{self.tensor_rank:03d}-data-{self.data_rank:03d}.safetensors"


def save_checkpoint(
    engine: Any, folder: str, place: Place, state: Mapping[str, Any], keep_last: int, keep_every: int
) -> str:
    """Save on all ranks, make the checkpoint complete on the first, and remove those that are not to be kept; its folder.

    Args:
        state: what training needs to go on: `step`, `data_offset`, the windows of the spike guard, the last losses.

    Raises:
        TransientError: the disk is full; checkpoints that were complete stay.
    """
    base = storage.join(folder, f"step-{state['step']}")
    if dist.get_rank() == 0:
        storage.remove(storage.join(base, MANIFEST))  # of the same step, from before training went back
    dist.barrier()
    tensors, fragments = _fragments(engine, place)
    path = storage.join(base, place.file)
    storage.make_folder(base)
    temporary = storage.temporary_for(path)
    try:
        with storage.explained(path):
            try:
                save_file(tensors, temporary)
            except SafetensorError as error:
                raise OSError(_errno_in(str(error)), str(error)) from error
        checksum, size = _checksum(temporary), Path(temporary).stat().st_size
        storage.install(temporary, path, checksum)
    finally:
        Path(temporary).unlink(missing_ok=True)
    entry = {
        "file": place.file,
        "bytes": size,
        "checksum": checksum,
        "tensor_rank": place.tensor_rank,
        "fragments": fragments,
    }
    entries: list[Any] = [None] * dist.get_world_size() if dist.get_rank() == 0 else []
    dist.gather_object(entry, entries or None)
    if dist.get_rank() == 0:
        _refuse_unshared(base, entries)
        record = {
            "format": FORMAT,
            "identity": place.identity,
            "stable_until": place.stable_until,
            "layout": dict(place.layout),
            "model": place.model.model_dump(mode="json"),
            "vocabulary": place.vocabulary,
            "context": place.context,
            "optimizer_steps": _optimizer_steps(engine),
            **state,
            "files": entries,
        }
        storage.write_bytes(storage.join(base, MANIFEST), json.dumps(record).encode())
        prune(folder, int(state["step"]), keep_last, keep_every)
    dist.barrier()
    return base


def _refuse_unshared(base: str, entries: list[dict[str, Any]]) -> None:
    """All files must be where the first rank sees them.

    Raises:
        ConfigError: some are not.
    """
    sizes = _sizes(base)
    missing = [entry["file"] for entry in entries if sizes.get(entry["file"]) != entry["bytes"]]
    if missing:
        raise ConfigError(
            "Not all ranks write checkpoints to one place",
            where=base,
            why=f"{len(missing)} of {len(entries)} files are not seen from the first rank, such as {missing[0]}",
            remedy="give `checkpoints` a folder that all machines share, or one in S3; no checkpoint was made of it",
        )


def _sizes(base: str) -> dict[str, int]:
    """Bytes of all files of a checkpoint, by one listing."""
    start = len(base.rstrip("/")) + 1
    return {path[start:]: size for path, size, _ in storage.list_objects(base)}


def _errno_in(message: str) -> int:
    """safetensors tells the operating system's number in its text only: `... (os error 28)`."""
    _, found, rest = message.partition("os error ")
    return int(rest.split(")")[0]) if found else 0


def _fragments(engine: Any, place: Place) -> tuple[dict[str, torch.Tensor], dict[str, list[int]]]:
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


def _checksum(path: str) -> str:
    hasher = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def prune(folder: str, newest: int, keep_last: int, keep_every: int) -> None:
    """Remove what is older than the last ones kept, and what attempts that were killed left without a manifest."""
    steps = sorted(int(name.removeprefix("step-")) for name in storage.list_names(folder) if name.startswith("step-"))
    older = [step for step in steps if step <= newest]
    complete = [step for step in older if storage.exists(storage.join(folder, f"step-{step}", MANIFEST))]
    kept = {*complete[-keep_last:], *(step for step in complete if keep_every and step % keep_every == 0)}
    for step in older:
        if step not in kept:
            remove_checkpoint(storage.join(folder, f"step-{step}"))


def remove_checkpoint(base: str) -> None:
    """Make a checkpoint invisible, then remove its files."""
    storage.remove(storage.join(base, MANIFEST))
    storage.remove_tree(base)


def complete_checkpoints(folder: str, below: int | None = None) -> Iterator[dict[str, Any]]:
    """Manifests of complete checkpoints whose files are there, newest first, each with its `folder`; read as they are asked for.

    Args:
        below: only those of earlier steps.
    """
    for step in steps_in(folder):
        if below is None or step < below:
            record = _whole(storage.join(folder, f"step-{step}"))
            if record is not None:
                yield record


def steps_in(folder: str) -> list[int]:
    """Steps of all checkpoints that have a manifest, newest first, usable or not."""
    steps = [int(name.removeprefix("step-")) for name in storage.list_names(folder) if name.startswith("step-")]
    return [
        step for step in sorted(steps, reverse=True) if storage.exists(storage.join(folder, f"step-{step}", MANIFEST))
    ]


def _whole(base: str) -> dict[str, Any] | None:
    record: dict[str, Any] = storage.read_json(storage.join(base, MANIFEST))
    if record.get("format") != FORMAT:
        log.warning(
            "Checkpoint %s is of format %s, this code reads %s: it is passed over", base, record.get("format"), FORMAT
        )
        return None
    sizes = _sizes(base)
    for entry in record["files"]:
        if sizes.get(entry["file"]) != entry["bytes"]:
            log.warning("Checkpoint %s is passed over: %s is not %d bytes", base, entry["file"], entry["bytes"])
            return None
    return {**record, "folder": base}


def read_checkpoint(path: str) -> dict[str, Any]:
    """The manifest of a checkpoint: its own folder, or the newest below a training's folder.

    Raises:
        DataError: there is none.
    """
    if storage.exists(storage.join(path, MANIFEST)):
        record = _whole(path)
        if record is not None:
            return record
    for folder in (path, storage.join(path, "checkpoints")):
        record = next(complete_checkpoints(folder), None)
        if record is not None:
            return record
    raise DataError(
        "No complete checkpoint here",
        where=path,
        why=f"no {MANIFEST} with all its files lies in it, in its step-N folders, or below checkpoints/",
        remedy="give the folder of a training, or one of its checkpoints",
    )


class CheckpointReader:
    """Parameters and moments out of a checkpoint, whatever layout wrote it; one parameter is held at a time."""

    def __init__(self, record: Mapping[str, Any], files: Mapping[str, Any]) -> None:
        self.record = record
        self.model = ModelSize.model_validate(record["model"])
        self.weights = weights_of(self.model, record["vocabulary"], record["context"])
        self._files = files
        self._ranks = int(record["layout"]["tensor"])
        self._holders: dict[str, list[dict[str, Any]]] = {}
        for entry in record["files"]:
            for name in entry["fragments"]:
                self._holders.setdefault(name, []).append(entry)

    def whole(self, name: str, kind: str = WEIGHT) -> torch.Tensor:
        """A parameter, or a moment of it, in its whole shape, fp32."""
        weight = self.weights[name]
        ranks = 1 if weight.dimension is None else self._ranks
        return weight.join([self._share(weight, kind, rank) for rank in range(ranks)])

    def part(self, name: str, kind: str, rank: int, ranks: int, start: int, length: int) -> torch.Tensor:
        """A stretch of one tensor-parallel rank's share of it, flat. Where the checkpoint was divided alike, only what overlaps with it
        is read."""
        weight = self.weights[name]
        if weight.dimension is None:
            return self._stretch(weight, kind, 0, start, length)
        if ranks == self._ranks:
            return self._stretch(weight, kind, rank, start, length)
        return weight.cut(self.whole(name, kind), rank, ranks).reshape(-1)[start : start + length]

    def _share(self, weight: Weight, kind: str, rank: int) -> torch.Tensor:
        shape = weight.local_shape(self._ranks)
        return self._stretch(weight, kind, rank, 0, torch.Size(shape).numel()).view(shape)

    def _stretch(self, weight: Weight, kind: str, rank: int, start: int, length: int) -> torch.Tensor:
        out, filled = torch.empty(length), 0
        for entry in self._holders.get(weight.name, ()):
            begin, count = entry["fragments"][weight.name]
            low, high = max(begin, start), min(begin + count, start + length)
            if entry["tensor_rank"] == rank and low < high:
                held = self._files[entry["file"]].get_slice(f"{kind}/{weight.name}")
                out[low - start : high - start] = held[low - begin : high - begin]
                filled += high - low
        if filled != length:
            raise DataError(
                "A checkpoint does not hold a whole parameter",
                where=f"{self.record['folder']}, {weight.name}",
                why=f"{filled} of {length} values are there",
                remedy="take the checkpoint before it",
            )
        return out


class _Files(dict[str, Any]):
    """Files of a checkpoint, opened when they are first asked for, closed together."""

    def __init__(self, base: str, stack: ExitStack) -> None:
        super().__init__()
        self._base, self._stack = base, stack

    def __missing__(self, name: str) -> Any:
        self[name] = self._stack.enter_context(safe_open(_at_hand(self._base, name), "pt"))
        return self[name]


def _copies(base: str) -> str:
    return storage.scratch_folder("checkpoints", hashlib.blake2b(base.encode(), digest_size=16).hexdigest())


def _at_hand(base: str, name: str) -> str:
    """A local path of a checkpoint's file: itself, or a copy that all ranks of the machine share, fetched by one of them."""
    path = storage.join(base, name)
    if not storage.is_remote(base):
        return str(storage.local_path(path))
    copy = Path(_copies(base), name)
    with open(f"{copy}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not copy.exists():
            moved(f"fetching {name}")
            with storage.fetched(path) as fetched:
                shutil.move(fetched, copy)
    return str(copy)


def forget_copies(base: str) -> None:
    """Remove the machine's copies of a checkpoint in S3, when none of its ranks reads them any more."""
    if storage.is_remote(base):
        shutil.rmtree(_copies(base), ignore_errors=True)


@contextmanager
def open_checkpoint(record: Mapping[str, Any]) -> Iterator[CheckpointReader]:
    """A checkpoint for reading."""
    with ExitStack() as stack:
        yield CheckpointReader(record, _Files(record["folder"], stack))


def verify_files(record: Mapping[str, Any], part: int = 0, parts: int = 1, first: str | None = None) -> None:
    """Compare checksums of every `parts`-th file; where ranks have files of their own, of that.

    Raises:
        DataError: one differs.
    """
    files = record["files"]
    mine = [entry for entry in files if entry["file"] == first]
    if len(files) != parts or not mine:
        mine = files[part::parts]
    for entry in mine:
        moved(f"verifying {entry['file']}")
        found = _checksum(_at_hand(record["folder"], entry["file"]))
        if found != entry["checksum"]:
            raise DataError(
                "A checkpoint is damaged",
                where=storage.join(record["folder"], entry["file"]),
                why=f"its checksum is {found}, its manifest says {entry['checksum']}",
                remedy="the checkpoint before it is taken; look at the disk",
            )


def load_newest(
    engine: Any, folder: str, place: Place, must: bool = False, below: int | None = None
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
            chief = [_whole(base)]
        dist.broadcast_object_list(chief, src=0)
        record = chief[0]
        if record is None:
            continue
        refuse_other(record, place)
        sound = _agreed(partial(verify_files, record, dist.get_rank(), dist.get_world_size(), place.file))
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


def refuse_other(record: Mapping[str, Any], place: Place) -> None:
    """A checkpoint of another training.

    Raises:
        DataError: model, data or mathematics differ, or its decay has begun and this one's has not.
    """
    reason = ""
    ours = {"model": place.model.model_dump(mode="json"), "vocabulary": place.vocabulary, "context": place.context}
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
def _load(engine: Any, record: Mapping[str, Any], place: Place) -> None:
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
