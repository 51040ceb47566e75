"""Lineage events: kept on disk first, delivered to MLflow when it can be reached, each exactly once.

One MLflow parent run a run of the recipe, one nested run a stage. A stage that ends writes an event to the outbox;
whoever can reach MLflow delivers all events that wait. So MLflow being down neither fails a stage nor loses a run.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.hashing import digest_parts
from hyperclova_core.foundation.records import Record
from hyperclova_core.foundation.secrets import without_credentials
from hyperclova_core.foundation.storage import disk
from hyperclova_core.foundation.warehouse import RunFolder, Warehouse

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput
    from mlflow.tracking import MlflowClient

EXPERIMENT = "hyperclova"
EVENT_TAG = "hyperclova.event"
RUN_TAG = "hyperclova.run"
DELIVERY_SECONDS = 20
REFUSALS = (
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
)
"""Answers of MLflow itself that another try would get again: such an event must not hold up those behind it. What a proxy
before it answers (403 for want of a login, 502, …) is not MLflow's word, and permission can be given: events wait."""
CLAIM_SECONDS = 600
PARAMS_AT_ONCE = 100
"""MLflow's own bound of a request."""
BY_TOKENS = ("loss", "validation_loss")
"""Metrics that are logged a second time with tokens as the step, so that MLflow's own charts overlay model sizes."""

log = logging.getLogger(__name__)


class DatasetEntry(Record):
    """A dataset as events name it."""

    name: str
    digest: str
    uri: str
    profile: dict[str, int] = Field(default_factory=dict, description="rows and bytes, where they are known")


class ModelEntry(Record):
    """A model to register: a new version of `name`, with the files of `folder`."""

    name: str
    folder: str
    tags: dict[str, str]


class LineageEvent(Record):
    """What MLflow shall know of a run: of one stage (a nested run), or of the whole (the parent run)."""

    id: str = Field("", description="given when it is kept: the order of delivery, and what makes it arrive once")
    run: str = Field(description="the run's folder name")
    name: str | None = Field(description="the stage's key; None: the event is the parent run's")
    status: str = Field(description="FINISHED, FAILED or RUNNING")
    started: float = Field(description="seconds since 1970")
    ended: float
    params: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    tags: dict[str, str] = Field(default_factory=dict)
    inputs: tuple[DatasetEntry, ...] = ()
    outputs: tuple[DatasetEntry, ...] = ()
    artifacts: tuple[tuple[str, str], ...] = Field((), description="(file or folder, artifact folder)")
    job_folder: str = Field("", description="of a training: its metrics.jsonl says what its own MLflow run may lack")
    job_name: str = ""
    model: ModelEntry | None = None


def whole_run(
    run: RunFolder,
    status: str,
    artifacts: Sequence[tuple[str, str]],
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
) -> LineageEvent:
    """What happened to a run as a whole, until now: an event for its parent run in MLflow."""
    return LineageEvent(
        run=run.name,
        name=None,
        status=status,
        started=run.record().started,
        ended=time.time(),
        metrics=dict(metrics or {}),
        tags=dict(tags or {}),
        artifacts=tuple(artifacts),
    )


def record_event(warehouse: Warehouse, event: LineageEvent) -> None:
    """Keep an event for delivery."""
    order = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
    kept = event.model_copy(update={"id": order}).model_dump(mode="json")
    storage.write_json(storage.join(warehouse.uri, "lineage", "outbox", f"{order}.json"), kept)


