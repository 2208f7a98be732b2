"""Layers: keys in order whenever they came, and one layer over another in both directions."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fusegw.meta.layers import Rows, overlay

_keys = st.integers(0, 30)
_rows = st.dictionaries(_keys, st.one_of(st.none(), st.integers()), max_size=12)


@given(st.lists(st.tuples(_rows, _keys, _keys, st.booleans()), max_size=6))
def test_keys_are_in_order_however_writes_and_scans_alternate(
    rounds: list[tuple[dict[int, Any], int, int, bool]],
) -> None:
    rows = Rows()
    for written, low, high, reverse in rounds:
        for key, value in written.items():
            rows[key] = value
        expected = sorted((key for key in rows if low <= key < high), reverse=reverse)
        assert list(rows.between(low, high, reverse=reverse)) == expected


@given(st.dictionaries(_keys, st.integers()), _rows, _keys, _keys, st.booleans())
def test_overlay_hides_what_lies_below(
    below: dict[int, int], above: dict[int, Any], low: int, high: int, reverse: bool
) -> None:
    rows = Rows()
    rows.update(above)
    lower = sorted(((key, below[key]) for key in below if low <= key < high), reverse=reverse)
    merged = {**dict(lower), **{key: above[key] for key in above if low <= key < high}}
    found = list(overlay(iter(lower), rows, low, high, reverse=reverse))
    assert found == [(key, merged[key]) for key in sorted(merged, reverse=reverse)]


def test_keys_are_put_in_order_by_a_scan_only() -> None:
    """What makes writes cheap: unorderable keys do no harm until somebody scans."""
    rows = Rows()
    rows["a"], rows[1] = 1, 2
    assert rows["a"] == 1
    try:
        list(rows.between(0, 9, reverse=False))
    except TypeError:
        return
    raise AssertionError("keys that cannot be compared were put in order")
