"""Checkpoints: what is recovered from them, what damage and crashes make of them."""

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import pyzstd
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fusegw.assembly import Runtime
from fusegw.clock import SystemClock, SystemEntropy
from fusegw.errors import Corrupt, FusegwError, NotFound, UnknownFormat
from fusegw.meta import load
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import CHUNK, CHUNK_ID, DAMAGED, INODE, PACK_NUMBER_END, ROOT_INODE
from fusegw.ship import checkpoint, checkpoints
from fusegw.ship.checkpoint import MANIFEST, Name
from fusegw.ship.checkpoints import Written, examine, folders, write
from fusegw.ship.recover import Progress, Until, recover
from fusegw.store.memory import MemoryStore
from tests.faults.support import KEYS, ROOT_USER, content, create, source, volume, write_file
from tests.model.invariants import check_index
from tests.ship.test_recover import Dump, dump, recovered

PART_BYTES = 600
ENTROPY = SystemEntropy()


def nothing() -> None:
    """Nobody else writes."""


async def populate(runtime: Runtime, turn: int) -> None:
    """Some of everything that an index can hold, shipped."""
    names, root = runtime.volume.namespace, ROOT_INODE
    folder = names.mkdir(root, b"d%d" % turn, 0o755, ROOT_USER).ino
    for number in range(4):
        await write_file(runtime, b"f%d-%d" % (turn, number), content(turn * 10 + number, 90_000))
        names.mknod(folder, b"%d" % (7919 * (number + turn) % 100), 0o100600, 0, ROOT_USER)
    names.symlink(folder, b"symlink", b"somewhere/else", ROOT_USER)
    names.link(create(runtime, b"linked%d" % turn), folder, b"link")
    runtime.volume.xattrs.set(folder, b"user.mark", bytes(range(200)), 0)
    # An unlinked file that is still open waits in the reap queue.
    held = await write_file(runtime, b"held%d" % turn, content(turn + 500, 30_000))
    runtime.volume.files.opened(held)
    names.unlink(root, b"held%d" % turn)
    await runtime.volume.barrier()


def checkpointed(runtime: Runtime, store: MemoryStore, *, part_bytes: int = PART_BYTES) -> Written:
    """A checkpoint of what was shipped; nothing may have changed since."""
    head = runtime.log.head
    with runtime.metadata.view() as view:
        assert view.commit == head.commit
        *_, written = write(view, head, store, KEYS, ENTROPY, still_ours=nothing, part_bytes=part_bytes)
    assert written is not None
    return written


class Past:
    """A store whose log has two checkpoints, and what the volume was at the end."""

    def __init__(self) -> None:
        self.store = MemoryStore(clock=SystemClock())
        self.written: list[Written] = []
        self.states: dict[int, Dump] = {}

    @property
    def newest(self) -> Dump:
        return self.states[max(self.states)]

    def key(self, number: int, which: int = -1) -> str:
        return checkpoint.object_key(self.written[which].name, number)

    def prune(self) -> None:
        """What a pass leaves of the log's beginning: the takeover."""
        below = self.written[0].name.seq
        self.store.delete([f"log/{seq:016d}" for seq in range(2, below)])


@pytest.fixture
async def past(tmp_path: Path) -> Past:
    told = Past()
    async with volume(source(tmp_path / "volume", told.store)) as runtime:
        for number in range(2):
            create(runtime, b"early%d" % number)
            await runtime.volume.barrier()
        for turn in range(3):
            await populate(runtime, turn)
            told.states[runtime.log.head.seq] = dump(runtime.metadata)
            if turn < 2:
                told.written.append(checkpointed(runtime, told.store))
                assert len(told.written[-1].manifest.parts) > 3
    return told


async def test_what_comes_back_is_what_was_written_down(tmp_path: Path, past: Past) -> None:
    for written in past.written:
        done, state = recovered(tmp_path, past.store, until=Until(seq=written.name.seq))
        assert state == past.states[written.name.seq]
        assert (done.checkpoint, done.segments, done.skipped) == (written.name.seq, 0, ())
        assert done.time_ns == written.manifest.time_ns


