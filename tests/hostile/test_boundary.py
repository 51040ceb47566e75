"""Whatever a document does to what works on it: it is quarantined with the reason, the others go on with the same bytes."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from hyperclova_core.corpus.deidentify import left_over
from hyperclova_core.corpus.ingest.config import SourceConfig
from hyperclova_core.foundation.datasets.dataset import Dataset, Target
from hyperclova_core.foundation.errors import DataError, GateError
from hyperclova_core.foundation.stages import content_process, guarded_stage
from hyperclova_core.foundation.stages.content_limits import ContentLimits
from hyperclova_core.foundation.stages.engines import LocalEngine, SparkEngine
from hyperclova_core.foundation.stages.gates import GateConfig
from hyperclova_core.foundation.stages.guarded_sample import counted, matches
from hyperclova_core.foundation.stages.kinds import definition_of
from hyperclova_core.foundation.stages.runner import StageRequest, execute, plan_stage
from hyperclova_core.korean.personal_data import find_personal_data, replace_spans
from hyperclova_core.pipeline.stage_requests import DEFAULT_GATES
from tests.conftest import ingested, write_lines
from tests.hostile.stages import HostileConfig, expanding, hostile

LIMITS = ContentLimits(seconds=0.3, seconds_per_mb=1, memory_mb=512)
GOOD = [f"{number}번 문서입니다. 오늘은 날씨가 맑았다." for number in range(40)]
HOSTILE = {
    "spin": "too_slow",
    "fill": "too_much_memory",
    "killed": "too_much_memory",
    "abort": "crashed",
    "leave": "crashed",
    "raise": "crashed",
}


def documents(folder: Path, texts: list[str]) -> Dataset:
    rows = [{"id": str(number), "text": text} for number, text in enumerate(texts)]
    return ingested(
        folder / "in", SourceConfig(name="web", paths=(str(write_lines(folder / "a.jsonl", rows)),)), buckets=1
    )


def run(dataset: Dataset, folder: Path, function: Any = hostile, engine: Any = None, **more: Any) -> Dataset:
    config = HostileConfig(log=more.pop("log", None))
    request = StageRequest(
        definition_of(function),
        config,
        lambda _: Target(str(folder)),
        {"documents": dataset},
        limits=more.pop("limits", LIMITS),
        **more,
    )
    return execute(plan_stage(request), engine or LocalEngine()).dataset


def quarantine_of(dataset: Dataset) -> list[dict[str, Any]]:
    return dataset.read("quarantine").to_pylist() if "quarantine" in dataset.manifest.tables else []


def test_each_way_to_end_a_worker_quarantines_that_document_alone(tmp_path: Path) -> None:
    together = run(documents(tmp_path, [*GOOD, *HOSTILE]), tmp_path / "out")
    rows = {bytes(row["raw"]).decode(): row for row in quarantine_of(together)}
    assert {text: row["reason"] for text, row in rows.items()} == HOSTILE
    assert together.manifest.counters.kept == len(GOOD)
    assert sum(together.manifest.counters.quarantined.values()) == len(HOSTILE)
    assert all("; " in row["detail"] and len(row["location"]) == 32 for row in rows.values())
    assert "raise" not in rows["raise"]["detail"], "an exception's words may be the document's"
    assert rows["raise"]["detail"].startswith("ValueError at stages.py:")


def test_what_is_kept_has_the_bytes_that_it_has_without_the_others(tmp_path: Path) -> None:
    with_others = run(documents(tmp_path / "a", [*GOOD, "spin", "abort"]), tmp_path / "a" / "out")
    alone = run(documents(tmp_path / "b", GOOD), tmp_path / "b" / "out")
    both = [made.manifest.tables["documents"].files[0].digest for made in (with_others, alone)]
    assert both[0] == both[1]
    assert "quarantine" not in alone.manifest.tables


def test_documents_that_are_slow_together_alone_are_kept(tmp_path: Path) -> None:
    made = run(documents(tmp_path, [*GOOD, "이웃 하나", "이웃 둘"]), tmp_path / "out")
    assert made.manifest.counters.kept == len(GOOD) + 2


def test_time_is_that_of_the_processor(tmp_path: Path) -> None:
    made = run(documents(tmp_path, [*GOOD, f"sleep {4 * LIMITS.seconds}"]), tmp_path / "out")
    assert made.manifest.counters.kept == len(GOOD) + 1


def test_what_becomes_too_much_is_quarantined(tmp_path: Path) -> None:
    # to make a hundred megabytes takes longer than LIMITS allow where other processes use the memory, too
    patient = LIMITS.model_copy(update={"seconds": 10.0})
    made = run(documents(tmp_path, [*GOOD, "grow: twenty bytes.."]), tmp_path / "out", expanding, limits=patient)
    assert [row["reason"] for row in quarantine_of(made)] == ["too_much_output"]


def test_a_later_attempt_does_not_wait_for_it_again(tmp_path: Path) -> None:
    """The driver is killed after the document was found; what was found is there."""
    dataset, log = documents(tmp_path, [*GOOD, "spin"]), str(tmp_path / "log")

    class KilledEngine(LocalEngine):
        def map_units(self, function: Any, units: Any, answer: Any) -> Any:
            super().map_units(function, units, answer)
            for record in (tmp_path / "out" / "units").glob("*.json"):
                record.unlink()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(dataset, tmp_path / "out", engine=KilledEngine(), log=log)
    begun = Path(log).read_text().count("spin")
    assert begun == 2, "with its batch, and alone"
    made = run(dataset, tmp_path / "out", log=log)
    assert Path(log).read_text().count("spin") == begun
    assert [row["reason"] for row in quarantine_of(made)] == ["too_slow"]
    assert not (tmp_path / "out" / "tripped").exists(), "it is in the dataset now"


def test_a_source_of_which_all_documents_break_limits_is_stopped_by_the_gate(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="quarantined_share"):
        run(documents(tmp_path, ["raise 1", "raise 2", "leave"]), tmp_path / "out", gates=GateConfig(min_rows=0))


@pytest.mark.spark
def test_workers_of_spark_come_to_the_same(tmp_path: Path, spark_engine: SparkEngine) -> None:
    dataset = documents(tmp_path, [*GOOD, *HOSTILE])
    here = run(dataset, tmp_path / "here")
    there = run(dataset, tmp_path / "there", engine=spark_engine)
    assert there.manifest.digest == here.manifest.digest


@pytest.mark.parametrize("key", ["seconds", "seconds_per_mb", "record_seconds", "memory_mb", "growth"])
def test_a_limit_of_zero_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        ContentLimits(**{key: 0})


def test_limits_other_than_the_platforms_are_part_of_the_identity() -> None:
    definition, config = definition_of(hostile), HostileConfig()
    usual = definition.fingerprint(config, {}, 0, 1)
    assert definition.fingerprint(config, {}, 0, 1, ContentLimits()) == usual
    assert definition.fingerprint(config, {}, 0, 1, LIMITS) != usual


def test_a_record_that_ends_the_reader_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file of records the one at fault, by its place; those before and behind it are read."""
    from hyperclova_core.corpus.ingest import readers
    from tests.hostile.stages import obey

    original = readers._json_item

    def watched(line: bytes, location: str, offset: int) -> Any:
        obey(json.loads(line)["text"])
        return original(line, location, offset)

    monkeypatch.setattr(readers, "_json_item", watched)
    texts = [*GOOD[:20], "spin", *GOOD[20:], "abort"]
    path = write_lines(tmp_path / "a.jsonl", [{"id": str(number), "text": text} for number, text in enumerate(texts)])
    source = SourceConfig(name="web", paths=(str(path),))
    made = ingested(tmp_path / "out", source, buckets=1, limits=ContentLimits(record_seconds=0.3), batch_rows=8)
    assert made.manifest.counters.kept == len(GOOD)
    rows = [(row["location"], row["reason"]) for row in quarantine_of(made)]
    assert rows == [("a.jsonl:21", "too_slow"), ("a.jsonl:42", "crashed")]
    assert b"spin" in quarantine_of(made)[0]["raw"]