def deliver(warehouse: Warehouse) -> int:
    """Deliver what waits in the outbox, oldest first; how many were delivered. Never raises for an MLflow that is away."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    outbox = storage.join(warehouse.uri, "lineage", "outbox")
    if not uri or not storage.list_names(outbox):
        return 0
    client = connect(uri)
    from mlflow.exceptions import MlflowException

    delivered = 0
    with _locked(storage.join(warehouse.uri, "lineage", "lock")):
        for name in storage.list_names(outbox):
            if not _claimed(warehouse, name):
                continue
            try:
                event = LineageEvent.model_validate(storage.read_json(storage.join(outbox, name)))
            except FileNotFoundError:
                _release(warehouse, name)  # another machine has delivered it since it was listed
                continue
            except (DataError, ValidationError) as error:
                log.error("A lineage event cannot be read, kept in lineage/refused/%s: %s", name, type(error).__name__)
                _move(warehouse, name, "refused")
                continue
            try:
                _deliver_one(client, warehouse, event)
            except (MlflowException, OSError) as error:
                reason = without_credentials(str(error).splitlines()[0])
                if not _refused(error, uri):
                    _release(warehouse, name)
                    log.warning(
                        "%d lineage events wait, MLflow cannot be reached: %s", len(storage.list_names(outbox)), reason
                    )
                    return delivered
                log.error("MLflow refuses a lineage event, kept in lineage/refused/%s: %s", name, reason)
                _move(warehouse, name, "refused")
                continue
            _move(warehouse, name, "sent")
            delivered += 1
    return delivered


def _refused(error: Exception, uri: str) -> bool:
    from mlflow.exceptions import RestException

    own_word = isinstance(error, RestException) or not uri.startswith("http")
    return own_word and getattr(error, "error_code", "") in REFUSALS


def _claimed(warehouse: Warehouse, name: str) -> bool:
    """Between machines (on one, a lock does it) who makes the claim delivers. A claim left by a killed process lapses: the next one has the next
    number, and is made once, so that of many who see it lapsed one takes it over."""
    if not storage.is_remote(warehouse.uri):
        return True
    claims = _claims(warehouse, name)
    if not claims:
        return _claim(warehouse, name, 0)
    try:
        stale = abs(time.time() - float(storage.read_bytes(claims[-1]))) > CLAIM_SECONDS
    except FileNotFoundError:
        return False
    return stale and _claim(warehouse, name, int(claims[-1].rpartition("/")[2]) + 1)


def _claim(warehouse: Warehouse, name: str, number: int) -> bool:
    path = storage.join(warehouse.uri, "lineage", "claims", name, f"{number:06d}")
    return storage.create_once(path, str(time.time()).encode())


def _claims(warehouse: Warehouse, name: str) -> list[str]:
    folder = storage.join(warehouse.uri, "lineage", "claims", name)
    return [storage.join(folder, number) for number in storage.list_names(folder)]


def _release(warehouse: Warehouse, name: str) -> None:
    if storage.is_remote(warehouse.uri):
        for claim in _claims(warehouse, name):
            storage.remove(claim)


def _move(warehouse: Warehouse, name: str, folder: str) -> None:
    waiting = storage.join(warehouse.uri, "lineage", "outbox", name)
    storage.write_bytes(storage.join(warehouse.uri, "lineage", folder, name), storage.read_bytes(waiting))
    storage.remove(waiting)
    _release(warehouse, name)


def connect(uri: str) -> MlflowClient:
    """A client that gives up within seconds when the server is away."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(DELIVERY_SECONDS))
    os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _artifacts(warehouse: str) -> str | None:
    """Where artifacts go: as the server says; without a server into the warehouse, not into the current folder."""
    served = os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http")
    if served:
        return None
    place = storage.normalized(storage.absolute(warehouse))
    return f"{place}/mlflow-artifacts" if storage.is_remote(place) else f"file://{place}/mlflow-artifacts"


