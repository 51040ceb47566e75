"""Gates: Great Expectations suites over a stage's counters and a seeded sample of what it kept.

doc_id is a hash, so the first rows of the bucket files are a random sample that depends on nothing else; no second
pass over the data is made. Results never hold raw values: only counts and the doc_ids of failing rows.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import re
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
from pydantic import Field, field_validator

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.datasets.dataset import Dataset
from hyperclova_core.foundation.datasets.manifest import Counters
from hyperclova_core.foundation.errors import GateError
from hyperclova_core.foundation.hashing import fingerprint
from hyperclova_core.foundation.stages.content_limits import ContentLimits
from hyperclova_core.foundation.stages.guarded_sample import counted, matches

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

VERSION = "3"
NAMED_ROWS = 20


class GateConfig(Config):
    """Thresholds of one stage. Shares are of the rows that came in, 0 to 1."""

    min_rows: int = Field(1, ge=0, description="documents kept, at least")
    max_rejected_share: float = Field(1.0, ge=0, le=1)
    max_quarantined_share: float = Field(0.05, ge=0, le=1)
    max_rejected_share_by_source: float = Field(1.0, ge=0, le=1)
    min_language_share: dict[str, float] = Field(
        default_factory=dict, description="language → share of the sample, at least"
    )
    max_null_share: dict[str, float] = Field(default_factory=dict, description="column → share of the sample, at most")
    forbidden_patterns: tuple[str, ...] = Field(
        (), description="regular expressions that no text of the sample may match"
    )
    min_source_share: dict[str, float] = Field(
        default_factory=dict, description="source → share of the kept documents, at least"
    )
    max_source_share: dict[str, float] = Field(
        default_factory=dict, description="source → share of the kept documents, at most"
    )
    max_detected_share: dict[str, float] = Field(
        default_factory=dict,
        description="detector (`hyperclova_core.module:function`, texts → finds a text) → share of the sample, at most",
    )
    sample_rows: int = Field(1000, ge=1)

    @field_validator("forbidden_patterns")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return value

    @field_validator("max_detected_share")
    @classmethod
    def _own_detectors(cls, value: dict[str, float]) -> dict[str, float]:
        """A recipe is data: it may name the platform's detectors, not any code that can be imported."""
        for name in value:
            if not re.fullmatch(r"hyperclova_core(\.\w+)+:\w+", name):
                raise ValueError(f"{name} is no detector of this platform (hyperclova_core.module:function)")
        return value


def gate_identity(config: GateConfig) -> str:
    """Identity of thresholds: a dataset that passed them need not be tried again."""
    return fingerprint({"version": VERSION, **config.model_dump(mode="json")})


def passed_before(dataset_uri: str, config: GateConfig) -> bool:
    """Whether the committed dataset has passed exactly these thresholds."""
    return storage.exists(storage.join(dataset_uri, "gates", f"{gate_identity(config)}.json"))


def check_gates(
    dataset: Dataset,
    config: GateConfig,
    docs_folder: str,
    limits: ContentLimits = ContentLimits(),  # noqa: B008 - a value
) -> dict[str, Any]:
    """Evaluate a stage's gates, add them to the Data Docs in `docs_folder`, and record that they passed.

    Raises:
        GateError: naming each failed expectation and the doc_ids of failing rows.
    """
    with storage.local_folder(docs_folder) as folder:
        results = _evaluate(dataset, config, folder, limits)
    failed = [result for result in results if not result["success"]]
    summary = {"expectations": len(results), "failed": len(failed), "results": results}
    if failed:
        storage.write_json(storage.join(docs_folder, f"{dataset.manifest.stage}.json"), summary)
        raise GateError(
            f"Stage {dataset.manifest.stage} does not pass its gates",
            where=dataset.uri,
            why="; ".join(_explain(result) for result in failed),
            remedy="look at the Data Docs, correct the input, or change the thresholds under `gates` in the recipe"
            " (the stage's output is kept: only the gates run again)",
        )
    storage.create_once(
        storage.join(dataset.uri, "gates", f"{gate_identity(config)}.json"),
        storage.pretty_json({"config": config.model_dump(mode="json"), **summary}),
    )
    return summary