def test_a_file_that_cannot_be_read_on_is_given_up_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperclova_core.corpus.ingest import readers

    def broken(path: str, name: str, source: Any, config: Any, watch: Any) -> Any:
        for number, item in enumerate(original(path, name, source, config, watch)):
            if number == 5:
                raise RuntimeError("between two records")
            yield item

    original = readers.READERS["jsonl"]
    monkeypatch.setitem(readers.READERS, "jsonl", broken)
    path = write_lines(tmp_path / "a.jsonl", [{"id": str(number), "text": text} for number, text in enumerate(GOOD)])
    whole = write_lines(tmp_path / "b.jsonl", [{"id": "b", "text": GOOD[0]}])
    source = SourceConfig(name="web", paths=(str(path), str(whole)))
    made = ingested(tmp_path / "out", source, buckets=1, batch_rows=1)
    assert made.manifest.counters.kept == 6, "five before it, and the other file"
    assert [(row["location"], row["reason"]) for row in quarantine_of(made)] == [("a.jsonl#6", "crashed")]


def test_a_gate_counts_what_it_cannot_look_at(tmp_path: Path) -> None:
    """A recipe's own pattern may be as bad as it likes: the driver goes on, and the document counts as found."""
    pattern = r"(a+)+$"
    texts = pa.array([*GOOD, "a" * 40 + "!", "aaa"])
    assert counted(partial(matches, pattern), texts, LIMITS) == [0] * len(GOOD) + [1, 1]
    dataset = documents(tmp_path, [*GOOD, "a" * 40 + "!"])
    with pytest.raises(GateError, match=r"text matching \(a\+\)\+"):
        run(dataset, tmp_path / "out", gates=GateConfig(forbidden_patterns=(pattern,)))