async def test_the_log_goes_on_where_the_checkpoint_ends(tmp_path: Path, past: Past) -> None:
    past.prune()
    done, state = recovered(tmp_path, past.store)
    assert state == past.newest
    assert (done.checkpoint, done.skipped) == (past.written[-1].name.seq, ())
    assert 0 < done.segments < done.head.seq
    async with volume(source(tmp_path / "again", past.store)) as runtime:
        check_index(runtime.metadata)


async def test_runs_of_rows_that_are_made_anew_may_be_short(
    tmp_path: Path, past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "TRANSACTION_BYTES", 500)
    monkeypatch.setattr(load.Load.__init__, "__kwdefaults__", {"run_bytes": 200})
    assert recovered(tmp_path, past.store)[1] == past.newest


async def test_chunks_that_are_not_in_the_dedup_index_stay_out_of_it(tmp_path: Path) -> None:
    store = MemoryStore(clock=SystemClock())
    async with volume(source(tmp_path / "volume", store)) as runtime:
        await write_file(runtime, b"a", content(1, 50_000))
        await write_file(runtime, b"b", content(2, 50_000))
        await runtime.volume.barrier()
        first, second = [number for number, _ in runtime.metadata.scan(CHUNK, 0, PACK_NUMBER_END)]
        with runtime.metadata.change() as change:
            runtime.chunks.distrust(change, first)
            runtime.chunks.distrust(change, second)
        # The second one's data is written once more, and heals it.
        await write_file(runtime, b"c", content(2, 50_000))
        await runtime.volume.barrier()
        state = dump(runtime.metadata)
        assert [len(state[table.name]) for table in (CHUNK, CHUNK_ID, DAMAGED)] == [2, 1, 1]
        written = checkpointed(runtime, store)
    assert recovered(tmp_path, store, until=Until(seq=written.name.seq))[1] == state


async def test_metadata_of_a_small_file(tmp_path: Path) -> None:
    store = MemoryStore(clock=SystemClock())
    count = 300
    async with volume(source(tmp_path / "volume", store)) as runtime:
        for number in range(count):
            await write_file(runtime, b"document-%06d.txt" % number, b"%d" % number)
        await runtime.volume.barrier()
        written = checkpointed(runtime, store, part_bytes=checkpoint.PART_BYTES)
    assert written.manifest.raw_bytes / count <= 300
    assert written.manifest.rows["position"] == count


def harm(store: MemoryStore, key: str, how: str, other: str) -> None:
    data = store.get(key, size_max=1 << 24)
    middle = len(data) // 2
    if how == "flip":
        data = data[:middle] + bytes((data[middle] ^ 1,)) + data[middle + 1 :]
    elif how == "cut":
        data = data[:middle]
    elif how == "swap":
        data = store.get(other, size_max=1 << 24)
    store.delete([key])
    if how != "delete":
        store.put(key, data)


@pytest.mark.parametrize("how", ["flip", "cut", "delete", "swap"])
@pytest.mark.parametrize("number", [MANIFEST, 2])
async def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, past: Past, how: str, number: int
) -> None:
    past.prune()
    victim = past.key(number)
    harm(past.store, victim, how, past.key(number, 0))
    done, state = recovered(tmp_path, past.store)
    assert state == past.newest
    assert done.checkpoint == past.written[0].name.seq
    (said,) = done.skipped
    assert victim in said


@pytest.mark.parametrize("how", ["flip", "cut", "delete", "swap"])
async def test_without_any_whole_checkpoint_the_log_s_beginning_is_needed(
    tmp_path: Path, past: Past, how: str
) -> None:
    victims = [past.key(1), past.key(MANIFEST, 0)]
    harm(past.store, victims[0], how, past.key(1, 0))
    harm(past.store, victims[1], how, past.key(MANIFEST))
    done, state = recovered(tmp_path, past.store)
    assert (state, done.checkpoint) == (past.newest, None)
    assert len(done.skipped) == 2
    past.prune()
    with pytest.raises(Corrupt) as refusal:
        recovered(tmp_path, past.store)
    for name in (*victims, "log/0000000000000002"):
        assert name in str(refusal.value)
    assert not list(tmp_path.glob("recovered-*.recovering"))


