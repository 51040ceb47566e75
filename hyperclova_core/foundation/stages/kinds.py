"""What a stage is: a pure function with a typed config, a version and a kind. Everything else is the runner's.

Four kinds: *source* (foreign files in, documents out), *document* (each document by itself), *corpus* (documents
compared with one another: narrow decisions out) and *artifact* (something else out).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import pyarrow as pa

from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.datasets.dataset import Target
from hyperclova_core.foundation.datasets.document_schema import DOCUMENT_SCHEMA
from hyperclova_core.foundation.datasets.manifest import Counters, FileEntry, Table
from hyperclova_core.foundation.hashing import fingerprint
from hyperclova_core.foundation.stages.content_limits import ContentLimits
from hyperclova_core.foundation.stages.record_watch import RecordWatch
from hyperclova_core.foundation.stages.units import UnitResult, WorkUnit

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Kind = Literal["source", "document", "corpus", "artifact"]
Unit = TypeVar("Unit", bound=WorkUnit)
Result = TypeVar("Result", bound=UnitResult)


class Engine(Protocol):
    """Runs independent units of work; has a Spark session for those who need one."""

    def map_units(
        self, function: Callable[[Unit], Result], units: Sequence[Unit], answer: type[Result]
    ) -> list[Result]:
        """`function` of every unit, results (of the type `answer`) in the order of the units."""
        ...

    def spark(self) -> SparkSession:
        """The session, started on first use."""
        ...

    def close(self) -> None:
        """End what was started."""
        ...


@dataclass
class Scrap:
    """What lies beside an output for this attempt, and for one that follows a kill: the runner removes it once the output is committed."""

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class StageContext:
    """What a stage may know of its surroundings; travels to workers."""

    stage: str
    version: str
    seed: int
    buckets: int
    attempt: str
    target: Target
    fingerprint: str
    engine: Engine | None = None
    scrap: Scrap = field(default_factory=Scrap)
    documents: int = 0
    """Rows of the input, where a stage is given a frame of them."""
    limits: ContentLimits = ContentLimits()
    watch: RecordWatch = field(default_factory=RecordWatch)
    """Told of each record of a file that is read."""

    @property
    def attempt_path(self) -> str:
        """Where this attempt writes, relative to a table's root."""
        return f"attempts/{self.attempt}"

    def for_workers(self) -> StageContext:
        """The same without the engine, which stays in the driver."""
        return StageContext(
            self.stage,
            self.version,
            self.seed,
            self.buckets,
            self.attempt,
            self.target,
            self.fingerprint,
            limits=self.limits,
        )


@dataclass
class StageBatch:
    """A document stage's answer to one batch. `rejected` is parallel to `reasons` and `details`."""

    kept: pa.RecordBatch
    rejected: pa.RecordBatch
    reasons: list[str]
    details: list[str]
    extras: dict[str, pa.RecordBatch] = field(default_factory=dict)
    custom: dict[str, float] = field(default_factory=dict)


@dataclass
class SourceBatch:
    """Documents read from a file, with what was refused (in columns of REJECTED_SCHEMA) or cannot be read."""

    documents: pa.RecordBatch
    rejected: pa.RecordBatch
    quarantine: pa.RecordBatch


@dataclass(frozen=True)
class Rewrite:
    """How a corpus stage changes the documents it keeps: `module:function`, called in workers with a batch of documents and
    the argument (a JSON value); the batch comes back with the same rows. `identity` names what the argument says: another
    attempt may say the same in other words (a path of its own)."""

    reference: str
    argument: Any
    identity: str


@dataclass
class Decisions:
    """A corpus stage's answer: a frame (of Spark, or a table in memory) of doc_id, keep, reason, detail and the columns to set;
    each document once.

    Attributes:
        extras: small tables to write; `tables` are written already, below the attempt's path.
        additions: bucket → a file with documents that are kept beside those of the input (declared fan-out), sorted.
    """

    frame: DataFrame | pa.Table
    columns: tuple[str, ...]
    extras: dict[str, pa.Table] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    rewrite: Rewrite | None = None
    additions: dict[int, str] = field(default_factory=dict)
    custom: dict[str, float] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)


@dataclass
class Artifact:
    """An artifact stage's answer: files by table, already written below the attempt's path."""

    tables: dict[str, list[FileEntry]]
    counters: Counters = field(default_factory=Counters)
    info: dict[str, Any] = field(default_factory=dict)
    restricted: frozenset[str] = frozenset()


