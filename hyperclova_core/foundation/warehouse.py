"""The warehouse: where datasets, runs, references and the lineage outbox lie.

```
warehouse/
  datasets/STAGE/FINGERPRINT/     committed datasets
  restricted/STAGE/FINGERPRINT/   raw, rejected, quarantined and not yet de-identified data, unless HYPERCLOVA_RESTRICTED says another place
  runs/RUN/                       the recipe as it ran, what each stage ended with, Data Docs, job folders
  refs/                           names that keep things alive: releases, runs kept, models
  lineage/                        events for MLflow: outbox (not yet delivered) and sent
```
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

from pydantic import Field, ValidationError

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.dataset import Dataset, Target, open_dataset
from hyperclova_core.foundation.datasets.manifest import Counters
from hyperclova_core.foundation.errors import ConfigError, DataError
from hyperclova_core.foundation.hashing import digest_parts
from hyperclova_core.foundation.records import Record
from hyperclova_core.foundation.secrets import without_credentials
from hyperclova_core.foundation.storage import restricted


@dataclass(frozen=True)
class Beside:
    """What a night is compared with: datasets, by address.

    Attributes:
        history: the index of near-duplicates of the nights before; "": none.
        tombstones: lists of documents that were removed for good.
    """

    history: str = ""
    tombstones: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunRecord:
    """What a run is about, as it was prepared.

    Attributes:
        recipe: the whole recipe as data, as it runs.
        sizes: models of its ladder that are trained.
        kind: `pretrain`, or `refresh`: a night.
        only_files: checksums of the source files that it reads; None: all.
        started: seconds since 1970; started_at says it for people.
        experiment: in MLflow; "": the platform's.
        tags: further ones of its parent run in MLflow.
    """

    run_id: str
    recipe: Mapping[str, Any]
    sizes: tuple[str, ...] = ()
    kind: str = "pretrain"
    only_files: tuple[str, ...] | None = None
    beside: Beside = Beside()
    code_version: str = ""
    started_at: str = ""
    started: float = 0.0
    experiment: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def recipe_name(self) -> str:
        """The recipe's own name."""
        return str(self.recipe["name"])

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> RunRecord:
        """A record as `run.json` has it.

        Raises:
            DataError: it is not one.
        """
        try:
            beside = Beside(**{key: _frozen(value) for key, value in (data.get("beside") or {}).items()})
            return cls(**{**{key: _frozen(value) for key, value in data.items()}, "beside": beside})
        except TypeError as error:
            raise DataError(
                "The record of this run is not one that this version writes",
                where=where,
                why=str(error),
                remedy="start the run anew: what its stages made is reused",
            ) from error


class StageResult(Record):
    """How a stage of a run ended."""

    stage: str
    key: str = Field("", description="its task's name: the stage's, or `train-SIZE`")
    uri: str = Field(description="of its dataset")
    fingerprint: str = ""
    digest: str = ""
    reused: bool = Field(False, description="the dataset was there before")
    made_by: str = Field("", description="the run that made it; empty outside Airflow")
    made_at: str = Field("", description="when it was committed")
    seconds: float = 0.0
    taken_over_units: int = Field(0, description="finished units of a killed attempt that were used")
    counters: Counters = Counters()
    result: dict[str, Any] | None = Field(None, description="what a training or an evaluation says of itself")
    ended_at: str = ""

    @property
    def dropped(self) -> int:
        """Documents that fell out, or could not be read."""
        return sum(self.counters.rejected.values()) + sum(self.counters.quarantined.values())


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True)
class Warehouse:
    """A folder with the layout above."""

    uri: str

    def target(self, stage: str, fingerprint: str) -> Target:
        """Where a stage's output of this identity lies.

        Raises:
            ConfigError: HYPERCLOVA_RESTRICTED is another warehouse's.
        """
        within = f"../../../{restricted.FOLDER}"
        if (elsewhere := restricted.root()) is not None:
            claim_restricted(elsewhere, storage.absolute(self.uri))
            within = restricted.SCHEME.rstrip("/") + "/"
        return Target(storage.join(self.uri, "datasets", stage, fingerprint), f"{within}/{stage}/{fingerprint}")

    def restricted_roots(self) -> tuple[str, ...]:
        """Below which restricted data of its datasets lies, as STAGE/FINGERPRINT: what was made before HYPERCLOVA_RESTRICTED was set stays.

        Raises:
            ConfigError: HYPERCLOVA_RESTRICTED is another warehouse's.
        """
        inside = storage.join(self.uri, restricted.FOLDER)
        elsewhere = restricted.root()
        if elsewhere is None:
            return (inside,)
        claim_restricted(elsewhere, storage.absolute(self.uri))
        return (inside, elsewhere)

    def run(self, run_id: str) -> RunFolder:
        """The records of one run."""
        return RunFolder(storage.join(self.uri, "runs", safe_name(run_id)))

    def set_reference(self, name: str, value: dict[str, Any]) -> None:
        """Let a name point at something that must stay."""
        storage.write_json(storage.join(self.uri, "refs", f"{name}.json"), value)

    def reference(self, name: str) -> dict[str, Any] | None:
        """What a name points at."""
        path = storage.join(self.uri, "refs", f"{name}.json")
        if not storage.exists(path):
            return None
        value: dict[str, Any] = storage.read_json(path)
        return value


