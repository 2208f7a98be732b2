"""Every kind of object in the store cut off, flipped, deleted or exchanged with another of its kind.

A host that has nothing opens the volume, rebuilds its index and reads everything. Either that is the newest
state; or an older one, and which is said; or it is refused by the name of an object that was tampered with.
A file has its content, or is an I/O error that names the pack. Anything else, such as an error that was
not made for people, fails. FUSEGW_TAMPER_SEED chooses other cases.
"""

import errno
import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

import fusegw.assembly
from fusegw.assembly import running_volume
from fusegw.clock import SystemClock, SystemEntropy
from fusegw.errors import FusegwError, errno_of
from fusegw.index import Source
from fusegw.keys.edit import add_slot
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.keys.kdf import KdfParameters
from fusegw.keys.secret import Secret
from fusegw.keys.volume import create_volume, open_volume
from fusegw.meta.schema import ROOT_INODE, Head
from fusegw.ship import segment
from fusegw.ship.checkpoints import write
from fusegw.ship.log import LogShipper
from fusegw.ship.recover import recover
from fusegw.store.memory import MemoryStore
from tests.faults.support import TUNING, content, create, read_file, source, volume, write_file
from tests.model.invariants import check_index

SEED = int(os.environ.get("FUSEGW_TAMPER_SEED", "0"))
CLOCK, ENTROPY = SystemClock(), SystemEntropy()
SECRET, OTHER_SECRET = Secret.passphrase("correct horse"), Secret.passphrase("battery staple")
CHEAP = KdfParameters(19 * 1024, 2, 1)
HARMS = ("cut", "flip", "delete", "exchange", "exchange with another volume's")
Files = dict[bytes, bytes]


class Volume:
    """The objects of a volume, and what it held at every position that was shipped."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.store = MemoryStore(clock=CLOCK)
        self.keys: VolumeKeys = create_volume(
            self.store, "tank", SECRET, kdf=CHEAP, clock=CLOCK, entropy=ENTROPY
        ).keys
        self.states: dict[int, Files] = {0: {}}
        """By segment, from there on."""
        self.kinds: dict[str, list[str]] = {}
        """Keys of the objects by kind."""

    @property
    def newest(self) -> Files:
        return self.states[max(self.states)]

    def at(self, seq: int) -> Files:
        return self.states[max(known for known in self.states if known <= seq)]

    def objects(self) -> dict[str, bytes]:
        return {entry.key: self.store.get(entry.key, size_max=1 << 24) for entry in self.store.list()}

    def make(self, directory: Path) -> None:
        """Three reigns, steps of one part and of many, two checkpoints; the log before the first is gone."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fusegw.assembly, "LogShipper", partial(LogShipper, part_bytes=1500))
            for reign in range(3):
                trio.run(self._reign, directory, reign)
        add_slot(self.store, SECRET, OTHER_SECRET, label="second", kdf=CHEAP, clock=CLOCK, entropy=ENTROPY)
        self._sort()

    async def _reign(self, directory: Path, reign: int) -> None:
        tuning = msgspec.structs.replace(TUNING, ship_interval_s=3600.0)
        given = msgspec.structs.replace(source(directory, self.store, tuning=tuning), keys=self.keys)
        files = dict(self.newest)
        async with volume(given) as runtime:
            for turn in range(3):
                for number in range(2):
                    name = b"%d-%d-%d" % (reign, turn, number)
                    files[name] = content(hash((self._seed, reign, turn, number)), 90_000 * number + 500)
                    await write_file(runtime, name, files[name])
                if turn == 1:
                    for number in range(30):
                        name = b"many-%d-%d" % (reign, number)
                        files[name] = b""
                        create(runtime, name)
                await runtime.volume.barrier()
                self.states[runtime.log.head.seq] = dict(files)
            if reign < 2:
                head = runtime.log.head
                with runtime.metadata.view() as view:
                    for _ in write(
                        view, head, self.store, self.keys, ENTROPY, still_ours=lambda: None, part_bytes=4000
                    ):
                        pass

    def _sort(self) -> None:
        at = Head()
        kinds: dict[str, list[str]] = {"segment of a takeover": [], "segment": [], "part of a step": []}
        while True:
            key = segment.object_key(at.seq + 1)
            if key not in self.objects():
                break
            data = self.store.get(key, size_max=1 << 24)
            found = segment.unseal(data, at, self.keys)
            at = Head(found.seq, segment.digest(data), found.epoch)
            kind = "segment of a takeover" if found.kind == segment.TAKEOVER else "segment"
            kinds[kind if found.final else "part of a step"].append(key)
        for key in self.objects():
            top, name = key.split("/")[0], key.rpartition("/")[2]
            kind = {"volume": "header", "keys": "key generation", "packs": "pack"}.get(top)
            if top == "checkpoints":
                kind = "manifest" if name == "manifest" else "part of a checkpoint"
            if kind is not None:
                kinds.setdefault(kind, []).append(key)
        self.kinds = kinds


