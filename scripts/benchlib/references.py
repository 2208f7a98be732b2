"""What this machine can do where no gateway is involved, measured on the same data in the same round.

`TwoThreads` opens the packs that fusegw made, `Parallel` fetches them, `Disk` is the file system that
everything lies on. `scripts.benchlib.memory` has one more.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from blake3 import blake3

from fusegw.errors import Corrupt
from fusegw.keys import VolumeKeys
from fusegw.packs.compress import decompress
from fusegw.packs.format import HEADER_SIZE, TRAILER_SIZE, Entry, PackCipher, decode_header, decode_trailer
from scripts.benchlib import creating, fio, machine
from scripts.benchlib.contender import Figures, Participant, Reference, Timed, read_again
from scripts.benchlib.corpus import Corpus
from scripts.benchlib.gateway import Gateway
from scripts.benchlib.machine import Stopwatch

THREADS = 2
REQUESTS = 8
_TOGETHER = 8
"""Records that a thread takes at a time."""


class _BesideGateway(Reference):
    """A reference that needs what fusegw has stored."""

    room = 0.0

    def meet(self, others: Iterable[Participant]) -> None:
        (self.gateway,) = (one for one in others if isinstance(one, Gateway))


class TwoThreads(_BesideGateway):
    """Two threads that read the packs of day 1 from the disk, and open, decompress and verify each record."""

    name = "two threads"
    workloads = ("cached",)

    @classmethod
    def version(cls) -> str:
        return ""

    def measure(self, workloads: tuple[str, ...], corpus: Corpus) -> Figures:
        if "cached" not in workloads:
            return {}
        keys = self.gateway.keys()
        wanted = {key.rpartition("/")[2] for key in self.gateway.packs}
        files = [file for file in (self.gateway.directory / "cache").rglob("*") if file.name in wanted]
        machine.forget_pages()
        with Stopwatch() as watch, ThreadPoolExecutor(THREADS) as pool:
            packs = [_open(file, keys) for file in files]
            try:
                parts = [part for pack in packs for part in pack.parts()]
                amount = sum(pool.map(_verify, parts))
            finally:
                for pack in packs:
                    os.close(pack.descriptor)
        return {"cached": Timed(amount, watch.seconds)}


class _Pack(msgspec.Struct, frozen=True):
    descriptor: int
    cipher: PackCipher
    entries: list[Entry]
    id_key: bytes

    def parts(self) -> "list[tuple[_Pack, list[Entry]]]":
        starts = range(0, len(self.entries), _TOGETHER)
        return [(self, self.entries[start : start + _TOGETHER]) for start in starts]


def _open(file: Path, keys: VolumeKeys) -> _Pack:
    descriptor = os.open(file, os.O_RDONLY)
    size = os.fstat(descriptor).st_size
    header = decode_header(os.pread(descriptor, HEADER_SIZE, 0), file.name)
    trailer = os.pread(descriptor, TRAILER_SIZE, size - TRAILER_SIZE)
    length = decode_trailer(trailer, size, file.name)
    start = size - TRAILER_SIZE - length
    cipher = PackCipher(keys, header.key_version, header.pack_id, header.salt)
    entries = cipher.open_footer(os.pread(descriptor, length, start), start, 0)
    return _Pack(descriptor, cipher, entries, keys.chunk_id_key)


def _verify(part: tuple[_Pack, list[Entry]]) -> int:
    """Bytes of the chunks in these records."""
    pack, entries = part
    for chunk_id, place in entries:
        sealed = os.pread(pack.descriptor, place.stored, place.offset)
        raw = decompress(place.codec, pack.cipher.open(sealed, chunk_id, place), place.raw)
        if blake3(raw, key=pack.id_key).digest() != chunk_id:
            raise Corrupt(f"{pack.cipher.describe(place)} holds another chunk")
    return sum(place.raw for _, place in entries)


class Parallel(_BesideGateway):
    """boto3 that fetches the packs of day 1, eight at a time, and does nothing with them.

    Its figure is day 1's length by that time, so that it can stand beside the others'.
    """

    name = "boto3"
    stores = ("s3",)
    workloads = ("cold",)

    @classmethod
    def version(cls) -> str:
        import boto3  # slow to import: a run over directories need not wait

        return str(boto3.__version__)

    def measure(self, workloads: tuple[str, ...], corpus: Corpus) -> Figures:
        if "cold" not in workloads:
            return {}
        machine.forget_pages()
        with Stopwatch() as watch, ThreadPoolExecutor(REQUESTS) as pool:
            for _ in pool.map(self._fetch, self.gateway.packs):
                pass
        return {"cold": Timed(corpus.day1.stat().st_size, watch.seconds)}

    def _fetch(self, key: str) -> None:
        self.gateway.store.read(key)


class Disk(Reference):
    """The file system that the benchmark's data and the contenders' directories lie on."""

    name = "ext4"
    room = 1.5
    workloads = ("reread", "create-busy", *(name for case in fio.CASES for name in case.workloads))

    @classmethod
    def version(cls) -> str:
        return os.uname().release

    def measure(self, workloads: tuple[str, ...], corpus: Corpus) -> Figures:
        if "reread" in workloads:
            return {"reread": read_again(corpus.day1)}
        if "create-busy" in workloads:
            return {"create-busy": creating.compare(self.directory, corpus.other())}
        for case in fio.CASES:
            if case.workloads == workloads and fio.installed():
                plan = fio.Plan.of(corpus.day1.stat().st_size)
                fio.lay_out(self.directory / "fio", plan.size_bytes)
                machine.settle()
                return fio.run(case, self.directory / "fio", plan)
        return {}