@dataclass(frozen=True)
class StageDefinition:
    """A stage as the runner sees it."""

    name: str
    version: str
    kind: Kind
    function: Callable[..., Any]
    config: type[Config]
    restricted: bool = False
    extras: Mapping[str, pa.Schema] = field(default_factory=dict)
    restricted_extras: frozenset[str] = frozenset()
    project: Callable[..., pa.RecordBatch] | None = None
    project_schema: pa.Schema | None = None
    resources: Callable[..., dict[str, str]] | None = None
    warm_up: Callable[..., object] | None = None

    @property
    def reference(self) -> str:
        """`module:function`, by which workers find the stage again."""
        return f"{self.function.__module__}:{self.function.__qualname__}"

    def fingerprint(
        self,
        config: Config,
        inputs: Mapping[str, str],
        seed: int,
        buckets: int,
        limits: ContentLimits = ContentLimits(),  # noqa: B008 - a value
    ) -> str:
        """Identity of what the stage will write: of its version, config, inputs and every resource it reads, and of limits where they
        are not the platform's own."""
        limited = (
            {}
            if limits == ContentLimits() or self.kind not in ("source", "document")
            else {"limits": limits.identity()}
        )
        return fingerprint(
            {
                **limited,
                "stage": self.name,
                "version": self.version,
                "config": config.identity(),
                "inputs": dict(inputs),
                "seed": seed,
                "buckets": buckets,
                "resources": self.resources(config) if self.resources else {},
            }
        )


Function = TypeVar("Function", bound=Callable[..., Any])


def _declare(function: Function, **parts: Any) -> Function:
    said = function.__annotations__["config"]
    config = said if isinstance(said, type) else getattr(sys.modules[function.__module__], str(said))
    function.stage = StageDefinition(function=function, config=config, **parts)  # type: ignore[attr-defined]
    return function


def source_stage(
    name: str,
    *,
    version: str,
    resources: Callable[..., dict[str, str]] | None = None,
    warm_up: Callable[..., object] | None = None,
) -> Callable[[Function], Function]:
    """Declare a function of (file: SourceFile, config, context) that yields `SourceBatch`es of one foreign file.

    Args:
        warm_up: as for a document stage.
    """

    def declare(function: Function) -> Function:
        return _declare(
            function, name=name, version=version, kind="source", restricted=True, resources=resources, warm_up=warm_up
        )

    return declare


def document_stage(
    name: str,
    *,
    version: str,
    restricted: bool = False,
    extras: Mapping[str, pa.Schema] | None = None,
    restricted_extras: frozenset[str] = frozenset(),
    resources: Callable[..., dict[str, str]] | None = None,
    warm_up: Callable[..., object] | None = None,
) -> Callable[[Function], Function]:
    """Declare a function of (documents: RecordBatch, config, context) that returns a `StageBatch`.

    Args:
        warm_up: given the configuration, loads what the function needs, before processes for documents' content are forked from the
            worker: what those load first counts against the first document.
    """

    def declare(function: Function) -> Function:
        return _declare(
            function,
            name=name,
            version=version,
            kind="document",
            restricted=restricted,
            extras=extras or {},
            restricted_extras=restricted_extras,
            resources=resources,
            warm_up=warm_up,
        )

    return declare


def corpus_stage(
    name: str,
    *,
    version: str,
    restricted: bool = False,
    columns: tuple[str, ...] = (),
    project: Callable[..., pa.RecordBatch] | None = None,
    project_schema: pa.Schema | None = None,
    resources: Callable[..., dict[str, str]] | None = None,
) -> Callable[[Function], Function]:
    """Declare a function of (documents: DataFrame, config, context) that returns `Decisions`.

    The frame holds `columns` of the documents, or what `project` makes of each batch in the Python worker: a text
    never crosses to the JVM, only hashes, keys, numbers and ids do. With neither, the function is given the input datasets
    by role instead, and makes its frames itself.
    """
    if project is None and not columns:
        chosen, chosen_schema = None, None
    elif project is None:
        schema = pa.schema([DOCUMENT_SCHEMA.field(column) for column in columns])

        def select(documents: pa.RecordBatch, config: Config, context: StageContext) -> pa.RecordBatch:
            return documents.select(list(columns))

        chosen, chosen_schema = select, schema
    else:
        assert project_schema is not None
        chosen, chosen_schema = project, project_schema

    def declare(function: Function) -> Function:
        return _declare(
            function,
            name=name,
            version=version,
            kind="corpus",
            restricted=restricted,
            project=chosen,
            project_schema=chosen_schema,
            resources=resources,
        )

    return declare


def artifact_stage(
    name: str, *, version: str, resources: Callable[..., dict[str, str]] | None = None
) -> Callable[[Function], Function]:
    """Declare a function of (inputs: Mapping[str, Dataset], config, context) that returns an `Artifact`."""

    def declare(function: Function) -> Function:
        return _declare(function, name=name, version=version, kind="artifact", resources=resources)

    return declare


def definition_of(function: Callable[..., Any]) -> StageDefinition:
    """The declaration on a stage function."""
    definition = function.stage  # type: ignore[attr-defined]
    assert isinstance(definition, StageDefinition)
    return definition


def load_stage(reference: str) -> StageDefinition:
    """The stage behind `module:function`."""
    return definition_of(load_function(reference))


def load_function(reference: str) -> Callable[..., Any]:
    """The function behind `module:function`."""
    module, _, name = reference.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function
