"""The whole stage: labelled pairs, odd input, and the same bytes whoever does the work."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import unicodedata
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pytest

from hyperclova_core.corpus.deduplicate.config import DeduplicateConfig, NumbersConfig
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.commit import commit
from hyperclova_core.foundation.datasets.dataset import Dataset, Target
from hyperclova_core.foundation.datasets.document_schema import DOCUMENT_SCHEMA, bucket_of, content_hash, document_id
from hyperclova_core.foundation.datasets.manifest import Counters, Manifest, Table, content_digest
from hyperclova_core.foundation.datasets.parquet_writer import write_table
from hyperclova_core.foundation.stages.engines import LocalEngine, SparkEngine
from tests.corpus.deduplicate.texts import (
    clusters_of,
    dataset,
    edited,
    id_of,
    kept,
    reasons,
    run,
    shingle_set,
    text,
    words,
)
from tests.samples import lines_of

MUST_BE_FOUND = ("exact", "spacing_removed", "spacing_added", "nfd", "newline_reflow")


def plain(value: str) -> str:
    """Letters and digits, NFC, lower case: what the labelled similarity is taken of."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFC", value).lower())


def char5(one: str, other: str) -> float:
    a, b = shingle_set(plain(one), 5), shingle_set(plain(other), 5)
    return len(a & b) / max(1, len(a | b))


Pair = tuple[str, str, str]
"""(a, b, how b was made of a)"""


def check_pairs(texts: dict[str, str], pairs: list[Pair], folder: Path) -> None:
    """At least .99 of the pairs of similarity 0.8 and more, and all copies, are in one cluster; of the pairs in one cluster fewer
    than 1 % are under 0.5."""
    made = run(dataset(folder, texts, buckets=4), folder / "out").dataset
    cluster = clusters_of(made)
    alike = [(a, b) for a, b, _ in pairs if char5(texts[a], texts[b]) >= 0.8]
    assert sum(cluster[a] == cluster[b] for a, b in alike) / len(alike) >= 0.99
    for kind in MUST_BE_FOUND:
        of_kind = [(a, b) for a, b, how in pairs if how == kind]
        assert of_kind, kind
        assert all(cluster[a] == cluster[b] for a, b in of_kind), kind
    members = defaultdict(list)
    for name, identity in cluster.items():
        members[identity].append(name)
    merged = [pair for group in members.values() for pair in itertools.combinations(group, 2)]
    under = [pair for pair in merged if char5(texts[pair[0]], texts[pair[1]]) < 0.5]
    assert len(under) / len(merged) < 0.01