async def test_parts_in_each_other_s_places_do_not_open(past: Past) -> None:
    newest = past.written[-1]
    one, two = (past.store.get(past.key(number), size_max=1 << 24) for number in (1, 2))
    assert checkpoint.unseal_part(one, newest.name, 1, KEYS)
    with pytest.raises(Corrupt, match="belongs elsewhere: it is number 2"):
        checkpoint.unseal_part(two, newest.name, 1, KEYS)
    with pytest.raises(Corrupt, match="belongs elsewhere"):
        checkpoint.unseal_part(one, past.written[0].name, 1, KEYS)
    # With the place in the header changed as well, the seal does not fit.
    forged = one[:32] + two[32:52] + one[52:]
    with pytest.raises(Corrupt, match="does not open"):
        checkpoint.unseal_part(forged, newest.name, 2, KEYS)
    with pytest.raises(UnknownFormat, match="upgrade fusegw"):
        checkpoint.unseal_part(one[:9] + b"\x09" + one[10:], newest.name, 1, KEYS)


async def test_the_bytes_are_those_of_the_format_document(past: Past) -> None:
    """Decoded by what docs/format.md says, not by the code that wrote them."""
    written = past.written[-1]
    place = f"checkpoints/{written.name.seq:016d}-{written.name.random.hex()}/"

    def opened(last: str, number: int) -> bytes:
        data = past.store.get(place + last, size_max=17 << 20)
        magic, version, zero, key_version = struct.unpack_from(">8sHHI", data)
        assert (magic, version, zero, key_version) == (b"FUSEGWC\0", 1, 0, 1)
        assert data[16:32] == KEYS.volume_id
        assert struct.unpack_from(">Q8sII", data, 32) == (written.name.seq, written.name.random, number, 0)
        key = KEYS.checkpoint_key(1, data[56:88])
        return AESGCM(key).decrypt(data[88:100], data[100:], b"fusegw checkpoint\0\0" + data[:88])

    manifest = msgspec.msgpack.decode(opened("manifest", 0))
    assert set(manifest) == {"epoch", "hash", "time_ns", "parts", "raw_bytes", "rows"}
    head = past.store.get(f"log/{written.name.seq:016d}", size_max=17 << 20)
    assert manifest["hash"] == blake3(head).digest()
    records = b""
    for number, part in enumerate(manifest["parts"], 1):
        data = past.store.get(f"{place}{number:06d}", size_max=17 << 20)
        assert part == {"size": len(data), "hash": blake3(data).digest()}
        payload = opened(f"{number:06d}", number)
        (size,) = struct.unpack_from(">I", payload)
        raw = pyzstd.decompress(payload[4:])
        assert len(raw) == size
        records += raw
    assert len(records) == manifest["raw_bytes"]
    at, rows = 0, []
    while at < len(records):
        code, put, key_size, value_size = struct.unpack_from(">BBHI", records, at)
        at += 8 + key_size + value_size
        rows.append((code, records[at - key_size - value_size : at - value_size], put))
    assert all(put == 1 for _, _, put in rows)
    assert rows == sorted(rows)
    names = {1: "state", 2: "inode", 3: "dirent", 5: "xattr", 6: "extent", 7: "chunk", 9: "pack", 10: "reap"}
    counts = Counter(names[code] for code, _, _ in rows)
    derived = {"position": counts["dirent"], "chunk_id": counts["chunk"]}
    absent = ("gateway", "damaged", "condemned", "snapshot", "history", "quota", "quota_used")
    derived |= dict.fromkeys(absent, 0)
    assert manifest["rows"] == dict(counts) | derived


def test_a_part_that_claims_to_be_huge_is_refused() -> None:
    name = Name(7, bytes(8))
    bomb = bytes(checkpoint.PART_BYTES_MAX + 1)
    data = checkpoint.seal_part(bomb, name, 1, KEYS, salt=bytes(32), nonce=bytes(12))
    assert len(data) < 10_000
    with pytest.raises(Corrupt, match="cannot be read"):
        checkpoint.unseal_part(data, name, 1, KEYS)


