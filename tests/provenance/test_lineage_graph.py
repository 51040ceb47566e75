"""The lineage graph: from a name to the files, through what moved, expired or is gone; as tree, JSON and HTML."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from hyperclova_core.cli.main import cli
from hyperclova_core.foundation.corpora.retention import find_garbage, remove
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.warehouse import RunRecord, StageResult, Warehouse
from hyperclova_core.pipeline.funnel import funnel_of, funnel_svg
from hyperclova_core.provenance.graph import graph_of
from hyperclova_core.provenance.pictures import html, tree
from tests.kills.work import chain, source_files


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    warehouse = Warehouse(str(tmp_path / "w"))
    made = chain(warehouse, source_files(tmp_path / "files"))
    run = warehouse.run("night")
    run.create(RunRecord("night", {"name": "demo<b>"}, code_version="1", started_at="then"))
    for dataset in made:
        run.finish_stage(
            dataset.manifest.stage,
            StageResult(stage=dataset.manifest.stage, uri=dataset.uri, counters=dataset.manifest.counters),
        )
    return warehouse


def shape(graph) -> list[tuple[str, str, str]]:  # type: ignore[no-untyped-def]
    return sorted((graph.nodes[made].label, graph.nodes[source].label, role) for made, source, role in graph.edges)


EXPECTED = [("ingest", "one", "files:one"), ("ingest", "two", "files:two"), ("odd", "ingest", "documents")]


def test_every_kind_of_name_leads_to_the_files(warehouse: Warehouse) -> None:
    fingerprint = next(Path(warehouse.uri).glob("datasets/odd/*")).name
    for name in (f"odd@{fingerprint[:8]}", fingerprint, f"{warehouse.uri}/datasets/odd/{fingerprint}"):
        assert shape(graph_of(warehouse, name)) == EXPECTED
    assert shape(graph_of(warehouse, "night")) == sorted([*EXPECTED, ("night", "odd", "odd")])
    for name in ("c", "c@1", "corpus/c"):
        assert shape(graph_of(warehouse, name)) == sorted([*EXPECTED, ("c@1", "odd", "increment")])
    files = next(node for node in graph_of(warehouse, "c").nodes.values() if node.label == "one")
    assert [item["name"] for item in files.facts["files"]] == ["one.jsonl"]
    for name in ("nothing", "odd@000000", "hyperclova-9b", "c@7"):
        with pytest.raises(DataError) as caught:
            graph_of(warehouse, name)
        assert caught.value.remedy


def test_a_warehouse_that_moved_is_still_whole(warehouse: Warehouse, tmp_path: Path) -> None:
    shutil.move(warehouse.uri, tmp_path / "elsewhere")
    graph = graph_of(Warehouse(str(tmp_path / "elsewhere")), "c")
    assert shape(graph) == sorted([*EXPECTED, ("c@1", "odd", "increment")])
    assert {node.state for node in graph.nodes.values()} == {"here"}


def test_what_expired_keeps_its_place_in_the_graph(warehouse: Warehouse) -> None:
    remove(warehouse, find_garbage(warehouse, older_than=0, restricted_days=0))
    graph = graph_of(warehouse, "c")
    assert shape(graph) == sorted([*EXPECTED, ("c@1", "odd", "increment")])
    states = {node.label: node.state for node in graph.nodes.values()}
    assert states["ingest"] == "expired"
    assert "past its time to live" in tree(graph)


def test_an_input_that_was_exchanged_is_shown(warehouse: Warehouse) -> None:
    path = next(Path(warehouse.uri).glob("datasets/ingest/*"))
    shutil.rmtree(path)
    graph = graph_of(warehouse, "c")
    assert next(node for node in graph.nodes.values() if node.label == "ingest").state == "gone"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_the_picture_needs_nothing_else_and_escapes_names(warehouse: Warehouse) -> None:
    graph = graph_of(warehouse, "night")
    page = html(graph)
    tags = Tags()
    tags.feed(page)
    names = [tag for tag, _ in tags.seen]
    assert names.count("rect") == len(graph.nodes)
    assert "script" not in names
    assert "b" not in names, "a recipe's name is text"
    assert not [attributes for _, attributes in tags.seen if "src" in attributes or "href" in attributes]


def test_the_command_prints_and_writes(warehouse: Warehouse, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        cli, ["lineage", "c", "--warehouse", warehouse.uri, "--output", str(tmp_path / "pictures")]
    )
    assert result.exit_code == 0, result.output
    assert "one.jsonl" in result.output
    assert json.loads((tmp_path / "pictures" / "lineage-c@1.json").read_text())["root"] == "corpus:c@1"
    assert (tmp_path / "pictures" / "lineage-c@1.html").exists()


def test_the_funnel_adds_up(warehouse: Warehouse) -> None:
    run = warehouse.run("night")
    odd = run.stage_result("odd")
    assert odd is not None
    run.finish_stage("filter", odd.model_copy(update={"stage": "filter"}))
    rows = {row["stage"]: row for row in funnel_of(run)}
    assert list(rows) == ["ingest", "filter"]
    row = rows["filter"]
    assert row["documents_in"] == row["documents_kept"] + sum(item["documents"] for item in row["lost"])
    assert row["bytes_in"] == row["bytes_kept"] + sum(item["bytes"] for item in row["lost"])
    figure = funnel_svg(list(rows.values()), "<title>")
    assert "&lt;title&gt;" in figure
    assert f"odd {row['lost'][0]['documents']:,}" in figure
