"""The runner: reuse, conservation, units that are taken over, gates that stop, kills that cost nothing twice."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from hyperclova_core.corpus.ingest.config import SourceConfig
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.datasets.dataset import Dataset, Target, open_dataset
from hyperclova_core.foundation.errors import ConfigError, DataError, GateError
from hyperclova_core.foundation.stages.engines import LocalEngine
from hyperclova_core.foundation.stages.gates import GateConfig, seeded_sample
from hyperclova_core.foundation.stages.kinds import StageBatch, StageContext, definition_of, document_stage
from hyperclova_core.foundation.stages.runner import StageRequest, execute, plan_stage
from tests.conftest import ingested, write_lines


class KeepConfig(Config):
    """Which share of documents to keep."""

    modulus: int = 2
    lose: bool = False
    fail_in_bucket: int = -1


@document_stage("keep", version="1")
def keep(documents: pa.RecordBatch, config: KeepConfig, context: StageContext) -> StageBatch:
    marks = [int(doc_id[:8], 16) for doc_id in documents.column("doc_id").to_pylist()]
    if any(mark >> 31 == config.fail_in_bucket for mark in marks):
        raise DataError("This unit fails", where="here", why="the test wants it", remedy="none")
    stays = pa.array([mark % config.modulus == 0 for mark in marks])
    dropped = pa.array([mark % config.modulus != 0 for mark in marks])
    rejected = documents.filter(dropped)
    if config.lose:
        rejected = rejected.slice(1)
    return StageBatch(documents.filter(stays), rejected, ["odd"] * rejected.num_rows, [""] * rejected.num_rows)


def request(portal: Dataset, folder: Path, config: KeepConfig, gates: GateConfig | None = None) -> StageRequest:
    return StageRequest(
        definition_of(keep),
        config,
        lambda _: Target(str(folder)),
        {"documents": portal},
        buckets=2,
        gates=gates,
        made_by={"run": "r1"},
    )


def test_an_unchanged_stage_is_reused_and_says_by_whom_it_was_made(portal: Dataset, tmp_path: Path) -> None:
    plan = plan_stage(request(portal, tmp_path, KeepConfig()))
    assert not plan.reusable
    first = execute(plan, LocalEngine())
    again = plan_stage(request(portal, tmp_path, KeepConfig()))
    assert again.reusable
    second = execute(again, LocalEngine())
    assert second.reused
    assert second.dataset.attempt["run"] == "r1"
    assert second.dataset.manifest == first.dataset.manifest
    counters = first.dataset.manifest.counters
    assert counters.rows_in == counters.kept + counters.rejected["odd"] == portal.table("documents").rows
    assert first.dataset.table("rejected").rows == counters.rejected["odd"]


def test_another_configuration_does_not_overwrite_an_output(portal: Dataset, tmp_path: Path) -> None:
    execute(plan_stage(request(portal, tmp_path, KeepConfig())), LocalEngine())
    with pytest.raises(ConfigError, match="another dataset"):
        plan_stage(request(portal, tmp_path, KeepConfig(modulus=3)))


def test_a_stage_that_loses_documents_commits_nothing(portal: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not conserve"):
        execute(plan_stage(request(portal, tmp_path, KeepConfig(lose=True))), LocalEngine())
    with pytest.raises(DataError, match="No committed dataset"):
        open_dataset(str(tmp_path))


def test_finished_units_are_taken_over_by_the_next_attempt(portal: Dataset, tmp_path: Path) -> None:
    class Dies(LocalEngine):
        def map_units(self, function, units, answer):  # type: ignore[no-untyped-def]
            function(units[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(plan_stage(request(portal, tmp_path / "killed", KeepConfig())), Dies())
    resumed = execute(plan_stage(request(portal, tmp_path / "killed", KeepConfig())), LocalEngine())
    clean = execute(plan_stage(request(portal, tmp_path / "clean", KeepConfig())), LocalEngine())
    assert resumed.taken_over == 1
    assert clean.taken_over == 0
    assert resumed.dataset.manifest.digest == clean.dataset.manifest.digest


def test_an_attempt_that_is_overtaken_yields_to_the_winner(tmp_path: Path) -> None:
    """The winner clears the staged files that both share, while the other is about to read them."""
    from hyperclova_core.corpus.ingest.config import IngestConfig, find_files
    from hyperclova_core.corpus.ingest.stage import ingest
    from tests.conftest import portal_sources

    config = IngestConfig(sources=tuple(portal_sources()[:2]))
    wanted = StageRequest(
        definition_of(ingest), config, lambda _: Target(str(tmp_path / "out")), files=find_files(config), buckets=2
    )

    class Overtaken(LocalEngine):
        phase = 0

        def map_units(self, function, units, answer):  # type: ignore[no-untyped-def]
            self.phase += 1
            if self.phase == 2:
                assert not execute(plan_stage(wanted), LocalEngine()).reused
            return super().map_units(function, units, answer)

    outcome = execute(plan_stage(wanted), Overtaken())
    assert outcome.reused
    outcome.dataset.verify(checksums=True)


def test_a_failing_gate_stops_names_ids_and_shows_no_value(portal: Dataset, tmp_path: Path) -> None:
    strict = GateConfig(forbidden_patterns=(r"010-\d{4}-\d{4}",), max_rejected_share=0.9)
    with pytest.raises(GateError) as caught:
        execute(plan_stage(request(portal, tmp_path, KeepConfig(modulus=1), strict)), LocalEngine())
    assert caught.value.exit_code == 66
    assert "doc_ids" in caught.value.why
    found = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix in (".json", ".html")]
    assert any(path.suffix == ".html" for path in found)
    assert not [path for path in found if b"010-5550-1234" in path.read_bytes()]
    # the output is kept: with thresholds that it meets only the gates run again
    lenient = plan_stage(request(portal, tmp_path, KeepConfig(modulus=1), GateConfig()))
    assert lenient.committed
    assert not lenient.reusable
    assert execute(lenient, LocalEngine()).reused
    assert plan_stage(request(portal, tmp_path, KeepConfig(modulus=1), GateConfig())).reusable


def test_gates_on_counters_say_what_was_found(portal: Dataset, tmp_path: Path) -> None:
    with pytest.raises(GateError, match="rejected_share.*found 0"):
        execute(plan_stage(request(portal, tmp_path, KeepConfig(), GateConfig(max_rejected_share=0.01))), LocalEngine())


def test_units_of_another_configuration_are_not_taken_over(portal: Dataset, tmp_path: Path) -> None:
    """A folder given as --output may hold what a killed run of other settings, or of another stage, left."""
    with pytest.raises(DataError, match="unit fails"):
        execute(plan_stage(request(portal, tmp_path, KeepConfig(fail_in_bucket=1))), LocalEngine())
    outcome = execute(plan_stage(request(portal, tmp_path, KeepConfig(modulus=5))), LocalEngine())
    assert outcome.taken_over == 0
    ids = outcome.dataset.read().column("doc_id").to_pylist()
    assert all(int(doc_id[:8], 16) % 5 == 0 for doc_id in ids)


def test_a_kill_between_the_commit_and_its_record_is_made_good(portal: Dataset, tmp_path: Path) -> None:
    execute(plan_stage(request(portal, tmp_path, KeepConfig())), LocalEngine())
    (tmp_path / "attempt.json").unlink()
    assert open_dataset(str(tmp_path)).attempt == {}
    outcome = execute(plan_stage(request(portal, tmp_path, KeepConfig())), LocalEngine())
    assert outcome.reused
    assert outcome.dataset.attempt["run"] == "r1"
    assert open_dataset(str(tmp_path)).attempt == outcome.dataset.attempt


@pytest.mark.parametrize(
    ("thresholds", "words"),
    [
        ({"min_rows": 10_000}, "kept"),
        ({"max_rejected_share": 0.01}, "rejected_share"),
        ({"max_rejected_share_by_source": 0.01}, "worst_source_rejected_share"),
        ({"min_language_share": {"en": 0.5}}, "en"),
        ({"max_null_share": {"url": 0.0}}, "url"),
        ({"min_source_share": {"news": 0.9}}, "news"),
        ({"max_source_share": {"cafe": 0.01}}, "cafe"),
        ({"forbidden_patterns": ("니다",)}, "text"),
        ({"max_detected_share": {"hyperclova_core.corpus.deidentify:left_over": 0.0}}, "left_over"),
    ],
)
def test_each_threshold_stops_what_is_beyond_it(
    portal: Dataset, tmp_path: Path, thresholds: dict[str, object], words: str
) -> None:
    wanted = GateConfig.model_validate({"min_rows": 0, **thresholds})
    with pytest.raises(GateError) as error:
        execute(plan_stage(request(portal, tmp_path, KeepConfig(), wanted)), LocalEngine())
    assert words in error.value.why
    assert "010-5550" not in error.value.message()
    assert execute(plan_stage(request(portal, tmp_path, KeepConfig(), GateConfig())), LocalEngine()).reused


def test_a_sample_reads_few_files_and_more_only_where_they_hold_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": str(n), "text": f"문서 {n} 번의 글입니다."} for n in range(2000)]
    path = write_lines(tmp_path / "in.jsonl", rows)
    made = ingested(tmp_path / "out", SourceConfig(name="blog", paths=(str(path),)), buckets=64)
    opened: list[str] = []
    original = storage.open_parquet
    monkeypatch.setattr(storage, "open_parquet", lambda uri: opened.append(uri) or original(uri))
    sample = seeded_sample(made, 200)
    assert len(opened) == 16
    assert 200 <= sample.num_rows <= 16 * 13
    assert sample.column("doc_id").to_pylist() == seeded_sample(made, 200).column("doc_id").to_pylist()
    opened.clear()
    assert seeded_sample(made, 5000).num_rows == 2000, "all there are"
    assert len(opened) == 64