def _experiment(client: MlflowClient, name: str, place: str | None) -> str:
    """The id of an experiment, which whoever comes first makes."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=place))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    return str(found.experiment_id)


def parent_run(client: MlflowClient, run: RunFolder) -> tuple[str, str]:
    """(experiment id, parent run id) of a run; made once, however many ask at the same time."""
    path = storage.join(run.uri, "mlflow.json")
    if not storage.exists(path):
        record = run.record()
        experiment_name = record.experiment or EXPERIMENT
        experiment_id = _experiment(client, experiment_name, _artifacts(storage.join(run.uri, "..", "..")))
        tags = {
            RUN_TAG: run.name,
            "hyperclova.recipe": record.recipe_name,
            "hyperclova.code": record.code_version,
            "mlflow.runName": f"{record.recipe_name} {record.run_id}",
            **record.tags,
        }
        known = client.search_runs(
            [experiment_id], f"tags.`{RUN_TAG}` = '{run.name}' and tags.`hyperclova.parent` = 'true'"
        )
        made = (
            known[0]
            if known
            else client.create_run(
                experiment_id, start_time=int(record.started * 1000), tags={**tags, "hyperclova.parent": "true"}
            )
        )
        record_of_it = {"experiment_id": experiment_id, "parent_run_id": made.info.run_id}
        first = storage.create_once(path, storage.pretty_json(record_of_it))
        if not first and not known and storage.read_json(path)["parent_run_id"] != made.info.run_id:
            client.delete_run(made.info.run_id)  # another machine was first: theirs is the parent
    ids = storage.read_json(path)
    return str(ids["experiment_id"]), str(ids["parent_run_id"])


def _deliver_one(client: MlflowClient, warehouse: Warehouse, event: LineageEvent) -> None:
    from mlflow.entities import Metric, Param, RunTag

    experiment, parent = parent_run(client, warehouse.run(event.run))
    if event.name is None:
        target = parent
    elif event.job_folder and storage.exists(storage.join(event.job_folder, "metrics.jsonl")):
        target = _finish_history(client, event, experiment, parent)
    else:
        known = client.search_runs([experiment], f"tags.`{EVENT_TAG}` = '{event.id}'")
        if known:
            target = known[0].info.run_id
        else:
            tags = {"mlflow.parentRunId": parent, "mlflow.runName": event.name, EVENT_TAG: event.id, **event.tags}
            target = client.create_run(experiment, start_time=int(event.started * 1000), tags=tags).info.run_id
    # a clock that was set back in between must not make a run that ends before it begins
    stamp = int(max(event.started, event.ended) * 1000)
    client.log_batch(
        target,
        metrics=[Metric(key, value, stamp, 0) for key, value in event.metrics.items()],
        tags=[RunTag(key, value) for key, value in event.tags.items()],
    )
    params = [Param(f"stage.{key}", value[:6000]) for key, value in event.params.items()]
    for start in range(0, len(params), PARAMS_AT_ONCE):
        client.log_batch(target, params=params[start : start + PARAMS_AT_ONCE])
    datasets = [*_datasets(event.inputs, "input"), *_datasets(event.outputs, "output")]
    if datasets:
        client.log_inputs(target, datasets=datasets)
    for path, folder in event.artifacts:
        _log_artifact(client, target, path, folder)
    if event.model is not None:
        _register_model(client, target, event.model)
    if event.status == "RUNNING":
        client.update_run(target, status="RUNNING")
    else:
        client.set_terminated(target, status=event.status, end_time=stamp)


def _log_artifact(client: MlflowClient, run_id: str, path: str, folder: str) -> None:
    """A file or a folder of files; one that is gone (a clean-up came first) is left out."""
    if storage.is_remote(path) and not storage.is_file(path):
        with storage.local_folder(path, publish=False) as copy:
            client.log_artifacts(run_id, copy, folder)
    elif storage.is_file(path):
        client.log_artifact(run_id, storage.localized(path), folder or None)
    elif storage.exists(path):
        client.log_artifacts(run_id, path, folder)


def _finish_history(client: MlflowClient, event: LineageEvent, experiment: str, parent: str) -> str:
    """The run that a training made itself (or one for it, if MLflow was away then), with the rows it could not send."""
    delivery = storage.join(event.job_folder, "mlflow.json")
    if not storage.exists(delivery):
        tags = {"mlflow.parentRunId": parent, "mlflow.runName": event.job_name or event.name}
        made = client.create_run(experiment, start_time=int(event.started * 1000), tags=tags).info.run_id
        storage.write_json(delivery, {"run_id": made, "rows": 0})
    record = storage.read_json(delivery)
    rows = [
        json.loads(line) for line in storage.read_bytes(storage.join(event.job_folder, "metrics.jsonl")).splitlines()
    ]
    if len(rows) > record["rows"]:
        send_rows(client, record["run_id"], rows[record["rows"] :])
        storage.write_json(delivery, {**record, "rows": len(rows)})
    return str(record["run_id"])


def _register_model(client: MlflowClient, run_id: str, model: ModelEntry) -> None:
    """A new version of the registered model, with the weights as the run's artifact; once a digest."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(model.name)
    except MlflowException:
        client.create_registered_model(model.name)
    known = client.search_model_versions(f"name = '{model.name}' and run_id = '{run_id}'")
    if not known:
        _log_artifact(client, run_id, model.folder, "model")
        source = f"{client.get_run(run_id).info.artifact_uri}/model"
        client.create_model_version(model.name, source, run_id=run_id, tags=model.tags)


def send_rows(client: MlflowClient, run_id: str, rows: list[dict[str, Any]]) -> None:
    """Log rows of a `metrics.jsonl` to an MLflow run, in batches below its limit of 1,000 metrics."""
    from mlflow.entities import Metric

    metrics = []
    for row in rows:
        for key, value in row.items():
            if key in ("step", "time"):
                continue
            metrics.append(Metric(key, value, row["time"], row["step"]))
            if key in BY_TOKENS:
                metrics.append(Metric(f"{key}_by_tokens", value, row["time"], row["tokens"]))
    for start in range(0, len(metrics), 900):
        client.log_batch(run_id, metrics=metrics[start : start + 900])


def _datasets(entries: Sequence[DatasetEntry], context: str) -> Iterator[DatasetInput]:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    for entry in entries:
        dataset = Dataset(
            name=entry.name,
            digest=entry.digest,
            source_type="s3" if storage.is_remote(entry.uri) else "local",
            source=json.dumps({"uri": entry.uri}),
            profile=json.dumps(entry.profile),
        )
        yield DatasetInput(dataset, tags=[InputTag("mlflow.data.context", context)])


@contextmanager
def _locked(uri: str) -> Iterator[None]:
    if storage.is_remote(uri):  # between machines, claims do it
        path = Path(storage.scratch_folder("locks"), f"{digest_parts(uri)}.lock")
    else:
        path = storage.local_path(uri)
        storage.make_folder(str(path.parent))
    with disk.one_at_a_time(path):
        yield