def variants(original: str, other: str) -> dict[str, str]:
    """Copies of a text as sites make them, and edits; `other` lends the words."""
    parts, loan = original.split(" "), other.split(" ")
    sentences = original.split(". ")

    def edit(every: int) -> str:
        return " ".join(loan[n % len(loan)] if n % every == every - 1 else word for n, word in enumerate(parts))

    return {
        "exact": original,
        "spacing_removed": original.replace(" ", ""),
        "spacing_added": re.sub("([은는이가을를에의])", r"\1 ", original),
        "nfd": unicodedata.normalize("NFD", original),
        "newline_reflow": "\n".join(" ".join(parts[n : n + 5]) for n in range(0, len(parts), 5)),
        "punctuation": original.replace(".", "…").replace(",", " "),
        "edited_a_little": edit(24),
        "edited": edit(10),
        "cut_short": original[: 9 * len(original) // 10],
        "shuffled": ". ".join(reversed(sentences)),
    }


def test_labelled_pairs_of_texts_of_our_own(tmp_path: Path) -> None:
    prose = lines_of("prose")
    texts = {f"p{n}": value for n, value in enumerate(prose)} | {
        f"s{n}": value for n, value in enumerate(lines_of("similar_prose"))
    }
    pairs: list[Pair] = []
    for n, original in enumerate(prose):
        for kind, value in variants(original, prose[n - 1]).items():
            texts[f"p{n}.{kind}"] = value
            pairs.append((f"p{n}", f"p{n}.{kind}", kind))
    assert len(pairs) == 420
    check_pairs(texts, pairs, tmp_path)


def test_labelled_pairs_of_real_text(shared_data: Path, tmp_path: Path) -> None:
    with gzip.open(shared_data / "dup" / "docs.jsonl.gz") as file:
        texts = {row["id"]: row["text"] for row in map(json.loads, file)}
    with gzip.open(shared_data / "dup" / "pairs.jsonl.gz") as file:
        pairs = [json.loads(line) for line in file]
    check_pairs(texts, [(pair["a"], pair["b"], pair["kind"]) for pair in pairs], tmp_path)


def test_what_falls_out_names_its_survivor_and_how_alike_they_are(tmp_path: Path) -> None:
    texts = {
        "a": text(1),
        "longer": text(1) + " 그리고 덧붙인 말이 조금 더 있습니다",
        "same": text(1).replace(" ", ""),
        "near": edited(1, 6),
        "far": edited(1, 30),
        "other": text(2),
    }
    made = run(dataset(tmp_path, texts), tmp_path / "out").dataset
    assert kept(made) == {"longer", "far", "other"}
    for row in made.read("rejected").to_pylist():
        assert row["detail"] == f"survivor {id_of('longer')}"
        assert row["cluster_size"] == 4
        similar = dict(row["signals"])["duplicate_similarity"]
        assert similar == pytest.approx(char5(row["text"], texts["longer"]), abs=0.12)
    assert len({row["cluster_id"] for row in made.read("rejected").to_pylist()}) == 1
    counters = made.manifest.counters
    assert counters.rows_in == counters.kept + sum(counters.rejected.values()) == 6


def test_the_best_of_a_cluster_survives(tmp_path: Path) -> None:
    early, late = "2020-01-01T00:00:00Z", "2024-01-01T00:00:00Z"
    texts = {
        "late": {"text": text(1), "published_at": late},
        "early": {"text": text(1), "published_at": early},
        "unknown": {"text": text(1)},
    }
    made = run(dataset(tmp_path, texts), tmp_path / "out").dataset
    assert kept(made) == {"early"}


def weather(date: str, low: str, chance: str, city: str = "서울") -> str:
    return (
        f"{date} {city}의 낮 기온은 {low}도이고 비가 올 확률은 {chance}퍼센트입니다. 나가실 때에는 얇은 겉옷을 챙기시는 것이 좋겠습니다. "
        f"먼지는 보통 수준이며 바다의 물결은 잔잔하겠습니다."
    )


def test_what_differs_in_numbers_alone_is_no_exact_duplicate(tmp_path: Path) -> None:
    """Reports of two days stay; a page with another view count falls, for a reason of its own; copies of either fall to theirs."""
    page = f"{text(4)} 2021년 3월 5일 14시에 쓴 글. 조회 {{}}"
    texts = {
        "monday": weather("3월 4일", "11", "30"),
        "tuesday": weather("3월 5일", "17", "80"),
        "tuesday again": weather("3월 5일", "17", "80").replace(" ", "  "),
        "page": page.format(31),
        "page later": page.format(975),
        "mail": f"{text(5)} 문의 hong@example.com",
        "other mail": f"{text(5)} 문의 kim@example.co.kr",
    }
    made = run(dataset(tmp_path, texts), tmp_path / "out").dataset
    found = reasons(made)
    assert len(kept(made) & {"tuesday", "tuesday again"}) == 1
    assert {"monday"} <= kept(made)
    (copy,) = set(found) & {"tuesday", "tuesday again"}
    assert found[copy] == "exact_duplicate"
    rows = {row["source_id"]: row for row in made.read("rejected").to_pylist()}
    (same,) = kept(made) & {"tuesday", "tuesday again"}
    assert rows[copy]["detail"] == f"survivor {id_of(same)}", "not the report of another day"
    assert rows[copy]["cluster_size"] == 3
    for pair in ({"page", "page later"}, {"mail", "other mail"}):
        (fell,) = set(found) & pair
        assert found[fell] == "same_wording"
        assert 0.9 < dict(rows[fell]["signals"])["duplicate_similarity"] < 1.0
    assert made.manifest.counters.custom["kept_for_their_numbers"] == 1


def test_a_recipe_keeps_every_number_of_the_sources_it_names(tmp_path: Path) -> None:
    law = "제 {} 조에 따른 신고는 관할 관청에 하여야 하며 관청은 이를 접수한 날부터 지체 없이 처리하고 그 결과를 신고인에게 알린다"
    documents = dataset(
        tmp_path, {"a": law.format(12), "b": law.format(45), "copy": law.format(45) + "."}, source="law-kr"
    )
    default = run(documents, tmp_path / "default").dataset
    assert len(kept(default)) == 1, "one number is little"
    listed = run(
        documents, tmp_path / "listed", DeduplicateConfig(numbers=NumbersConfig(keep_sources=("law*",)))
    ).dataset
    assert len(kept(listed)) == 2
    assert list(reasons(listed).values()) == ["exact_duplicate"]


def test_between_equal_copies_the_clean_one_survives(tmp_path: Path) -> None:
    clean = text(9)
    dirty = clean.replace(" ", " \u200b", 3)
    soft = clean[:7] + "\u00ad" + clean[7:]
    for number, order in enumerate(itertools.permutations(("a", "b", "c"))):
        names = dict(zip(order, (dirty, clean, soft), strict=True))
        made = run(dataset(tmp_path / str(number), names), tmp_path / str(number) / "out").dataset
        assert kept(made) == {order[1]}
        assert set(reasons(made).values()) == {"exact_duplicate"}


def test_odd_texts(tmp_path: Path) -> None:
    sentence = "한글 낱자는 모아 쓰기도 하고 풀어 쓰기도 하지만 읽는 사람에게는 같은 글로 보인다는 말입니다"
    texts = {
        "one": "가",
        "one again": "가 ",
        "two": "나",
        "jamo": "ㅋㅋㅋㅋㅋㅋ",
        "jamo more": "ㅋㅋㅋㅋㅋㅋㅋ",
        "smile": "😀😀",
        "grin": "😂😂",
        "nfc": sentence,
        "nfd": unicodedata.normalize("NFD", sentence),
        "mixed": sentence[:20] + unicodedata.normalize("NFD", sentence[20:]),
    }
    made = run(dataset(tmp_path, texts), tmp_path / "out").dataset
    dropped = reasons(made)
    assert set(dropped.values()) == {"exact_duplicate"}
    for group in ({"one", "one again"}, {"nfc", "nfd", "mixed"}):
        assert len(group & kept(made)) == 1, "one of each stays"
        assert len(group & set(dropped)) == len(group) - 1
    assert len(dropped) == 3
    assert {"two", "jamo", "jamo more", "smile", "grin"} <= kept(made)


def of_texts(folder: Path, texts: list[str], buckets: int = 1) -> Dataset:
    """A documents dataset made without ingest (which has a limit on the size of a record, and takes its time)."""
    rows = sorted((document_id("s", str(n), None, b""), str(n), value) for n, value in enumerate(texts))
    entries = []
    for bucket in range(buckets):
        mine = [row for row in rows if bucket_of(row[0], buckets) == bucket]
        columns = {
            "doc_id": [row[0] for row in mine],
            "source_id": [row[1] for row in mine],
            "content_hash": [content_hash(row[2]) for row in mine],
            "text": [row[2] for row in mine],
            "source": ["s"] * len(mine),
            "source_tier": ["open"] * len(mine),
            "signals": pa.array([[]] * len(mine), DOCUMENT_SCHEMA.field("signals").type),
            "pii": pa.array([[]] * len(mine), DOCUMENT_SCHEMA.field("pii").type),
        }
        arrays = [
            pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(len(mine), f.type)
            for f in DOCUMENT_SCHEMA
        ]
        table = pa.Table.from_arrays(arrays, schema=DOCUMENT_SCHEMA)
        entries.append(write_table(str(folder), f"attempts/a/documents/bucket-{bucket:05d}.parquet", table, bucket))
    tables, counters = {"documents": Table(files=tuple(entries))}, Counters(rows_in=len(texts), kept=len(texts))
    digest = content_digest(tables, counters)
    manifest = Manifest(
        stage="made",
        stage_version="1",
        fingerprint=digest,
        config={},
        inputs={},
        tables=tables,
        counters=counters,
        digest=digest,
        buckets=buckets,
    )
    return commit(Target(str(folder)), manifest, "a", {})[0]


@pytest.mark.slow
def test_a_document_of_100_megabytes_beside_small_ones(tmp_path: Path) -> None:
    pool = words(1, 20_000)
    huge = " ".join(pool[n % 20_000] + str(n) for n in range(8_000_000))[:60_000_000]
    assert len(huge.encode()) > 90_000_000
    made = run(of_texts(tmp_path / "in", ["", huge, huge + " 끝", text(5), text(6), text(5)]), tmp_path / "out").dataset
    assert made.manifest.counters.kept == 4
    assert sorted(made.manifest.counters.rejected.items()) == [("exact_duplicate", 1), ("near_duplicate", 1)]


@pytest.mark.slow
def test_very_many_identical_documents_and_ten_thousand_of_one_template(tmp_path: Path) -> None:
    body = text(1, 120)
    templates = [f"{body} 접수 번호 {words(n + 50_000, 1)[0]} 담당 {words(n + 90_000, 1)[0]}" for n in range(10_000)]
    made = run(
        of_texts(tmp_path / "in", [text(7)] * 250_000 + templates, buckets=4),
        tmp_path / "out",
        DeduplicateConfig(max_bucket=5_000),
    ).dataset
    assert made.manifest.counters.kept == 2
    assert made.manifest.counters.rejected == {"exact_duplicate": 249_999, "near_duplicate": 9_999}
    (found,) = made.manifest.info["duplicates"]["cluster_sizes"][-1:]
    assert (found["from"], found["documents"]) == (100_000, 250_000)
    assert made.manifest.info["duplicates"]["templates"][0]["forms"] > 5_000
    assert made.manifest.counters.custom["pairs_compared"] < 20 * 10_000, "no pair explosion"


def some_texts() -> dict[str, object]:
    """Copies, near-copies, chains, a quotation, boilerplate and items, a few of each."""
    rows: dict[str, object] = {f"t{n}": text(n, 40 + n) for n in range(40)}
    rows |= {f"s{n}": text(n, 40 + n).replace(" ", "") for n in range(0, 40, 4)}
    rows |= {f"e{n}.{c}": edited(n, 3 + c, 40 + n, c) for n in range(0, 40, 3) for c in range(3)}
    rows |= {f"c{n}": " ".join([*words(70, 80)[n * 6 :], *words(71, 80)[: n * 6]]) for n in range(6)}
    rows |= {f"w{n}": weather(f"{n + 1}월 {n}일", str(2 * n + 3), str(30 + n % 2)) for n in range(9)}
    rows |= {f"v{n}": f"{text(90)} 2021년 5월 7일 조회 {n}" + "\u200b" * n for n in range(3)}
    rows["quoted"] = " ".join(words(80, 200))
    rows["quoting"] = " ".join([*words(81, 300), *words(80, 200), *words(82, 300)])
    rows |= {f"f{n}": f"{text(100 + n, 50)}\n이 글은 상업적으로 쓸 수 없습니다 출처를 밝혀 주세요" for n in range(25)}
    return rows


@pytest.mark.spark
def test_the_driver_and_spark_come_to_the_same_bytes(tmp_path: Path, spark_engine: SparkEngine) -> None:
    documents = dataset(tmp_path, some_texts(), buckets=4)
    session = spark_engine.spark()
    found = {}
    ways = {
        "this process": (LocalEngine(), {}, 3),
        "spark workers": (spark_engine, {}, 3),
        "shuffled, 7": (spark_engine, {"driver_rows": 0}, 7),
        "distributed, 1": (spark_engine, {"driver_rows": 0, "driver_documents": 0}, 1),
        "distributed, 40": (spark_engine, {"driver_rows": 0, "driver_documents": 0}, 40),
    }
    for name, (engine, settings, partitions) in ways.items():
        session.conf.set("spark.sql.shuffle.partitions", str(partitions))
        made = run(documents, tmp_path / name, DeduplicateConfig(**settings), engine).dataset
        tables = {
            table: [entry.checksum for entry in made.table(table).files]
            for table in ("documents", "rejected", "boilerplate", "contained", "contamination", "report", "examples")
        }
        found[name] = (made.manifest.fingerprint, made.manifest.digest, tables, made.manifest.counters.custom)
    session.conf.set("spark.sql.shuffle.partitions", "3")
    first = found.pop("this process")
    assert {name: value == first for name, value in found.items()} == dict.fromkeys(found, True)
    assert len(first[2]["documents"]) == 4
    assert made.manifest.counters.rejected["near_duplicate"] > 20


def test_a_run_that_is_killed_goes_on_from_its_sketches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperclova_core.corpus.deduplicate import in_memory

    documents = dataset(tmp_path, some_texts(), buckets=4)
    clean = run(documents, tmp_path / "clean").dataset
    inner = in_memory.resolve_clusters

    def fails(*parts: object) -> object:
        raise RuntimeError("killed here")

    monkeypatch.setattr(in_memory, "resolve_clusters", fails)
    with pytest.raises(RuntimeError):
        run(documents, tmp_path / "out")
    monkeypatch.setattr(in_memory, "resolve_clusters", inner)
    seen = []
    from hyperclova_core.corpus.deduplicate import sketches

    original = sketches.sketch_batch
    monkeypatch.setattr(sketches, "sketch_batch", lambda *parts: seen.append(1) or original(*parts))
    again = run(documents, tmp_path / "out").dataset
    assert seen == [], "sketches were taken over"
    assert again.manifest.digest == clean.manifest.digest
    for table in ("documents", "rejected", "report"):
        assert [e.checksum for e in again.table(table).files] == [e.checksum for e in clean.table(table).files]
    mine = f"/attempts/{again.attempt['attempt']}/"
    left = [path for path in storage.list_files(str(tmp_path / "out")) if mine in path or "/sketches/" in path]
    assert not [path for path in left if re.search("/(materialized|scans|sketches|decisions)/", path)], (
        "only gc's work is left"
    )


def test_the_report_says_what_fell_out_and_shows_no_text(tmp_path: Path) -> None:
    made = run(dataset(tmp_path, some_texts()), tmp_path / "out").dataset
    numbers = made.manifest.info["duplicates"]
    assert sum(row["documents"] for row in numbers["cluster_sizes"]) == made.manifest.counters.rows_in
    assert numbers["sources"]["s"]["kept"] == made.manifest.counters.kept
    report, page = made.files("report")
    assert json.loads(storage.read_bytes(report)) == json.loads(json.dumps(numbers))
    shown = storage.read_bytes(page).decode()
    secret = text(0, 40).split()[0]
    assert secret not in shown
    (examples,) = made.files("examples")
    assert "/restricted/" in examples
    assert storage.read_bytes(examples).decode().count("similarity") == 12
