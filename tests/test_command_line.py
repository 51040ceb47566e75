"""The command line as a person uses it, in a process of its own: files in, files out, messages and exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hyperclova_core.cli.main import cli
from tests.conftest import PORTAL, ROOT, SmokeRun, write_lines


def hyperclova(*arguments: str, folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HYPERCLOVA_HOME": str(folder / "home")}
    done = subprocess.run(
        [sys.executable, "-m", "hyperclova_core.cli.main", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def commands(group: object, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [prefix]
    for name, command in getattr(group, "commands", {}).items():
        found += commands(command, (*prefix, name))
    return found


@pytest.mark.parametrize("path", commands(cli), ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*path, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output
    assert len(result.output) > 100


def test_stages_one_by_one_on_a_persons_own_files(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "mine.jsonl",
        [
            {"id": "a", "text": " 연락은 010-5550-1234로 주세요. 도서관 앞에서 만나기로 했습니다."},
            {"id": "b", "text": "ㅁㄴㅇㄹㅁㄴㅇㄹㅁㄴㅇㄹㅁㄴㅇㄹ"},
            {"id": "c", "text": "오늘은 산에 올라가서 도시락을 먹었습니다. 바람이 시원했습니다."},
        ],
    )
    done = hyperclova(
        "deidentify",
        "mine.jsonl",
        "--output",
        "clean",
        "--spans",
        "spans.jsonl",
        "--jsonl",
        "clean.jsonl",
        folder=tmp_path,
    )
    assert "deidentify: 3 in, 3 kept" in done.stderr
    (span,) = lines(tmp_path / "spans.jsonl")
    original = lines(tmp_path / "mine.jsonl")[0]["text"]
    assert original[span["start"] : span["end"]] == "010-5550-1234"  # type: ignore[index, misc]
    assert set(span) == {"source_id", "start", "end", "type", "rule", "confidence"}
    assert "[PHONE]" in {row["id"]: row["text"] for row in lines(tmp_path / "clean.jsonl")}["a"]  # type: ignore[operator]

    hyperclova(
        "filter", "clean", "--output", "good", "--scores", "scores.jsonl", "--set", "min_characters=5", folder=tmp_path
    )
    verdicts = {row["source_id"]: row for row in lines(tmp_path / "scores.jsonl")}
    assert verdicts["b"]["reason"] == "gibberish"
    assert verdicts["c"]["kept"]
    assert "quality_raw" in verdicts["c"]["signals"]  # type: ignore[operator]
    again = hyperclova("filter", "clean", "--output", "good", "--set", "min_characters=5", folder=tmp_path)
    assert "reused" in again.stderr
    assert "all as committed" in hyperclova("dataset", "verify", "good", folder=tmp_path).stdout
    shown = json.loads(hyperclova("dataset", "show", "good", folder=tmp_path).stdout)
    assert shown["counters"]["rejected"] == {"gibberish": 1}


def test_tokenizer_mix_and_serialize(tmp_path: Path) -> None:
    files = [str(path) for path in sorted(PORTAL.glob("*.jsonl"))]
    hyperclova("tokenizer", "train", *files, "--vocab-size", "700", "--output", "tok", folder=tmp_path)
    ids = hyperclova("tokenizer", "encode", "--tokenizer", "tok", "안녕하세요 [PHONE]", folder=tmp_path).stdout
    assert (
        hyperclova("tokenizer", "decode", "--tokenizer", "tok", ids.strip(), folder=tmp_path).stdout
        == "안녕하세요 [PHONE]\n"
    )
    done = hyperclova("serialize", *files, "--tokenizer", "tok", "--output", "shards/all", folder=tmp_path)
    assert "documents" in done.stdout
    suffixes = ("bin", "idx", "json", "provenance.parquet")
    assert {path.name for path in (tmp_path / "shards").iterdir()} == {f"all.{suffix}" for suffix in suffixes}
    shown = hyperclova("tokens", "show", "shards/all", "3", "--tokenizer", "tok", "--ids", folder=tmp_path).stdout
    assert re.search(r"^doc_id +[0-9a-f]{32}$", shown, re.M)
    assert "source       input" in shown
    split = ("tokens", "split", "shards/all", "--shard-tokens", "3000", "--output", "shards/part")
    assert "shards/part-00000" in hyperclova(*split, folder=tmp_path).stdout
    parts = sorted(str(path.with_suffix("").relative_to(tmp_path)) for path in (tmp_path / "shards").glob("part-*.idx"))
    hyperclova("tokens", "merge", *parts, "--output", "shards/again", folder=tmp_path)
    for suffix in ("bin", "idx"):
        again, whole = (tmp_path / "shards" / f"{name}.{suffix}" for name in ("again", "all"))
        assert again.read_bytes() == whole.read_bytes()
    plan = hyperclova(
        "mix",
        "smoke",
        "--documents",
        "tok.input",
        "--tokenizer",
        "tok",
        "--output",
        "mixed",
        "--plan-only",
        folder=tmp_path,
    )
    assert "held out for validation" in plan.stdout
    assert (tmp_path / "mixed" / "plan.json").exists()
    (tmp_path / "train.yaml").write_text(
        "train: {size: {name: 15k, parallel: {data: 2, micro_batch_size: 2}}, tokens: 4096, sequence_length: 64, global_batch_size: 4, evaluate_every: 8}\n"
        "shards: [shards/part-00000, shards/part-00001]\nvalidation_shards: [shards/all]\ntokenizer: tok\noutput: trained\n"
    )
    trained = hyperclova("train", "--config", "train.yaml", folder=tmp_path)
    result = json.loads(trained.stdout)
    assert result["step"] == 16
    assert result["validation_by_source"]["input"][1] == pytest.approx(result["validation_bits_per_byte"])
    assert "step 16/16" in trained.stderr
    again = hyperclova("train", "--config", "train.yaml", "--resume", folder=tmp_path)
    assert "goes on after step 16" in again.stderr
    exported = hyperclova("export", "trained", "--output", "model", folder=tmp_path)
    assert "differ by" in exported.stdout
    assert (tmp_path / "model" / "tokenization_hyperclova.py").exists()
    how = ("--max-tokens", "5", "--seed", "3", "--json")
    first = hyperclova("generate", "model", "--prompt", "오늘", "--prompt", "영화가 참", *how, folder=tmp_path).stdout
    second = hyperclova("generate", "model", "--prompt", "영화가 참", *how, folder=tmp_path).stdout
    assert first.splitlines()[1] == second.splitlines()[0]
    assert json.loads(second)["prompt"] == "영화가 참"


@pytest.mark.spark
@pytest.mark.ranks
def test_a_whole_recipe_by_its_name_leaves_the_current_folder_clean(smoke: SmokeRun) -> None:
    assert "| tiny-a | 3,312 |" in smoke.ended.stdout
    assert "| tiny-b |" in smoke.ended.stdout
    assert not list(smoke.folder.iterdir())
    assert (smoke.warehouse / "mlflow.db").exists()
    assert list((smoke.warehouse / "mlflow-artifacts").rglob("waterfall.png"))


@pytest.mark.spark
def test_clusters_of_duplicates(tmp_path: Path) -> None:
    hyperclova(
        "deduplicate", str(PORTAL / "cafe.jsonl"), "--output", "d", "--clusters", "clusters.jsonl", folder=tmp_path
    )
    rows = lines(tmp_path / "clusters.jsonl")
    assert {frozenset(row) for row in rows} == {frozenset(("doc_id", "source_id", "cluster_id", "kept", "similarity"))}
    dropped = [row for row in rows if not row["kept"]]
    assert len(dropped) == 3
    kept = {row["cluster_id"] for row in rows if row["kept"]}
    assert {row["cluster_id"] for row in dropped} <= kept


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (
            ("ingest", "absent.jsonl", "--source", "blog", "--output", "o"),
            65,
            ("does not exist", "absent.jsonl", "remedy"),
        ),
        (
            ("filter", "x.jsonl", "--output", "o", "--set", "max_giberish=1"),
            64,
            ("unknown key `max_giberish`", "max_gibberish"),
        ),
        (("run", "nonsense"), 64, ("no recipe nonsense", "demo")),
        (("run", "smoke", "--set", "train.settings.stepz=1", "--warehouse", "w"), 64, ("stepz",)),
        (("dataset", "show", "nowhere"), 65, ("No committed dataset", "nowhere")),
        (("tokenizer", "encode", "--tokenizer", "nowhere", "x"), 65, ("No tokenizer here",)),
        (("quality", "train", "absent", "--output", "m"), 65, ("does not exist",)),
        (("ingest", "--output", "o"), 64, ("Missing",)),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_mistakes_get_one_clear_message(
    tmp_path: Path, arguments: tuple[str, ...], code: int, parts: tuple[str, ...]
) -> None:
    write_lines(tmp_path / "x.jsonl", [{"id": "1", "text": "글"}])
    done = hyperclova(*arguments, folder=tmp_path, code=code)
    assert "Traceback" not in done.stderr
    assert all(part in done.stderr for part in parts), done.stderr
