"""Every kind of object and file changed in every way: all of it is found, named, and harms nobody else.

Bit flip, truncation, deletion and the exchange with another of its kind (where there is none, with another
volume's), for every kind of object in the store, files of the cache, and the file of the index. At full size
1,000 changes of each kind in each way, or all there are if those are fewer; a few in everyday tests, after
one set-up for all of them. FUSEGW_TAMPER_SEED chooses others.
"""

import errno
import hashlib
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fusegw.assembly import Runtime
from fusegw.check.damages import LOG
from fusegw.check.run import Check, Report, run
from fusegw.clock import SystemClock
from fusegw.errors import FusegwError, errno_of
from fusegw.keys.volume import open_volume
from fusegw.meta.beside import IndexBeside
from fusegw.meta.codec import Table
from fusegw.meta.schema import LOGGED_TABLES, ROOT_INODE
from fusegw.meta.view import View
from fusegw.packs.format import NONCE_SIZE, TAG_SIZE
from fusegw.packs.reader import ChunkRef, PackReader
from fusegw.ship.recover import Until, recover
from fusegw.store.faulty import FaultyStore
from fusegw.store.memory import MemoryStore
from tests.check.forked import Ended, forked
from tests.faults.support import KEYS, content, forget_cached, read_file, source, volume, write_file
from tests.meta.pages import used
from tests.ship.test_recover import Dump, dump
from tests.ship.test_tamper import SECRET, SEED, Volume

WAYS = ("flip", "cut", "delete", "exchange")
FEW = 15
MANY = 1000
CLOCK = SystemClock()
BESIDE = shutil.ignore_patterns("lock*", "reserve")
"""What lies beside the file of an index, and is made anew."""


class World:
    """A volume with its host, another volume to take strange objects from, and what is right."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.volume, other = Volume(0), Volume(1)
        self.host = base / "host"
        self.volume.make(self.host)
        other.make(base / "other")
        self.older = (self.host / "meta" / "data.mdb").read_bytes()
        """The file of an index that the log went on after."""
        trio.run(self.volume._reign, self.host, 3)
        self.volume._sort()
        self.store = self.volume.store
        self.objects = self.volume.objects()
        self.strange = other.objects()
        self.kinds = self.volume.kinds
        self.strange_kinds = other.kinds
        self.made = 0
        self.states: dict[int, Dump] = {}
        """By position, what a recovery must bring."""

    def place(self) -> Path:
        """A new one."""
        self.made += 1
        return self.base / f"{self.made}"

    def put(self, changed: dict[str, bytes | None]) -> None:
        for key, data in changed.items():
            if data is None:
                self.store.delete([key])
            else:
                self.store.put(key, data, create_only=False)

    def mend(self, changed: dict[str, bytes | None]) -> None:
        self.put({key: self.objects[key] for key in changed})

    def check(self, meta: Path | None = None, **options: object) -> Report:
        with IndexBeside(meta or self.host / "meta") as index:
            given = Check(
                index.view,
                self.store,
                self.volume.keys,
                CLOCK,
                lambda seconds: None,
                places=[self.host / "cache" / "packs"],
                share=1.0,
                files_max=1000,
            )
            return run(msgspec.structs.replace(given, **options))

    def recovered(self, until: int | None = None) -> tuple[int, tuple[str, ...], Dump]:
        """Position, what was passed over, and all rows."""
        place = self.place()
        done = recover(
            place,
            self.store,
            self.volume.keys,
            metadata_limit_bytes=1 << 30,
            clock=CLOCK,
            until=Until(seq=until),
        )
        try:
            with IndexBeside(place) as index:
                return done.head.seq, done.skipped, dump(index)  # type: ignore[arg-type]
        finally:
            shutil.rmtree(place)

    @asynccontextmanager
    async def reader(self, *, cache: Path | None = None) -> AsyncIterator[Runtime]:
        """The volume as a gateway shows it that only reads; without `cache` all comes from the store."""
        place = self.place()
        shutil.copytree(self.host / "meta", place / "meta", ignore=BESIDE)
        if cache is not None:
            shutil.copytree(cache, place / "cache")
        given = msgspec.structs.replace(source(place, self.store), keys=self.volume.keys, read_only=True)
        async with volume(given) as runtime:
            yield runtime
        shutil.rmtree(place)

    async def unreadable(self, runtime: Runtime) -> dict[str, str]:
        """Files that cannot be read, and why; every other one has its content."""
        lost = {}
        for name, right in self.volume.newest.items():
            try:
                assert await read_file(runtime, name) == right, f"wrong bytes in {name!r}"
            except FusegwError as error:
                assert errno_of(error) == errno.EIO, error
                lost["/" + name.decode()] = str(error)
        return lost


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """In memory where there is some: there are thousands of small files."""
    where = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=where, prefix="fusegw-damage-") as directory:
        yield World(Path(directory))


Changed = dict[str, bytes | None]


def changes(
    objects: dict[str, bytes],
    keys: list[str],
    strange: list[bytes],
    how: str,
    count: int,
    *,
    places: Callable[[str], list[int]] | None = None,
) -> Iterator[Changed]:
    """`count` different changes of one of `keys` (of two, when they are exchanged), or all there are: what
    each key holds then, None for nothing. `places` are the bytes of one in which bits are flipped."""
    dice = random.Random(f"{SEED} {how} {sorted(keys)[0]}")
    if how == "delete":
        yield from [{key: None} for key in dice.sample(keys, min(count, len(keys)))]
    elif how == "exchange":
        pairs: list[Changed] = [
            {one: objects[other], other: objects[one]} for one in keys for other in keys if one < other
        ]
        pairs += [{key: data} for key in keys for data in strange]
        yield from dice.sample(pairs, min(count, len(pairs)))
    else:
        seen: set[tuple[str, int, int]] = set()
        for _ in range(4 * count):
            key = dice.choice(keys)
            data = objects[key]
            inside = range(len(data)) if places is None else places(key)
            at = dice.choice(inside) if how == "flip" else dice.randrange(len(data))
            bit = dice.randrange(8) if how == "flip" else 0
            if (key, at, bit) in seen or len(seen) == count:
                continue
            seen.add((key, at, bit))
            flipped = data[:at] + bytes((data[at] ^ 1 << bit,)) + data[at + 1 :]
            yield {key: flipped if how == "flip" else data[:at]}


class Told:
    """How many changes of a kind and way there were, and what came of them."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Counter[str]] = {}

    def count(self, kind: str, how: str, outcome: str) -> None:
        self.outcomes.setdefault(f"{kind}, {how}", Counter())[outcome] += 1

    def show(self) -> None:
        for what, outcomes in self.outcomes.items():
            each = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items()))
            print(f"{what}: {sum(outcomes.values()):,}: {each}")


