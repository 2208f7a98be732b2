"""What snapshots still see of rows that have changed since, against plain copies."""

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fusegw.meta import history as history_module
from fusegw.meta.history import History
from fusegw.meta.metadata import Change, Metadata
from fusegw.meta.past import Past
from fusegw.meta.schema import XATTR
from fusegw.meta.snapshot import Snapshot
from tests.meta.indexes import commit, open_index

_KEYS = st.tuples(st.just(1), st.sampled_from([b"a", b"b"]))
_PUT = st.tuples(st.just("put"), _KEYS, st.sampled_from([None, b"1", b"2", b"3"]), st.booleans())
_EVENTS = st.lists(
    st.one_of(
        _PUT,
        _PUT,
        _PUT,
        st.tuples(st.just("create")),
        st.tuples(st.just("forget")),
        st.tuples(st.just("delete"), st.integers(0, 2)),
        st.tuples(st.sampled_from(["fold", "commit", "reload"])),
    ),
    min_size=10,
    max_size=40,
)
_NOWHERE = 100
"""No inode has this number."""


def no_chunks(change: Change, chunk: int) -> None:
    raise AssertionError("no extent is written here")


@pytest.mark.parametrize("bits", [8, 1 << 12])
def test_each_snapshot_sees_what_was_there(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few bits most keys share theirs, so that the rows have to be asked."""
    monkeypatch.setattr(history_module, "_TOUCHED_BITS", bits)

    @given(_EVENTS)
    @settings(max_examples=200, deadline=None)
    def run(events: list[tuple[object, ...]]) -> None:
        with TemporaryDirectory() as directory:
            follow(Path(directory), events)

    run()


def follow(directory: Path, events: list[tuple[object, ...]]) -> None:
    with closing(open_index(directory)) as metadata:
        compare(metadata, events)


def compare(metadata: Metadata, events: list[tuple[object, ...]]) -> None:
    history = History(metadata, refer=no_chunks, unrefer=no_chunks)
    present: dict[tuple[int, bytes], bytes] = {}
    copies: dict[int, dict[tuple[int, bytes], bytes]] = {}
    for number, event in enumerate(events, 1):
        with metadata.change() as change:
            match event:
                case ("put", tuple(key), value, read):
                    assert isinstance(value, bytes | None)
                    # Who has read the row may say so, and must not be believed less or more.
                    was = {"was": change.get(XATTR, key)} if read else {}
                    change.put(XATTR, key, value, **was)  # type: ignore[arg-type]
                    if value is None:
                        present.pop(key, None)
                    else:
                        present[key] = value
                case ("create",):
                    history.put(change, Snapshot(number, f"s{number}", number, 0, _NOWHERE, 0, 0))
                    copies[number] = dict(present)
                case ("delete", int(which)) if which < len(history.live):
                    seq = list(history.live)[which]
                    history.put(change, replace(history.live[seq], dying=True))
                    del copies[seq]
                case ("fold",):
                    dying = list(history.dying)
                    assert history.fold_some(change, b"", 1 << 20) is None
                    history.gone(change, dying)
        match event:
            case ("commit",):
                commit(metadata)
            case ("forget",):
                history._known.clear()
            case ("reload",):
                history.reload()
        for seq, copy in copies.items():
            past = Past(metadata, history.live[seq])
            assert dict(past.scan(XATTR, (0, b""), (_NOWHERE, b""))) == copy
            assert all(past.get(XATTR, key) == copy.get(key) for key in present.keys() | copy.keys())