@pytest.mark.parametrize("text", ["０１０-5550-1234로", "０１０－５５５０－１２３４"])
def test_digits_of_full_width_are_digits_for_detector_and_gate(text: str) -> None:
    (span,) = find_personal_data(text)
    assert span.type == "PHONE"
    assert left_over([text]) == [1]
    assert left_over([replace_spans(text, [span])]) == [0]


@pytest.mark.parametrize("text", ["010-1234-5678-1", "991332-1234567", "a@b.co1"])
def test_what_the_detector_leaves_the_gate_leaves(text: str) -> None:
    """These stopped half of all large runs: the gate had patterns of its own, and the detector had left them with reason."""
    assert left_over([replace_spans(text, find_personal_data(text))]) == [0]
    assert DEFAULT_GATES["deidentify"].forbidden_patterns == ()


def test_what_is_restricted_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = run(documents(tmp_path, [*GOOD, "raise"]), tmp_path / "out")
    finally:
        os.umask(before)
    folder = tmp_path / "out" / "restricted"
    assert folder.stat().st_mode & 0o777 == 0o700
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) >= 2, "what was rejected, and what was quarantined"
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert quarantine_of(made)


def test_a_process_that_waits_for_ever_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """It uses no processor time: a limit by the clock, far beyond that of any busy machine, is for it alone."""
    monkeypatch.setattr(content_process, "WALL_SECONDS", 0.5)
    monkeypatch.setattr(content_process, "WALL_FACTOR", 0.0)

    def work(request: content_process.Answer) -> Iterator[content_process.Answer]:
        time.sleep(60 if request.told["wait"] else 0)
        yield content_process.Answer({}, [])

    process = content_process.ContentProcess(work, LIMITS)
    assert len(list(process.ask(content_process.Answer({"wait": False}, []), 1.0))) == 1
    with pytest.raises(content_process.TrippedError, match="processor was not used"):
        list(process.ask(content_process.Answer({"wait": True}, []), 1.0))
    assert not process.alive


def ids_and_rows(dataset: Dataset) -> tuple[list[str], list[tuple[str, str]]]:
    kept = sorted(dataset.read().column("source_id").to_pylist())
    return kept, [(row["location"], row["reason"]) for row in quarantine_of(dataset)]


