"""Bad input, whatever the command: a message with a remedy, the right exit code, never a stack; and the good rest is read."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hyperclova_core.cli.main import main
from hyperclova_core.foundation.datasets.dataset import open_dataset
from hyperclova_core.foundation.errors import DataError, HyperclovaError, from_dict
from hyperclova_core.pipeline.summary import in_words, reasons_in_words
from tests.conftest import write_lines

Run = Callable[..., tuple[int, str]]
TEXT = "오늘은 산에 올라가서 도시락을 먹었습니다. 바람이 시원했습니다."


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process and a folder of its own: (exit code, what it said)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYPERCLOVA_HOME", str(tmp_path / "home"))

    def command(*words: str) -> tuple[int, str]:
        code = 0
        try:
            main(list(words))
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return code, said

    return command


def test_a_source_is_named_in_letters_that_a_path_takes(run: Run, tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"text": TEXT}])
    code, said = run("ingest", "a.jsonl", "--source", "블로그", "--output", "out")
    assert code == 64
    assert "`name`" in said
    assert "--source" in said


def test_a_files_name_may_be_of_any_bytes(run: Run, tmp_path: Path) -> None:
    write_lines(tmp_path / "in" / "a.jsonl", [{"text": TEXT}])
    (tmp_path / "in" / "a.jsonl").rename(
        os.fsdecode(os.fsencode(tmp_path / "in") + b"/" + "자료.jsonl".encode("cp949"))
    )
    assert run("ingest", "in", "--source", "t", "--output", "out")[0] == 0
    made = open_dataset(str(tmp_path / "out"))
    assert made.read("files").column("name").to_pylist() == ["자료.jsonl"]
    assert made.manifest.counters.kept == 1


def test_a_parquet_row_that_cannot_be_read_is_quarantined_and_the_rest_goes_on(run: Run, tmp_path: Path) -> None:
    raw = pa.array([b"\xff\xfe", TEXT.encode()], pa.binary())
    pq.write_table(pa.table({"text": pa.Array.from_buffers(pa.string(), 2, raw.buffers())}), tmp_path / "bytes.parquet")
    far = pa.array([253_402_300_800 * 10**6, 0], pa.timestamp("us"))
    pq.write_table(pa.table({"text": ["하나 둘 셋", TEXT], "published_at": far}), tmp_path / "year.parquet")
    for name, column in (("bytes", "text"), ("year", "published_at")):
        assert run("ingest", f"{name}.parquet", "--source", "t", "--output", name)[0] == 0
        counters = open_dataset(str(tmp_path / name)).manifest.counters
        assert (counters.kept, counters.quarantined) == (1, {"unreadable_value": 1})
        (row,) = open_dataset(str(tmp_path / name)).read("quarantine").to_pylist()
        assert f"column `{column}`" in json.dumps(row, default=str)


def test_reviews_may_be_in_cp949_and_nothing_else_is_guessed(tmp_path: Path) -> None:
    from hyperclova_core.evaluation.nsmc import read_reviews

    rows = "id\tdocument\tlabel\n1\t재미있다\t1\n2\t별로다\t0\n"
    (tmp_path / "old.tsv").write_bytes(rows.encode("cp949"))
    assert [review.text for review in read_reviews(str(tmp_path / "old.tsv"))] == ["재미있다", "별로다"]
    (tmp_path / "odd.tsv").write_bytes(rows.encode("utf-16"))
    with pytest.raises(DataError, match="neither UTF-8 nor CP949"):
        read_reviews(str(tmp_path / "odd.tsv"))


def test_files_that_cannot_be_used_are_told_of(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperclova_core.cli import stages

    def broken(error: Exception) -> Callable[..., None]:
        def fail(*_: object, **__: object) -> None:
            raise error

        return fail

    write_lines(tmp_path / "a.jsonl", [{"text": TEXT}])
    for error, words in (
        (
            PermissionError(13, "Permission denied", "/some/file"),
            ("A file cannot be used", "/some/file", "Permission denied"),
        ),
        (UnicodeDecodeError("utf-8", b"\xb0", 0, 1, "invalid start byte"), ("not in the encoding", "iconv")),
    ):
        monkeypatch.setattr(stages, "ingest_files", broken(error))
        code, said = run("ingest", "a.jsonl", "--source", "t", "--output", "out")
        assert code == 65
        assert all(word in said for word in words), said


def test_a_terminal_of_another_encoding_is_shown_what_it_can_show(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(shown, encoding="ascii", write_through=True))
    with pytest.raises(SystemExit) as ended:
        main(["ingest", "없는파일.jsonl", "--source", "t", "--output", "out"])
    assert ended.value.code == 65
    assert b"A path of source t does not exist" in shown.getvalue()


def test_datasets_are_not_read_as_files_which_would_bring_back_what_was_dropped(run: Run, tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"text": TEXT}, {"text": "ㅁㄴㅇㄹㅁㄴㅇㄹㅁㄴㅇㄹㅁㄴㅇㄹ"}])
    write_lines(tmp_path / "b.jsonl", [{"text": "비가 오는 날에는 부침개를 부쳐 먹습니다. 막걸리도 좋습니다."}])
    for name in ("a", "b"):
        assert run("filter", f"{name}.jsonl", "--output", f"sets/filter-{name}")[0] == 0
    assert open_dataset("sets/filter-a").manifest.counters.kept == 1
    shutil.copytree("sets/filter-a", "deeper/still/filter-a")
    for words in (
        ("deidentify", "sets/filter-a", "sets/filter-b"),
        ("deidentify", "sets/filter-a", "b.jsonl"),
        ("deidentify", "sets"),
        ("ingest", "sets/filter-a", "--source", "t"),
        ("ingest", "deeper", "--source", "t"),
        ("ingest", "sets/*/attempts/*/documents/*.parquet", "--source", "t"),
        ("deidentify", "deeper/still/filter-a/attempts"),
    ):
        code, said = run(*words, "--output", "clean")
        assert code == 64, words
        assert "A dataset is given where files are read" in said
        assert "--jsonl" in said
    assert not (tmp_path / "clean").exists()
    assert run("deidentify", "sets/filter-a", "--output", "clean")[0] == 0
    assert open_dataset("clean").manifest.counters.rows_in == 1


def test_a_recipe_for_a_cluster_is_refused_by_the_command_of_one_machine(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\njobs: {backend: kubernetes, cluster: {image: 'trainer:1'}}\n")
    code, said = run("run", "mine.yaml", "--warehouse", "w")
    assert code == 64
    assert "--set jobs.backend=local" in said


def test_tables_name_the_largest_first_and_what_the_rest_comes_to() -> None:
    counts = {"abuse": 5, "advertising": 5, "gibberish": 6, "little_hangul": 19, "near": 500, "spam": 400, "short": 70}
    shuffled = {"stage": "filter", "reasons": dict(sorted(counts.items()))}
    assert (
        reasons_in_words(shuffled) == "near 500, spam 400, short 70, little_hangul 19 and 3 more reasons: 16 documents"
    )
    assert in_words({"a": 1, "b": 1}, 1) == "a 1 and 1 more reason: 1 document"
    assert in_words({}, 3) == ""


def test_an_error_keeps_its_class_and_its_words_over_a_border_of_processes() -> None:
    class NarrowerError(DataError):
        pass

    told = NarrowerError("a", where="\udcc7.jsonl", code="400").to_dict()
    assert isinstance(from_dict(told), DataError)
    assert json.dumps(told, ensure_ascii=False).encode()
    assert not isinstance(from_dict(HyperclovaError("a").to_dict()), DataError)


def test_nothing_to_serialize_is_said_and_no_output_is_named(run: Run, tmp_path: Path) -> None:
    write_lines(tmp_path / "text.jsonl", [{"text": TEXT}] * 3)
    write_lines(tmp_path / "empty.jsonl", [{"text": ""}, {"text": " "}])
    assert run("tokenizer", "train", "text.jsonl", "--output", "tok", "--set", "vocabulary_size=512")[0] == 0
    code, said = run("serialize", "empty.jsonl", "--tokenizer", "tok", "--output", "out/corpus")
    assert code == 65
    assert "There is nothing to serialize" in said
    assert "2 records" in said
    assert not list((tmp_path / "out").glob("corpus.bin"))