def counters_row(counters: Counters) -> dict[str, float]:
    """The numbers that thresholds speak of."""
    rows = max(1, counters.rows_in)
    shares = [
        counts.get("rejected", 0) / counts["in"]
        for counts in counters.by_source.values()
        if counts.get("in", 0) >= NAMED_ROWS
    ]
    return {
        "rows_in": counters.rows_in,
        "kept": counters.kept,
        "rejected_share": sum(counters.rejected.values()) / rows,
        "quarantined_share": sum(counters.quarantined.values()) / rows,
        "worst_source_rejected_share": max(shares, default=0.0),
    }


SAMPLED = ("doc_id", "text", "source", "language")
SAMPLED_FILES = 16


def seeded_sample(dataset: Dataset, rows: int, more: tuple[str, ...] = ()) -> pa.Table:
    """About `rows` documents: the smallest ids of some buckets; `more` names further columns.

    A row group is read of each file, so as few are opened as hold enough: `SAMPLED_FILES` that lie evenly apart, and others only where those
    hold too little. An id is a hash: a bucket is as random as the next.
    """
    columns = list(dict.fromkeys([*SAMPLED, *more]))
    files = dataset.files()
    first = (
        [files[at * len(files) // SAMPLED_FILES] for at in range(SAMPLED_FILES)]
        if len(files) > SAMPLED_FILES
        else files
    )
    each, held, parts = -(-rows // max(1, len(first))), 0, []
    for path in [*first, *sorted(set(files) - set(first))]:
        if held >= rows:
            break
        with storage.open_parquet(path) as file:
            batch = next(file.iter_batches(batch_size=each, columns=columns), None)
        if batch is not None:
            parts.append(pa.Table.from_batches([batch]))
            held += batch.num_rows
    return pa.concat_tables(parts) if parts else pa.table({name: pa.array([], pa.string()) for name in columns})


def _evaluate(dataset: Dataset, config: GateConfig, docs_folder: str, limits: ContentLimits) -> list[dict[str, Any]]:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    import pandas as pd

    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    stage, counters = dataset.manifest.stage, counters_row(dataset.manifest.counters)
    suites: list[tuple[str, pd.DataFrame, list[Expectation]]] = [
        (f"{stage}.counters", pd.DataFrame([counters]), _counter_expectations(config))
    ]
    if "documents" in dataset.manifest.tables:
        sample = seeded_sample(dataset, config.sample_rows, tuple(sorted(config.max_null_share)))
        suites[0][1]["sample_rows"] = sample.num_rows
        suites[0][2].extend(_share_expectations(config, sample, suites[0][1]))
        suites[0][2].extend(_source_expectations(config, dataset.manifest.counters, suites[0][1]))
        if sample.num_rows:
            frame = sample.to_pandas()
            texts = sample.column("text").combine_chunks().cast(pa.string())
            for number, name in enumerate(sorted(config.max_detected_share)):
                frame[_detected(number, name)] = counted(_detector(name), texts, limits)
            for pattern in config.forbidden_patterns:
                frame[_matching(pattern)] = counted(partial(matches, pattern), texts, limits)
            suites.append((f"{stage}.sample", frame, _sample_expectations(config)))
    results: list[dict[str, Any]] = []
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        context = gx.get_context(mode="file", project_root_dir=docs_folder)
        context.variables.progress_bars = {"globally": False, "metric_calculations": False}  # type: ignore[assignment]
        source = context.data_sources.add_or_update_pandas("stages")
        for name, frame, expectations in suites:
            batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
            suite = context.suites.add_or_update(gx.ExpectationSuite(name=name, expectations=expectations))
            definition = context.validation_definitions.add_or_update(
                gx.ValidationDefinition(name=name, data=batch, suite=suite)
            )
            checkpoint = context.checkpoints.add_or_update(
                gx.Checkpoint(
                    name=name,
                    validation_definitions=[definition],
                    result_format={
                        "result_format": "COMPLETE",
                        "exclude_unexpected_values": True,
                        **({"unexpected_index_column_names": ["doc_id"]} if name.endswith(".sample") else {}),
                    },
                )
            )
            outcome = checkpoint.run(batch_parameters={"dataframe": frame})
            for run in outcome.run_results.values():
                results.extend(_plain(name, result.to_json_dict()) for result in run.results)
        context.build_data_docs()
    return results


def _counter_expectations(config: GateConfig) -> list[Expectation]:
    from great_expectations import expectations as gxe

    return [
        gxe.ExpectColumnMaxToBeBetween(column="kept", min_value=config.min_rows),
        gxe.ExpectColumnMaxToBeBetween(column="rejected_share", max_value=config.max_rejected_share),
        gxe.ExpectColumnMaxToBeBetween(column="quarantined_share", max_value=config.max_quarantined_share),
        gxe.ExpectColumnMaxToBeBetween(
            column="worst_source_rejected_share", max_value=config.max_rejected_share_by_source
        ),
    ]


def _share_expectations(config: GateConfig, sample: pa.Table, row: Any) -> list[Expectation]:
    from great_expectations import expectations as gxe

    languages = sample.column("language").to_pylist()
    expectations: list[Expectation] = []
    for language, share in sorted(config.min_language_share.items()):
        column = f"language_share_{language}"
        row[column] = languages.count(language) / max(1, len(languages))
        expectations.append(gxe.ExpectColumnMaxToBeBetween(column=column, min_value=share))
    return expectations


def _source_expectations(config: GateConfig, counters: Counters, row: Any) -> list[Expectation]:
    from great_expectations import expectations as gxe

    kept = {source: counts.get("kept", 0) for source, counts in counters.by_source.items()}
    total = max(1, sum(kept.values()))
    expectations: list[Expectation] = []
    for source in sorted({*config.min_source_share, *config.max_source_share}):
        column = f"source_share_{source}"
        row[column] = kept.get(source, 0) / total
        expectations.append(
            gxe.ExpectColumnMaxToBeBetween(
                column=column,
                min_value=config.min_source_share.get(source, 0.0),
                max_value=config.max_source_share.get(source, 1.0),
            )
        )
    return expectations


def _detected(number: int, name: str) -> str:
    return f"detected_{number}_{name.rpartition(':')[2]}"


def _matching(pattern: str) -> str:
    return f"text matching {pattern}"


def _detector(name: str) -> Callable[[list[str]], list[int]]:
    module, _, function = name.partition(":")
    return cast(Callable[[list[str]], list[int]], getattr(importlib.import_module(module), function))


def _sample_expectations(config: GateConfig) -> list[Expectation]:
    from great_expectations import expectations as gxe

    expectations: list[Expectation] = [
        gxe.ExpectColumnValuesToBeUnique(column="doc_id"),
        gxe.ExpectColumnValuesToMatchRegex(column="doc_id", regex=r"^[0-9a-f]{32}$"),
        gxe.ExpectColumnValuesToNotBeNull(column="text"),
        gxe.ExpectColumnValueLengthsToBeBetween(column="text", min_value=1),
    ]
    expectations.extend(
        gxe.ExpectColumnValuesToBeInSet(column=_matching(pattern), value_set=[0])
        for pattern in config.forbidden_patterns
    )
    expectations.extend(
        gxe.ExpectColumnValuesToBeInSet(column=_detected(number, name), value_set=[0], mostly=1 - share)
        for number, (name, share) in enumerate(sorted(config.max_detected_share.items()))
    )
    expectations.extend(
        gxe.ExpectColumnValuesToNotBeNull(column=column, mostly=1 - share)
        for column, share in sorted(config.max_null_share.items())
    )
    return expectations


def _plain(suite: str, result: dict[str, Any]) -> dict[str, Any]:
    kwargs = {key: value for key, value in result["expectation_config"]["kwargs"].items() if key != "batch_id"}
    detail = result.get("result", {})
    rows = [item["doc_id"] for item in detail.get("unexpected_index_list") or [] if "doc_id" in item]
    ids = [doc_id for row in rows for doc_id in (row if isinstance(row, list) else [row])]
    return {
        "suite": suite,
        "expectation": result["expectation_config"]["type"],
        "kwargs": kwargs,
        "success": bool(result["success"]),
        "observed": detail.get("observed_value"),
        "unexpected": detail.get("unexpected_count", 0),
        "doc_ids": ids[:NAMED_ROWS],
        "error": (result.get("exception_info") or {}).get("exception_message"),
    }


def _explain(result: dict[str, Any]) -> str:
    limits = ", ".join(
        f"{key} {value}" for key, value in sorted(result["kwargs"].items()) if key != "column" and value is not None
    )
    text = (
        f"{result['kwargs'].get('column', result['suite'])}: {result['expectation'].removeprefix('expect_')}({limits})"
    )
    if result["observed"] is not None:
        text += (
            f", found {result['observed']:.4g}"
            if isinstance(result["observed"], float)
            else f", found {result['observed']}"
        )
    if result["doc_ids"]:
        text += f", doc_ids {', '.join(result['doc_ids'])}"
    return text + (f" ({result['error']})" if result["error"] else "")
