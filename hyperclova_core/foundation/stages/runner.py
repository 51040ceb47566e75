"""The stage runner: fingerprint, reuse, run, conserve, commit, gate, record. Once for all stages.

`plan_stage` is cheap and starts nothing: an orchestrator calls it first and spares a JVM where the output is there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hyperclova_core import __version__
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.datasets.commit import adopted, commit, new_attempt
from hyperclova_core.foundation.datasets.dataset import Dataset, Target, open_dataset
from hyperclova_core.foundation.datasets.manifest import (
    Counters,
    InputReference,
    Manifest,
    Table,
    content_digest,
    read_manifest,
)
from hyperclova_core.foundation.datasets.removal_mark import refuse_marked
from hyperclova_core.foundation.hashing import fingerprint
from hyperclova_core.foundation.stages.content_limits import ContentLimits
from hyperclova_core.foundation.stages.corpus_stages import run_corpus_stage
from hyperclova_core.foundation.stages.document_stages import run_document_stage
from hyperclova_core.foundation.stages.gates import GateConfig, check_gates, passed_before
from hyperclova_core.foundation.stages.kinds import Artifact, Engine, StageContext, StageDefinition
from hyperclova_core.foundation.stages.source_stages import run_source_stage
from hyperclova_core.foundation.stages.units import SourceFile

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageRequest:
    """A stage with all it needs: what to read, how, and where to write (`target` is given the fingerprint)."""

    definition: StageDefinition
    config: Config
    target: Callable[[str], Target]
    inputs: Mapping[str, Dataset] = field(default_factory=dict)
    files: Sequence[SourceFile] = ()
    seed: int = 0
    buckets: int = 1
    limits: ContentLimits = ContentLimits()
    gates: GateConfig | None = None
    docs_folder: str | None = None
    made_by: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StagePlan:
    """What `plan_stage` found out: the stage's identity, where it writes, and whether anything is left to do."""

    request: StageRequest
    fingerprint: str
    target: Target
    committed: bool
    gates_passed: bool

    @property
    def reusable(self) -> bool:
        """Nothing is left to do."""
        return self.committed and self.gates_passed


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: its dataset, whether it was reused (and made by whom), and the seconds it took."""

    dataset: Dataset
    reused: bool
    seconds: float
    taken_over: int = 0
    gate: Mapping[str, Any] | None = None


def input_references(request: StageRequest) -> dict[str, InputReference]:
    """Inputs by name: datasets, and for a source stage its files as a set per source."""
    references = {
        name: InputReference(fingerprint=dataset.manifest.fingerprint, digest=dataset.manifest.digest, uri=dataset.uri)
        for name, dataset in request.inputs.items()
    }
    by_source: dict[str, list[list[str]]] = {}
    for file in request.files:
        by_source.setdefault(file.source, []).append([file.name, file.checksum])
    for source, names in by_source.items():
        identity = fingerprint(sorted(names))
        references[f"files:{source}"] = InputReference(fingerprint=identity, digest=identity)
    return references


def plan_stage(request: StageRequest) -> StagePlan:
    """Identity of the stage's output, and whether it is committed and has passed its gates.

    Raises:
        TransientError: it is about to be removed.
    """
    inputs = {name: reference.fingerprint for name, reference in input_references(request).items()}
    identity = request.definition.fingerprint(request.config, inputs, request.seed, request.buckets, request.limits)
    target = request.target(identity)
    manifest = read_manifest(target.uri)
    if manifest is not None and manifest.fingerprint != identity:
        raise _other_output(target, manifest, request.definition.name)
    committed = manifest is not None
    refuse_marked(target.uri)  # one whose manifest has gone already, too: the rest goes at this moment
    passed = request.gates is None or (committed and passed_before(target.uri, request.gates))
    return StagePlan(request, identity, target, committed, passed)


def _other_output(target: Target, manifest: Manifest, stage: str) -> Exception:
    from hyperclova_core.foundation.errors import ConfigError

    return ConfigError(
        "The output folder holds another dataset",
        where=target.uri,
        why=f"it was written by stage {manifest.stage} from other inputs or another configuration than this run of {stage}",
        remedy="choose another --output, or remove the folder",
    )


def execute(plan: StagePlan, engine: Engine) -> Outcome:
    """Do what the plan says is left: run and commit, or only the gates, or nothing.

    Raises:
        GateError: the output is committed but does not pass; nothing that follows may use it.
        HyperclovaError: the stage failed; nothing is committed, finished units are kept for the next attempt.
    """
    started = time.monotonic()
    reused, taken = plan.committed, 0
    if plan.committed:
        dataset = adopted(open_dataset(plan.target.uri), _made_by(plan.request))
    else:
        try:
            dataset, reused, taken = _run_and_commit(plan, engine)
        except Exception as error:
            # a racing attempt that commits clears what both took over: who comes second may find files gone, and yields
            if read_manifest(plan.target.uri) is None:
                raise
            log.warning("Another attempt committed first; this one had failed: %s", type(error).__name__)
            dataset, reused = open_dataset(plan.target.uri), True
    gate = None
    request = plan.request
    if request.gates is not None and not passed_before(dataset.uri, request.gates):
        docs = request.docs_folder or storage.join(dataset.uri, "gates", "docs")
        gate = check_gates(dataset, request.gates, docs, request.limits)
    return Outcome(dataset, reused, time.monotonic() - started, taken, gate)


def _run_and_commit(plan: StagePlan, engine: Engine) -> tuple[Dataset, bool, int]:
    request, definition = plan.request, plan.request.definition
    attempt = new_attempt()
    context = StageContext(
        definition.name,
        definition.version,
        request.seed,
        request.buckets,
        attempt,
        plan.target,
        plan.fingerprint,
        engine,
        limits=request.limits,
    )
    tables: dict[str, Table]
    info: dict[str, Any] = {}
    taken = 0
    if definition.kind == "source":
        tables, tally, taken = run_source_stage(definition, request.config, request.files, context)
        counters = tally.counters()
    elif definition.kind == "document":
        tables, tally, taken = run_document_stage(definition, request.config, _single(request), context)
        counters = tally.counters()
    elif definition.kind == "corpus":
        tables, tally, info, taken = run_corpus_stage(definition, request.config, request.inputs, context)
        counters = tally.counters()
    else:
        artifact: Artifact = definition.function(request.inputs, request.config, context)
        dataset, reused = commit_artifact(plan, artifact, attempt)
        _clear(context)
        return dataset, reused, 0
    dataset, created = _commit(plan, tables, counters, info, attempt)
    _clear(context)
    return dataset, not created, taken


def _clear(context: StageContext) -> None:
    """Only after the commit: until then the next attempt may still take them over."""
    storage.remove_files(context.scrap.files)
    for folder in context.scrap.folders:
        storage.remove_tree(folder)


def commit_artifact(plan: StagePlan, artifact: Artifact, attempt: str) -> tuple[Dataset, bool]:
    """Commit what an artifact stage (or a GPU job on its behalf) wrote; True when another attempt had been first."""
    tables = {
        name: Table(files=tuple(entries), restricted=name in artifact.restricted)
        for name, entries in artifact.tables.items()
    }
    dataset, created = _commit(plan, tables, artifact.counters, artifact.info, attempt)
    return dataset, not created


def _commit(
    plan: StagePlan, tables: dict[str, Table], counters: Counters, info: dict[str, Any], attempt: str
) -> tuple[Dataset, bool]:
    request = plan.request
    counters.check_conservation(request.definition.name)
    manifest = Manifest(
        stage=request.definition.name,
        stage_version=request.definition.version,
        fingerprint=plan.fingerprint,
        config=request.config.identity(),
        inputs=input_references(request),
        tables=tables,
        counters=counters,
        digest=content_digest(tables, counters),
        buckets=request.buckets,
        restricted_folder=plan.target.restricted_folder,
        info=info,
    )
    return commit(plan.target, manifest, attempt, _made_by(request))


def _made_by(request: StageRequest) -> dict[str, Any]:
    return {"code_version": __version__, **request.made_by}


def _single(request: StageRequest) -> Dataset:
    (dataset,) = request.inputs.values()
    return dataset