@contextmanager
def case(kind: str, how: str, number: int, changed: Changed) -> Iterator[None]:
    """A failure says which change it was, of files that are laid anew for each."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"{kind}, {how}, change {number}: {sorted(changed)}")
        raise


def in_store(world: World, count: int, *kinds: str) -> Iterator[tuple[str, str, Changed]]:
    """The changes of objects of these kinds, one by one; each is undone when the next is asked for."""
    for kind in kinds:
        strange = [world.strange[key] for key in world.strange_kinds[kind]]
        for how in WAYS:
            for changed in changes(world.objects, world.kinds[kind], strange[:3], how, count):
                world.put(changed)
                try:
                    yield kind, how, changed
                finally:
                    world.mend(changed)


def sizes() -> pytest.MarkDecorator:
    full = pytest.param(MANY, marks=[pytest.mark.soak, pytest.mark.timeout(14_400)])
    return pytest.mark.parametrize("count", [FEW, full])


@sizes()
def test_header_and_keys(world: World, count: int) -> None:
    """Nothing is opened, and the message names the object."""
    told = Told()
    for kind, how, changed in in_store(world, count, "header", "key generation"):
        with pytest.raises(FusegwError) as caught:
            open_volume(world.store, SECRET)
        text = str(caught.value)
        assert "\n" not in text
        # Without the header there is no volume, and nobody knows the number of keys that are gone.
        assert any(key in text for key in changed) or world.store.url in text
        told.count(kind, how, f"refused as {type(caught.value).__name__}")
    told.show()


@sizes()
async def test_packs(world: World, count: int) -> None:
    """Check names the pack, and just those files that cannot be read from then on."""
    told = Told()
    async with world.reader() as runtime:
        for kind, how, changed in in_store(world, count, "pack"):
            report = world.check()
            assert {damage.object for damage in report.damage} == set(changed)
            named = {path for damage in report.damage for path in damage.files}
            forget_cached(runtime)
            lost = await world.unreadable(runtime)
            assert set(lost) == named
            ids = [key.rpartition("/")[2] for key in changed]
            assert all(any(one in why for one in ids) for why in lost.values()), lost
            told.count(kind, how, "named, and files with it" if named else "named, no file needs that part")
    told.show()


LOGGED = ("segment of a takeover", "segment", "part of a step", "manifest", "part of a checkpoint")


@sizes()
def test_log_and_checkpoints(world: World, count: int) -> None:
    """Check names the object; a recovery brings a state that was, or is refused by the name of the object."""
    told = Told()
    newest = world.recovered()
    for kind, how, changed in in_store(world, count, *LOGGED):
        report = world.check()
        assert not report.whole
        problems = [damage.problem for damage in report.damage]
        assert all(names(changed, damage.object, damage.problem) for damage in report.damage), problems
        try:
            seq, skipped, rows = world.recovered()
        except FusegwError as error:
            assert names(changed, LOG, str(error)), error
            told.count(kind, how, "named, recovery refused")
            continue
        if seq not in world.states:
            world.mend(changed)
            world.states[seq] = world.recovered(seq)[2]
            world.put(changed)
        assert rows == world.states[seq]
        if seq < newest[0]:
            told.count(kind, how, "named, an older state recovered")
        elif skipped:
            assert all(names(changed, LOG, one) for one in skipped), skipped
            told.count(kind, how, "named, recovered from an older checkpoint")
        else:
            told.count(kind, how, "named, recovery does not need it")
    told.show()


def names(changed: Changed, place: str, problem: str) -> bool:
    """Whether one of the objects is named, or the folder of one, or (a takeover that is gone) its epoch."""
    return (
        any(key in problem for key in changed)
        or any(key.startswith(place) for key in changed if place.endswith("/"))
        or "takeover that began epoch" in problem
    )


def files_below(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def lay(place: Path, files: dict[str, bytes], changed: Changed) -> None:
    """Those files as the change leaves them."""
    for name, data in {**files, **changed}.items():
        if data is not None:
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


@sizes()
async def test_files_of_the_cache_that_the_store_has_too(world: World, count: int) -> None:
    """Whatever became of them, every file reads right: from the store."""
    told = Told()
    files = files_below(world.host / "cache" / "packs")
    assert len(files) > 5
    strange = [b"", bytes(50_000)]
    for how in WAYS:
        for number, changed in enumerate(changes(files, sorted(files), strange, how, count)):
            with case("cache file", how, number, changed):
                place = world.place()
                lay(place / "packs", files, changed)
                async with world.reader(cache=place) as runtime:
                    assert await world.unreadable(runtime) == {}
                shutil.rmtree(place)
                told.count("cache file", how, "every file reads right")
    told.show()


@sizes()
async def test_packs_that_are_not_in_the_store_yet(tmp_path: Path, count: int) -> None:
    """The only copy: check names the pack, and just those files that cannot be read from then on."""
    told = Told()
    right = {b"f%d" % number: content(number, 20_000 + 40_000 * number) for number in range(5)}
    store = FaultyStore(MemoryStore(clock=CLOCK), seed=1)
    async with volume(source(tmp_path / "host", store, unmount_wait_s=0.1)) as runtime:
        await runtime.volume.barrier()
        store.set_outage(True)
        for name, data in right.items():
            await write_file(runtime, name, data)
            await runtime.volume.sync()
            await runtime.shipper.close()
    packs = tmp_path / "host" / "cache" / "packs"
    files = files_below(packs)
    assert len(files) == len(right)
    store.set_outage(False)
    for how in WAYS:
        for number, changed in enumerate(changes(files, sorted(files), [b""], how, count)):
            with case("pack that is only here", how, number, changed):
                place = tmp_path / how / str(number)
                lay(place / "cache" / "packs", files, changed)
                shutil.copytree(tmp_path / "host" / "meta", place / "meta", ignore=BESIDE)
                with IndexBeside(place / "meta") as index:
                    given = Check(index.view, store, KEYS, CLOCK, lambda seconds: None)
                    places = [place / "cache" / "packs"]
                    report = run(msgspec.structs.replace(given, places=places, share=1.0))
                named = {path for damage in report.damage for path in damage.files}
                ids = {name.rpartition("/")[2] for name in changed}
                assert {damage.object.rpartition("/")[2] for damage in report.damage} <= ids
                lost = set()
                async with volume(msgspec.structs.replace(source(place, store), read_only=True)) as runtime:
                    for name, data in right.items():
                        try:
                            assert await read_file(runtime, name) == data, f"wrong bytes in {name!r}"
                        except FusegwError as error:
                            assert any(one in str(error) for one in ids), error
                            lost.add("/" + name.decode())
                assert lost == named
                shutil.rmtree(place)
                told.count("pack that is only here", how, "named with files" if named else "no file needs it")
    told.show()


def digest_of(view: View) -> str:
    """Of all rows that describe the volume."""
    found = hashlib.blake2b()
    for table in LOGGED_TABLES:
        for key, stored in view.stored(table):
            found.update(key)
            found.update(stored)
    return found.hexdigest()


class Index:
    """The file of the index, changed; what a check and a gateway make of it, each in a process of its own."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.right = self.asked(world.host / "meta")["rows"]

    def asked(self, meta: Path) -> dict[str, Any]:
        """What a check finds; without that, a digest of all rows."""

        def question() -> dict[str, Any]:
            try:
                report = self.world.check(meta)
                found = [damage.problem for damage in report.damage]
                with IndexBeside(meta) as index, index.view() as view:
                    return {"found": found, "rows": None if found else digest_of(view)}
            except FusegwError as error:
                return {"found": [str(error)], "rows": None}

        return forked(question)

    def shown(self, place: Path) -> dict[str, Any]:
        """Which files a gateway does not show; AssertionError when one has wrong bytes."""

        async def read() -> list[str]:
            given = msgspec.structs.replace(
                source(place, self.world.store), keys=self.world.volume.keys, read_only=True
            )
            async with volume(given) as runtime:
                names = runtime.volume.namespace
                lost = []
                for name, right in self.world.volume.newest.items():
                    try:
                        if names.lookup(ROOT_INODE, name) is None:
                            lost.append("no " + name.decode())
                        elif await read_file(runtime, name) != right:
                            raise AssertionError(f"wrong bytes in {name!r}")
                    except (FusegwError, OSError) as error:
                        assert errno_of(error) in (errno.EIO, errno.ESTALE, errno.ENOENT), error
                        lost.append(str(error))
                return lost

        def question() -> dict[str, Any]:
            try:
                return {"lost": trio.run(read)}
            except FusegwError as error:
                return {"lost": [str(error)]}
            except BaseExceptionGroup as group:
                wrong, rest = group.split(FusegwError)
                if rest is not None:
                    raise
                return {"lost": [str(wrong)]}

        return forked(question)


