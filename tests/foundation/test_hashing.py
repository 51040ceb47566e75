"""Hashes: the same rows give the same digest however they are laid out; other rows give another."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from hyperclova_core.foundation.hashing import ContentHasher, content_digest, digest_parts, order_key, pseudonym

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "text": st.one_of(st.none(), st.text(max_size=8)),
            "number": st.one_of(st.none(), st.integers(-5, 5)),
            "signals": st.lists(st.tuples(st.text(max_size=2), st.floats(0, 1)), max_size=2),
        }
    ),
    max_size=12,
)
SCHEMA = pa.schema([("text", pa.string()), ("number", pa.int64()), ("signals", pa.map_(pa.string(), pa.float64()))])


@given(ROWS, st.integers(0, 12))
def test_chunks_and_slices_do_not_change_a_digest(rows: list[dict[str, object]], cut: int) -> None:
    table = pa.Table.from_pylist(rows, SCHEMA)
    parts = ContentHasher()
    parts.update(pa.concat_tables([table.slice(0, cut), table.slice(cut)]))
    assert parts.hexdigest() == content_digest(table)
    assert content_digest(pa.concat_tables([table, table]).slice(len(rows))) == content_digest(table)


@given(ROWS, ROWS)
def test_other_rows_have_another_digest(left: list[dict[str, object]], right: list[dict[str, object]]) -> None:
    a, b = pa.Table.from_pylist(left, SCHEMA), pa.Table.from_pylist(right, SCHEMA)
    assert (content_digest(a) == content_digest(b)) == a.equals(b)


def test_parts_do_not_run_together() -> None:
    assert digest_parts("a", "bc") != digest_parts("ab", "c")
    assert order_key(1, "x") != order_key(2, "x")


def test_digests_are_those_of_every_machine_and_version() -> None:
    assert digest_parts("id", "cafe", "1") == "24dee68ca79d22fe62396a38bd397baf"
    assert order_key(7, "x").hex() == "a198e0b5e63e8b02"
    assert pseudonym(b"key", "홍길동") == "080d8683934d5519606e14da34624bab"