class Case:
    """A copy of the volume's store, and what was done to it."""

    def __init__(self, of: Volume, other: Volume, kind: str, how: str, seed: int) -> None:
        chance = random.Random(f"{SEED} {kind} {how} {seed}")
        self.volume = of
        objects = of.objects()
        if chance.random() < 0.5:
            self._prune(objects)
        keys = [key for key in of.kinds[kind] if key in objects]
        self.victims = [chance.choice(keys)]
        victim = self.victims[0]
        data = objects.pop(victim)
        if how == "cut":
            objects[victim] = data[: chance.randrange(len(data))]
        elif how == "flip":
            at = chance.randrange(len(data))
            objects[victim] = data[:at] + bytes((data[at] ^ 1 << chance.randrange(8),)) + data[at + 1 :]
        elif how == "exchange":
            partner = chance.choice([key for key in keys if key != victim])
            objects[victim], objects[partner] = objects[partner], data
            self.victims.append(partner)
        elif how != "delete":
            objects[victim] = chance.choice([other.objects()[key] for key in other.kinds[kind]])
        self.store = MemoryStore(clock=CLOCK)
        for key, data in objects.items():
            self.store.put(key, data)

    def _prune(self, objects: dict[str, bytes]) -> None:
        """What retention leaves of the log below the oldest checkpoint."""
        oldest = min(int(key.split("/")[1][:16]) for key in self.volume.kinds["manifest"])
        takeovers = self.volume.kinds["segment of a takeover"]
        for key in [key for key in objects if key.startswith("log/") and key not in takeovers]:
            if int(key[4:]) < oldest:
                del objects[key]

    def judge(self, directory: Path) -> str:
        """What came of it, in a word; AssertionError when that must not be."""
        try:
            keys = open_volume(self.store, SECRET).keys
            found = recover(directory / "meta", self.store, keys, metadata_limit_bytes=1 << 40, clock=CLOCK)
        except FusegwError as error:
            assert "\n" not in str(error)
            assert self._is_named(str(error)), f"names none of {self.victims}: {error!r}"
            return "refused"
        given = msgspec.structs.replace(source(directory, self.store), keys=keys, read_only=True)
        lost = trio.run(self._read, given, self.volume.at(found.head.seq))
        if found.head.seq < max(self.volume.states):
            return "an older state"
        if found.skipped:
            assert self._is_named("; ".join(found.skipped)), found.skipped
            return "an older checkpoint"
        return f"{lost} unreadable" if lost else "no harm"

    async def _read(self, given: Source, right: Files) -> int:
        """Compare all files; how many could not be read."""
        lost = 0
        async with running_volume(given) as runtime:
            check_index(runtime.metadata)
            names = {name for name, _, _ in runtime.volume.namespace.readdir(ROOT_INODE, 0)}
            assert names == set(right), f"names {names ^ set(right)}"
            for name in sorted(names):
                try:
                    assert await read_file(runtime, name) == right[name], f"wrong content of {name!r}"
                except FusegwError as error:
                    assert errno_of(error) == errno.EIO, error
                    assert self._is_named(str(error)), f"names none of {self.victims}: {error!r}"
                    lost += 1
        return lost

    def _is_named(self, text: str) -> bool:
        """A pack is named by its id, the header by the address of the volume, and keys that are gone, whose
        number nobody knows, by their folder."""
        for key in self.victims:
            if key.startswith("packs/"):
                named = key.rpartition("/")[2] in text
            else:
                named = key in text or (key == "volume" and self.store.url in text)
            if named or (key.startswith("keys/") and "under keys/" in text):
                return True
        return False


@pytest.fixture(scope="module")
def volumes() -> Iterator[tuple[Volume, Volume]]:
    made = []
    for seed in range(2):
        with tempfile.TemporaryDirectory() as directory:
            made.append(Volume(seed))
            made[-1].make(Path(directory))
    yield made[0], made[1]


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is some: each case makes an index, and none is to survive."""
    where = "/dev/shm" if os.path.isdir("/dev/shm") else tmp_path
    with tempfile.TemporaryDirectory(dir=where, prefix="fusegw-tamper-") as directory:
        yield Path(directory)


def matrix(volumes: tuple[Volume, Volume], base: Path, count: int) -> dict[str, Counter[str]]:
    """So many cases of each kind and harm."""
    told: dict[str, Counter[str]] = {}
    assert len(volumes[0].kinds) == 8
    for kind, keys in volumes[0].kinds.items():
        for how in HARMS:
            if how == "exchange" and len(keys) < 2:
                continue
            outcomes = told[f"{kind}, {how}"] = Counter()
            for seed in range(count):
                case = Case(*volumes, kind, how, seed)
                try:
                    outcomes[case.judge(base / f"{kind} {how} {seed}")] += 1
                except BaseException as error:
                    error.add_note(f"{kind}, {how}, case {seed}: {case.victims}")
                    raise
    for what, outcomes in told.items():
        print(f"{what}: " + ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()))
    return told


def test_a_few_of_each(volumes: tuple[Volume, Volume], base: Path) -> None:
    told = matrix(volumes, base, 2)
    assert sum(told.values(), Counter())["refused"] > 20


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_fifty_of_each(volumes: tuple[Volume, Volume], base: Path) -> None:
    matrix(volumes, base, 50)


def test_a_false_state_under_a_true_seal_is_noticed(volumes: tuple[Volume, Volume], base: Path) -> None:
    """The control: whoever has the keys can forge a segment, and the judge sees it."""
    one, other = volumes
    case = Case(one, other, "pack", "flip", 1)
    last = max(one.states)
    key, before = segment.object_key(last), segment.object_key(last - 1)
    hash_before = segment.digest(one.store.get(before, size_max=1 << 24))
    forged, _ = segment.opened(one.store.get(key, size_max=1 << 24), last, one.keys)
    data = segment.seal(
        msgspec.structs.replace(forged, body=b""),
        hash_before,
        one.keys,
        salt=ENTROPY.token(32),
        nonce=ENTROPY.token(12),
    )
    case.store.put(key, data, create_only=False)
    with pytest.raises(ExceptionGroup) as caught:
        case.judge(base / "forged")
    assert caught.group_contains(AssertionError, match="names")