async def test_a_checkpoint_of_another_history_is_not_used(tmp_path: Path, past: Past) -> None:
    """As when the log is set back to an older copy, and the checkpoints are not."""
    newest = past.written[-1].name
    late = [entry.key for entry in past.store.list("log/") if int(entry.key[4:]) >= newest.seq]
    past.store.delete(late)
    done, _ = recovered(tmp_path, past.store)
    assert done.head.seq < newest.seq
    assert "does not fit the log" in done.skipped[0]
    async with volume(source(tmp_path / "other", past.store)) as runtime:
        for _ in range(len(late) + 1):
            create(runtime, b"other%d" % runtime.log.head.seq)
            await runtime.volume.barrier()
        state = dump(runtime.metadata)
    done, found = recovered(tmp_path, past.store)
    assert (found, done.checkpoint) == (state, past.written[0].name.seq)
    assert "does not fit the log" in done.skipped[0]


async def test_control_a_checkpoint_that_need_not_fit_brings_the_wrong_history(
    tmp_path: Path, past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = past.written[-1].name
    past.store.delete([e.key for e in past.store.list("log/") if int(e.key[4:]) >= newest.seq])
    monkeypatch.setattr(checkpoints, "_refuse_misfit", lambda *arguments: None)
    assert recovered(tmp_path, past.store)[0].head.seq == newest.seq


async def test_a_checkpoint_outlives_its_segment_when_the_next_one_names_it(
    tmp_path: Path, past: Past
) -> None:
    past.store.delete([f"log/{past.written[-1].name.seq:016d}"])
    done, state = recovered(tmp_path, past.store)
    assert (state, done.checkpoint) == (past.newest, past.written[-1].name.seq)


async def test_an_anchor_below_the_checkpoint_is_followed_as_far_as_the_log_is_kept(
    tmp_path: Path, past: Past
) -> None:
    old, new = (checkpoint.head_of(written.name, written.manifest) for written in past.written)
    for anchor in (old, new):
        assert recovered(tmp_path, past.store, anchor=anchor)[0].anchor_checked
    past.prune()
    assert recovered(tmp_path, past.store, anchor=old)[0].anchor_checked
    past.store.delete([f"log/{seq:016d}" for seq in range(old.seq, new.seq)])
    assert not recovered(tmp_path, past.store, anchor=old)[0].anchor_checked


async def test_a_recovery_finds_the_checkpoints_that_replaced_those_it_had_seen(
    tmp_path: Path, past: Past
) -> None:
    """Its writer writes another one, and takes away what that replaces, while the first is read."""
    past.prune()
    newest = [entry.key for entry in past.store.list(f"checkpoints/{past.written[1].name}/")]
    newer = {key: past.store.get(key, size_max=1 << 24) for key in newest}
    past.store.delete(newest)

    def replace(progress: Progress) -> None:
        if progress.parts == 1 and newer:
            past.store.delete([past.key(number, 0) for number in range(20)])
            while newer:
                past.store.put(*newer.popitem())

    done, state = recovered(tmp_path, past.store, on_progress=replace)
    assert (state, done.checkpoint) == (past.newest, past.written[1].name.seq)
    assert str(past.written[0].name) in done.skipped[0]


class Stopping(MemoryStore):
    """Ends the process after so many more changes, the last of them made or not."""

    left: int | None = None
    applied = False

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        self._count(lambda: super(Stopping, self).put(key, data, create_only=create_only))

    def delete(self, keys: object) -> None:
        self._count(lambda: super(Stopping, self).delete(keys))  # type: ignore[arg-type]

    def _count(self, change: object) -> None:
        if self.left == 0:
            if self.applied:
                change()  # type: ignore[operator]
            raise KeyboardInterrupt
        if self.left is not None:
            self.left -= 1
        change()  # type: ignore[operator]


@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
async def test_a_crash_at_any_step_leaves_nothing_that_counts(tmp_path: Path, applied: bool) -> None:
    store = Stopping(clock=SystemClock())
    async with volume(source(tmp_path / "volume", store)) as runtime:
        await populate(runtime, 1)
        state = dump(runtime.metadata)
        store.applied = applied
        for steps in range(100):
            store.left = steps
            try:
                checkpointed(runtime, store)
            except KeyboardInterrupt:
                pass
            else:
                break
            finally:
                store.left = None
            counting = list(counted(store))
            assert len(counting) <= applied, "only with all its objects"
            done, found = recovered(tmp_path, store)
            assert found == state
            assert done.checkpoint == (counting[0].name.seq if counting else None)
        else:
            raise AssertionError("a checkpoint has no end")
        assert steps > 4


def counted(store: MemoryStore) -> Iterator[Written]:
    for folder in folders(store):
        try:
            yield examine(store, KEYS, folder)
        except Corrupt:
            assert not folder.finished


class Repeating(MemoryStore):
    """Every PUT of a checkpoint comes twice, as when a reply was lost; by somebody else, if `other`."""

    other = False

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        if key.startswith("checkpoints/"):
            super().put(key, b"other" if self.other else data, create_only=True)
        super().put(key, data, create_only=create_only)


async def test_a_lost_reply_costs_no_checkpoint_and_other_bytes_are_none(tmp_path: Path) -> None:
    store = Repeating(clock=SystemClock())
    async with volume(source(tmp_path / "volume", store)) as runtime:
        await populate(runtime, 1)
        written = checkpointed(runtime, store)
        assert list(counted(store)) == [written]
        store.other = True
        with pytest.raises(Corrupt, match="holds other bytes"):
            checkpointed(runtime, store)
        assert list(counted(store)) == [written]


async def test_a_damaged_index_makes_no_checkpoint(tmp_path: Path) -> None:
    store = MemoryStore(clock=SystemClock())
    async with volume(source(tmp_path / "volume", store)) as runtime:
        await populate(runtime, 1)
        metadata = runtime.metadata
        key = INODE.encode_key(ROOT_INODE)
        writer = metadata.begin()
        stored = writer.get(key, db=metadata.databases[INODE.name])
        writer.put(key, stored[:9] + b"\xff" + stored[10:], db=metadata.databases[INODE.name])
        writer.commit()
        with pytest.raises(Corrupt, match="checksum"):
            checkpointed(runtime, store)
        writer = metadata.begin()
        writer.put(key, stored, db=metadata.databases[INODE.name])
        writer.put(bytes(16), CHUNK_ID.encode(bytes(16), 99), db=metadata.databases[CHUNK_ID.name])
        writer.commit()
        with pytest.raises(Corrupt, match="do not fit together"):
            checkpointed(runtime, store)
    assert not list(counted(store))


async def test_a_recovery_that_is_cut_off_leaves_no_index(tmp_path: Path, past: Past) -> None:
    class Cut(Exception):
        pass

    place = tmp_path / "place" / "meta"
    place.parent.mkdir()
    for steps in (1, 3, 9):
        seen: list[Progress] = []

        def count(progress: Progress, steps: int = steps, seen: list[Progress] = seen) -> None:
            seen.append(progress)
            if len(seen) == steps:
                raise Cut

        with pytest.raises(Cut):
            recover(
                place, past.store, KEYS, metadata_limit_bytes=1 << 30, clock=SystemClock(), on_progress=count
            )
        assert not place.exists()
    recover(place, past.store, KEYS, metadata_limit_bytes=1 << 30, clock=SystemClock())
    metadata = Metadata(place, size_max_bytes=1 << 30)
    assert dump(metadata) == past.newest
    metadata.close()
    assert [entry.name for entry in place.parent.iterdir()] == ["meta"]


async def test_a_checkpoint_is_not_for_a_position_the_store_does_not_have(tmp_path: Path) -> None:
    store = MemoryStore(clock=SystemClock())
    async with volume(source(tmp_path / "volume", store)) as runtime:
        await populate(runtime, 1)
        store.delete([f"log/{runtime.log.head.seq:016d}"])
        with pytest.raises((NotFound, FusegwError)):
            checkpointed(runtime, store)
    assert not list(store.list("checkpoints/"))
