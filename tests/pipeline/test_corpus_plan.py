"""`hyperclova plan corpus`: what follows from a size, what is said to break, and that it is said before it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hyperclova_core.cli.main import cli
from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.pipeline.corpus_plan import CorpusPlan, bytes_of, costs, plan_corpus, prices
from hyperclova_core.pipeline.graph import SPARK_STAGES
from hyperclova_core.pipeline.recipe import load_recipe

POD = ("spark_cluster.image=planned",)


def planned(text: str, *settings: str, executors: int | None = None, files: int | None = None) -> CorpusPlan:
    recipe = load_recipe("smoke", (*POD, "spark={}", *settings))
    return plan_corpus(recipe, bytes_of(text), costs(), prices(None), executors, files=files)


def test_sizes_are_read_as_people_write_them() -> None:
    assert [bytes_of(text) for text in ("5TB", "800 GB", "1.5e12", "2 TiB", "7")] == [5e12, 8e11, 1.5e12, 2e12, 7.0]
    for wrong in ("", "five", "-3GB", "5 XB", "0"):
        with pytest.raises(ConfigError, match="write 5TB"):
            bytes_of(wrong)


def test_every_spark_stage_is_planned_by_a_measured_cost() -> None:
    assert tuple(costs().stages) == SPARK_STAGES
    found = planned("5TB", "spark_preset=5tb", "buckets=32768")
    assert tuple(stage.stage for stage in found.stages) == SPARK_STAGES
    assert (found.executors, found.cores) == (200, 400)
    assert found.hours > 0
    assert found.money > 0


def test_time_goes_with_text_and_against_executors() -> None:
    preset = ("spark_preset=5tb",)
    few, many = (planned(text, *preset, "buckets=8192", executors=50) for text in ("1TB", "4TB"))
    assert 3 < many.hours / few.hours < 4.5, "linear: what it is held against in docs/scale.md"
    more = planned("4TB", *preset, "buckets=8192", executors=200)
    assert 3 < many.hours / more.hours <= 4
    wide = planned("1TB", *preset, "buckets=8192", executors=50, files=5_000_000)
    ingest, other = wide.stages[0], few.stages[0]
    assert ingest.reads - other.reads > 9_000_000, "tiny files are read one by one"
    assert ingest.tasks > other.tasks


def test_what_breaks_is_said_with_what_to_do() -> None:
    small = planned("5TB", "buckets=64")
    assert "buckets" in small.breaks[0]
    assert "32_768" in small.breaks[0]
    assert any("a task takes" in line for line in small.breaks)
    wide = planned("5TB", "buckets=32768", "spark={spark.sql.shuffle.partitions: '32768'}", executors=200)
    assert any("blocks of a shuffle" in line for line in wide.breaks)
    slow = planned("5TB", "buckets=32768", executors=1)
    assert any("deadline" in line for line in slow.breaks)
    quiet = planned("100GB", "spark_preset=100gb", "buckets=512")
    assert quiet.breaks == ()


def test_the_command_says_it_as_a_table_and_as_json(tmp_path: Path) -> None:
    arguments = ["plan", "corpus", "hyperclova-82b", "--text", "5TB", "--executors", "200"]
    told = CliRunner().invoke(cli, arguments)
    assert told.exit_code == 0, told.output
    assert "32,768 buckets, 200 executors, 400 cores" in told.output
    assert all(stage in told.output for stage in SPARK_STAGES)
    found = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).output)
    assert found["hours"] == pytest.approx(sum(stage["hours"] for stage in found["stages"]))
    free = tmp_path / "prices.yaml"
    free.write_text("{core_hour: 0, gigabyte_hour: 0, thousand_writes: 0, thousand_reads: 0, terabyte_month: 0}")
    nothing = json.loads(CliRunner().invoke(cli, [*arguments, "--json", "--prices", str(free)]).output)
    assert nothing["money"] == nothing["store_a_month"] == 0
    free.write_text("{core_hour: -1}")
    refused = CliRunner().invoke(cli, [*arguments, "--prices", str(free)])
    assert refused.exit_code != 0
    assert "core_hour" in str(refused.exception)


def test_a_layout_is_still_planned_by_the_models_name() -> None:
    for arguments in (["plan", "1.3B", "--gpus", "8"], ["plan", "training", "1.3B", "--gpus", "8"]):
        told = CliRunner().invoke(cli, arguments)
        assert told.exit_code == 0, told.output
        assert "micro_batch_size" in told.output