@dataclass(frozen=True)
class RunFolder:
    """Records of one run of a recipe: written once, or replaced atomically by the one task they belong to."""

    uri: str

    @property
    def name(self) -> str:
        """The run's name in the warehouse."""
        return self.uri.rsplit("/", 1)[-1]

    def create(self, record: RunRecord) -> RunRecord:
        """Record what the run is about; a retry gets what was recorded first."""
        storage.create_once(storage.join(self.uri, "run.json"), storage.pretty_json(asdict(record)))
        return self.record()

    def record(self) -> RunRecord:
        """What `create` recorded.

        Raises:
            DataError: there is no such run, or another version recorded it.
        """
        path = storage.join(self.uri, "run.json")
        if not storage.exists(path):
            raise DataError(
                "No such run", where=self.uri, why="it has no run.json", remedy="start the run with `prepare` first"
            )
        return RunRecord.from_dict(storage.read_json(path), path)

    def begin_stage(self, key: str, uri: str) -> None:
        """Record where a long stage of this run writes: what changes there is a sign that the run lives."""
        storage.write_json(storage.join(self.uri, "begun", f"{key}.json"), {"uri": uri})

    def finish_stage(self, key: str, result: StageResult) -> None:
        """Record how a stage of this run ended."""
        storage.write_json(storage.join(self.uri, "stages", f"{key}.json"), result.model_dump(mode="json"))

    def stage_result(self, key: str) -> StageResult | None:
        """How a stage of this run ended, or None while it has not.

        Raises:
            DataError: another version recorded it.
        """
        path = storage.join(self.uri, "stages", f"{key}.json")
        return _stage_result(path) if storage.exists(path) else None

    def stage_results(self) -> dict[str, StageResult]:
        """All ended stages by key.

        Raises:
            DataError: another version recorded one.
        """
        names = storage.list_names(storage.join(self.uri, "stages"))
        return {name.removesuffix(".json"): _stage_result(storage.join(self.uri, "stages", name)) for name in names}

    def dataset(self, key: str) -> Dataset:
        """The dataset a stage of this run ended with.

        Raises:
            DataError: the stage has not ended well in this run.
        """
        result = self.stage_result(key)
        if result is None:
            raise DataError(
                f"Stage {key} has not ended in this run",
                where=self.uri,
                why="its result is not recorded",
                remedy=f"run stage {key} first, or clear and re-run it in Airflow",
            )
        return open_dataset(result.uri)


OWNER = "warehouse.json"


@lru_cache
def claim_restricted(root: str, warehouse: str) -> None:
    """Write down, once, whose restricted data lies at an address: a clean-up of one warehouse would take another's for garbage.

    Raises:
        ConfigError: it is another warehouse's.
    """
    path = storage.join(root, OWNER)
    storage.make_folder(root)
    if storage.create_once(path, storage.pretty_json({"warehouse": without_credentials(warehouse)})):
        return
    owner = storage.read_json(path).get("warehouse")
    if owner != without_credentials(warehouse):
        raise ConfigError(
            "Another warehouse's restricted data lies here",
            where=root,
            why=f"it is that of {owner}, and this warehouse is {without_credentials(warehouse)}",
            remedy=f"give each warehouse a {restricted.VARIABLE} of its own; where a warehouse was moved, correct {path}",
        )


def _stage_result(path: str) -> StageResult:
    try:
        return StageResult.model_validate(storage.read_json(path))
    except ValidationError as error:
        raise DataError(
            "The record of this stage is not one that this version writes",
            where=path,
            why="; ".join(f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors()[:3]),
            remedy="start the run anew: what its stages made is reused",
        ) from error


def safe_name(run_id: str) -> str:
    """A run id as a folder name: Airflow's ids hold colons and plus signs."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", run_id).strip("-")
    return plain if plain == run_id else f"{plain[:80]}-{digest_parts(run_id)[:8]}"


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