def test_what_was_given_before_a_record_ended_the_process_is_given_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches end by their characters, too, and not at the same records when a file is read again."""
    from hyperclova_core.corpus.ingest import readers, stage
    from tests.hostile.stages import obey

    original = readers._json_item

    def watched(line: bytes, location: str, offset: int) -> Any:
        obey(json.loads(line)["text"])
        return original(line, location, offset)

    monkeypatch.setattr(readers, "_json_item", watched)
    monkeypatch.setattr(stage, "BATCH_CHARACTERS", 600)
    texts = [*GOOD[:3], "가나다 " * 200, *GOOD[3:6], "abort", *GOOD[6:9], "raise", *GOOD[9:12]]
    path = write_lines(tmp_path / "a.jsonl", [{"id": str(n), "text": text} for n, text in enumerate(texts)])
    source = SourceConfig(name="web", paths=(str(path),))
    wanted = sorted(str(n) for n, text in enumerate(texts) if text not in ("abort", "raise"))
    for rows in (1, 2, 4, 512):
        made = ingested(tmp_path / f"out-{rows}", source, buckets=1, batch_rows=rows)
        assert ids_and_rows(made) == (wanted, [("a.jsonl:8", "crashed"), ("a.jsonl:12", "crashed")]), rows


def test_a_record_that_was_given_in_part_is_not_blamed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a catalogue, one record for the reader, the messages that were given are kept, and the rest of the file is one row; always the same."""
    from hyperclova_core.corpus.ingest import readers
    from tests.hostile.stages import spin

    def slow(path: str, name: str, source: Any, config: Any, watch: Any) -> Any:
        assert watch.begin() is None
        for number in range(20):
            if number == 10:
                spin()
            yield readers.Record(f"{name}#{number}", number, {"id": str(number), "text": GOOD[number]})

    monkeypatch.setitem(readers.READERS, "gettext", slow)
    (tmp_path / "a.mo").write_bytes(b"catalogue")
    source = SourceConfig(name="web", paths=(str(tmp_path / "a.mo"),))
    limits = ContentLimits(record_seconds=0.3)
    made = ingested(tmp_path / "out", source, buckets=1, batch_rows=4, limits=limits)
    assert ids_and_rows(made) == (sorted(map(str, range(8))), [("a.mo#2", "too_slow")])
    again = ingested(tmp_path / "again", source, buckets=1, batch_rows=4, limits=limits)
    assert again.manifest.digest == made.manifest.digest


def counting(request: content_process.Answer) -> Iterator[content_process.Answer]:
    held = bytearray(request.told["bytes"])
    yield content_process.Answer({"bytes": len(held), "process": os.getpid()}, [])


def test_a_process_that_ran_out_of_memory_is_not_used_again() -> None:
    process = content_process.ContentProcess(counting, ContentLimits(memory_mb=256))
    with pytest.raises(content_process.TrippedError) as caught:
        list(process.ask(content_process.Answer({"bytes": 1 << 30}, []), 5.0))
    assert caught.value.reason == "too_much_memory"
    assert not process.alive


def test_a_kill_from_outside_convicts_no_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's killer takes the process between two files, or in a document that is innocent."""
    asked = content_process.ContentProcess.ask
    killed: list[int] = []

    def ask(self: Any, request: Any, seconds: float) -> Any:
        if not killed:
            killed.append(self._pid)
            os.kill(self._pid, signal.SIGKILL)
        return asked(self, request, seconds)

    monkeypatch.setattr(content_process.ContentProcess, "ask", ask)
    dataset = documents(tmp_path, GOOD)
    assert dataset.manifest.counters.kept == len(GOOD)
    assert quarantine_of(dataset) == []
    killed.clear()
    made = run(dataset, tmp_path / "out")
    assert made.manifest.counters.kept == len(GOOD)
    assert killed


def test_a_stage_that_fails_on_everything_commits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded_stage, "MOST_TRIPS", 8)
    with pytest.raises(DataError, match="9 of the first 9 of a bucket"):
        run(documents(tmp_path, ["raise"] + [f"raise {n}" for n in range(8)]), tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_folder_of_somebody_else_that_is_called_restricted_stays_as_it_is(tmp_path: Path) -> None:
    shared = tmp_path / "restricted" / "team"
    shared.mkdir(parents=True)
    (tmp_path / "restricted").chmod(0o755)
    run(documents(tmp_path, [*GOOD, "raise"]), shared / "out")
    assert (tmp_path / "restricted").stat().st_mode & 0o777 == 0o755
    assert (shared / "out" / "restricted").stat().st_mode & 0o777 == 0o700


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no regular expression"):
        GateConfig(forbidden_patterns=("(",))
