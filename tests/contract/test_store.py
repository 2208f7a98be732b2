"""The contract of `store.base.ObjectStore`, run by every implementation the same way.

The S3 and directory stores are opened as the gateway opens them, with a count, throttle and retries around
them.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fusegw.clock import SystemClock, SystemEntropy
from fusegw.errors import Corrupt, Exists, Invalid, NotFound
from fusegw.store.base import ObjectStore
from fusegw.store.counting import CountingStore, TrafficCounter
from fusegw.store.memory import MemoryStore
from fusegw.store.opening import open_store
from fusegw.store.options import StoreOptions
from fusegw.store.probe import probe_create_only
from tests.plugins.s3servers import S3Server

MIB = 1 << 20


@pytest.fixture(params=["memory", "counted", "directory", "moto", pytest.param("rgw", marks=pytest.mark.rgw)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    counter = TrafficCounter()
    if request.param in ("memory", "counted"):
        memory = MemoryStore(clock=SystemClock())
        yield memory if request.param == "memory" else CountingStore(memory, counter)
        return
    if request.param == "directory":
        options = StoreOptions(f"file://{tmp_path}/store")
    else:
        server: S3Server = request.getfixturevalue(f"{request.param}_server")
        options = server.options()
    opened = open_store(options, clock=SystemClock(), entropy=SystemEntropy(), create=True, counter=counter)
    yield opened
    opened.close()


def test_put_then_get(store: ObjectStore) -> None:
    store.put("packs/ab/one", b"some bytes")
    assert store.get("packs/ab/one", size_max=10) == b"some bytes"
    assert store.head("packs/ab/one").size == 10
    assert store.head("packs/ab/one").key == "packs/ab/one"


def test_every_byte_value_and_every_key_character_survive(store: ObjectStore) -> None:
    key = "Folder.x/_a-b.c/ABCXYZabcxyz0189._-"
    data = bytes(range(256)) * 3 + b"\r\n\0"
    store.put(key, data)
    assert store.get(key, size_max=len(data)) == data
    assert [info.key for info in store.list()] == [key]


def test_memoryview_is_stored_as_its_bytes(store: ObjectStore) -> None:
    buffer = bytearray(b"0123456789")
    store.put("view", memoryview(buffer)[2:7])
    buffer[:] = b"xxxxxxxxxx"
    assert store.get("view", size_max=5) == b"23456"


def test_empty_object(store: ObjectStore) -> None:
    store.put("empty", b"")
    assert store.get("empty", size_max=0) == b""
    assert store.head("empty").size == 0
    assert [(info.key, info.size) for info in store.list()] == [("empty", 0)]
    with pytest.raises(Invalid):
        store.get_range("empty", 0, 1)


def test_pack_sized_object(store: ObjectStore) -> None:
    data = SystemEntropy().token(32 * MIB)
    store.put("packs/ab/large", data)
    assert store.get("packs/ab/large", size_max=32 * MIB) == data
    assert store.get_range("packs/ab/large", 31 * MIB - 5, MIB) == data[31 * MIB - 5 : 32 * MIB - 5]


def test_create_only_refuses_a_taken_key(store: ObjectStore) -> None:
    store.put("log/1", b"first")
    with pytest.raises(Exists, match="log/1"):
        store.put("log/1", b"second")
    with pytest.raises(Exists):
        store.put("log/1", b"first")
    assert store.get("log/1", size_max=100) == b"first"


def test_create_only_succeeds_again_after_a_delete(store: ObjectStore) -> None:
    store.put("log/1", b"first")
    store.delete(["log/1"])
    store.put("log/1", b"second")
    assert store.get("log/1", size_max=100) == b"second"


def test_overwrite_replaces_and_creates(store: ObjectStore) -> None:
    store.put("state", b"longer first value", create_only=False)
    store.put("state", b"second", create_only=False)
    assert store.get("state", size_max=100) == b"second"
    assert store.head("state").size == 6


def test_a_race_of_create_only_puts_has_one_winner(store: ObjectStore) -> None:
    racers = 8
    for round_number in range(5):
        key, line = f"race/{round_number}", threading.Barrier(racers)

        def race(name: int, key: str = key, line: threading.Barrier = line) -> bool:
            line.wait()
            try:
                store.put(key, b"racer %d" % name)
            except Exists:
                return False
            return True

        with ThreadPoolExecutor(racers) as pool:
            won = list(pool.map(race, range(racers)))
        assert won.count(True) == 1
        assert store.get(key, size_max=100) == b"racer %d" % won.index(True)


def test_ranges(store: ObjectStore) -> None:
    data = bytes(range(100))
    store.put("ranged", data)
    for offset, length in ((0, 1), (0, 100), (10, 20), (99, 1), (1, 99)):
        assert store.get_range("ranged", offset, length) == data[offset : offset + length]


def test_ranges_that_cannot_be(store: ObjectStore) -> None:
    store.put("ranged", bytes(100))
    for offset, length in ((0, 101), (99, 2), (100, 1), (1000, 1), (50, 1000), (-1, 5), (0, 0), (0, -1)):
        with pytest.raises(Invalid, match="ranged"):
            store.get_range("ranged", offset, length)


def test_missing_object(store: ObjectStore) -> None:
    store.put("there/x", b"")
    for key in ("missing", "there/y", "no/such/folder", "there"):
        with pytest.raises(NotFound, match=key):
            store.get(key, size_max=10)
        with pytest.raises(NotFound, match=key):
            store.get_range(key, 0, 1)
        with pytest.raises(NotFound, match=key):
            store.head(key)


def test_an_object_above_the_bound_is_not_read(store: ObjectStore) -> None:
    store.put("large", b"12345")
    with pytest.raises(Corrupt, match=r"large.*5 bytes.*at most 4"):
        store.get("large", size_max=4)
    assert store.get("large", size_max=5) == b"12345"


def test_list_is_ascending_and_honours_prefix_and_start(store: ObjectStore) -> None:
    keys = ["a-b", "a/b", "a/b-c", "a/c/d", "a0", "b", "log/001", "log/002", "log/010", "z/z"]
    for key in reversed(keys):
        store.put(key, key.encode())

    def listed(prefix: str = "", start_after: str = "") -> list[str]:
        return [info.key for info in store.list(prefix, start_after=start_after)]

    assert listed() == keys
    assert listed("a") == keys[:5]
    assert listed("a/") == ["a/b", "a/b-c", "a/c/d"]
    assert listed("log/00") == ["log/001", "log/002"]
    assert listed("nothing/") == []
    assert listed(start_after="a/b") == keys[2:]
    assert listed(start_after="a/bb") == keys[3:]
    assert listed("log/", "log/001") == ["log/002", "log/010"]
    assert listed("log/", "log/999") == []
    assert listed("log/", "a") == ["log/001", "log/002", "log/010"]
    assert [info.size for info in store.list("log/")] == [7, 7, 7]


def test_list_and_delete_go_on_past_a_page(store: ObjectStore) -> None:
    keys = [f"many/{number:04}" for number in range(1002)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b"x"), keys))
    assert [info.key for info in store.list("many/")] == keys
    assert [info.key for info in store.list("many/", start_after="many/0099")] == keys[100:]
    store.delete(key for key in keys if key != "many/0777")
    assert [info.key for info in store.list()] == ["many/0777"]


def test_delete_is_idempotent(store: ObjectStore) -> None:
    store.put("a/one", b"1")
    store.put("a/two", b"2")
    store.delete(["a/one", "a/one", "missing", "no/such/folder"])
    store.delete(["a/one"])
    store.delete([])
    assert [info.key for info in store.list()] == ["a/two"]


def test_keys_that_are_not_allowed(store: ObjectStore) -> None:
    odd = ("", "/a", "a/", "a//b", "../a", "a/../b", ".hidden", "a/.b", "a b", "ä", "a\n", "a%2fb")
    for key in (*odd, "x" * 201, "/".join(["x" * 100] * 6)):
        with pytest.raises(Invalid, match="not allowed"):
            store.put(key, b"")
        with pytest.raises(Invalid, match="not allowed"):
            store.get(key, size_max=1)
        with pytest.raises(Invalid, match="not allowed"):
            store.get_range(key, 0, 1)
        with pytest.raises(Invalid, match="not allowed"):
            store.head(key)
        with pytest.raises(Invalid, match="not allowed"):
            store.delete([key])
    assert list(store.list()) == []


def test_prefixes_that_are_not_allowed(store: ObjectStore) -> None:
    for prefix in ("/", "../", "a//", "ä"):
        with pytest.raises(Invalid, match="not allowed"):
            list(store.list(prefix))


def test_url_names_the_store(store: ObjectStore) -> None:
    with pytest.raises(NotFound) as caught:
        store.get("missing", size_max=1)
    assert store.url in str(caught.value)


def test_put_time_is_the_present(store: ObjectStore) -> None:
    store.put("now", b"")
    age_ns = SystemClock().time_ns() - store.head("now").modified_ns
    assert abs(age_ns) < 3600 * 10**9
    assert next(iter(store.list())).modified_ns == pytest.approx(store.head("now").modified_ns, abs=2e9)


def test_create_only_is_found_by_the_probe(store: ObjectStore) -> None:
    assert probe_create_only(store, SystemEntropy())
    assert list(store.list()) == []