@sizes()
def test_the_file_of_the_index(world: World, count: int) -> None:
    """It is found, or changed nothing; a gateway shows what is right, or an error."""
    told, index = Told(), Index(world)
    data = (world.host / "meta" / "data.mdb").read_bytes()
    strange = (world.base / "other" / "meta" / "data.mdb").read_bytes()
    inside = [at for begin, end in used(data) for at in range(begin, end)]
    for how in WAYS:
        for number, changed in enumerate(
            changes(
                {"data.mdb": data}, ["data.mdb"], [strange, world.older], how, count, places=lambda _: inside
            )
        ):
            with case("index file", how, number, changed):
                place = world.place()
                lay(place / "meta", {}, changed)
                told.count("index file", how, outcome(index, place))
                shutil.rmtree(place, ignore_errors=True)
    told.show()


def outcome(index: Index, place: Path) -> str:
    try:
        asked = index.asked(place / "meta")
    except Ended:
        return "ended the check"
    if asked["found"]:
        try:
            index.shown(place)
        except Ended:
            return "found, a gateway would end"
        return "found"
    assert asked["rows"] == index.right, "other rows, and nothing was found"
    assert index.shown(place) == {"lost": []}
    return "changed nothing"


def test_control_without_the_checksums_of_rows_a_flipped_bit_passes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index(world)
    data = (world.host / "meta" / "data.mdb").read_bytes()
    inside = [at for begin, end in used(data) for at in range(begin, end)]
    monkeypatch.setattr(Table, "refuse", lambda self, raw_key: None)
    for changed in changes({"data.mdb": data}, ["data.mdb"], [], "flip", 200, places=lambda _: inside):
        place = world.place()
        lay(place / "meta", {}, changed)
        asked = index.asked(place / "meta")
        shutil.rmtree(place)
        if not asked["found"] and asked["rows"] != index.right:
            return
    pytest.fail("every flipped bit was found by something else")


async def test_control_without_its_tag_a_record_is_served_as_it_lies(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(self: PackReader, ref: ChunkRef, sealed: bytes | memoryview) -> bytes:
        key = world.volume.keys.pack_key(ref.key_version, ref.salt, ref.pack_id)
        mode = modes.CTR(bytes(sealed[:NONCE_SIZE]) + b"\0\0\0\2")
        return Cipher(algorithms.AES(key), mode).decryptor().update(bytes(sealed[NONCE_SIZE:-TAG_SIZE]))

    (changed,) = changes(world.objects, world.kinds["pack"], [], "flip", 1)
    world.put(changed)
    try:
        async with world.reader() as runtime:
            assert await world.unreadable(runtime), "with its tag it is not"
        assert not world.check().whole
        assert world.check(share=0.0).whole, "who reads nothing finds nothing"
        monkeypatch.setattr(PackReader, "_open", opened)
        with pytest.raises(BaseExceptionGroup) as caught:
            async with world.reader() as runtime:
                await world.unreadable(runtime)
        assert caught.group_contains(AssertionError, match="wrong bytes")
    finally:
        world.mend(changed)
