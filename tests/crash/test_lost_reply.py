"""A segment is in the store, its reply is lost, the process is killed: the next start sends the same bytes,
takes what it finds for its own, and seals nothing else under that nonce.
"""

import os
from pathlib import Path

import pytest

from fusegw.config import VolumePaths
from fusegw.keys.hierarchy import SALT_SIZE
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import LOG_SEALED
from fusegw.packs.format import NONCE_SIZE
from fusegw.ship.segment import object_key
from tests.mount.gateways import NAME, Gateway, ended

pytestmark = [pytest.mark.mount, pytest.mark.slow]


class Victim:
    """A gateway that dies in the midst of sending a segment."""

    def __init__(self, base: Path) -> None:
        self.gateway = Gateway(base, module="tests.crash.daemon")
        self.gateway.configure(f"[volumes.{NAME}]\nship_interval_s = 0.3\n")
        self._orders = base / "orders"
        self._orders.write_text("")
        self._files: dict[str, bytes] = {}

    def mount(self) -> None:
        self.gateway.mount(FUSEGW_TEST_FATAL=str(self._orders))

    def write(self) -> None:
        name, data = f"f{len(self._files)}", os.urandom(150_000)
        fd = os.open(self.gateway.root / name, os.O_WRONLY | os.O_CREAT)
        os.write(fd, data)
        os.fsync(fd)
        os.close(fd)
        self._files[name] = data

    def verify(self) -> None:
        for name, data in self._files.items():
            assert (self.gateway.root / name).read_bytes() == data

    def die(self, lost: int) -> tuple[str, bytes]:
        """Within the sending of one segment, after so many replies; its key and bytes, as they are durable
        here."""
        with self._orders.open("a") as file:
            file.write(f"{lost}\n")
        with ended(self.gateway.pid) as wait:
            self.write()
            wait()
        self._orders.write_text("".join(f"{line}\n" for line in self.sendings() if not line.isdigit()))
        metadata = self._index()
        try:
            seq = metadata.head.seq + 1
            with metadata.view() as view:
                sealed = view.get(LOG_SEALED, seq)
            assert sealed is not None
            return object_key(seq), sealed.data
        finally:
            metadata.close()

    def forget_the_bytes(self) -> None:
        metadata = self._index()
        try:
            metadata.write([(LOG_SEALED, metadata.head.seq + 1, None)])
        finally:
            metadata.close()

    def stored(self, key: str) -> tuple[bytes, int]:
        """An object and which file it is."""
        path = self.gateway.store / key
        return path.read_bytes(), path.stat().st_ino

    def set_aside(self) -> list[Path]:
        """Where changes lie that a start took for those of another writer."""
        return [*(self.gateway.state / "volumes" / NAME).glob("unsent-*")]

    def texts_by_nonce(self) -> dict[str, set[str]]:
        """Of everything sent: the digests of what was sealed under each salt and nonce."""
        texts: dict[str, set[str]] = {}
        for line in self.sendings():
            _, head, digest = line.split()
            texts.setdefault(head[-2 * (SALT_SIZE + NONCE_SIZE) :], set()).add(digest)
        return texts

    def sendings(self) -> list[str]:
        """Key, first bytes and digest of every segment sent."""
        return self._orders.read_text().splitlines()

    def _index(self) -> Metadata:
        paths = VolumePaths(self.gateway.state, NAME)
        return Metadata(paths.meta_dir, size_max_bytes=1 << 40)


@pytest.mark.timeout(300)
def test_a_kill_after_a_lost_reply_fences_nobody(tmp_path: Path) -> None:
    victim = Victim(tmp_path)
    try:
        victim.mount()
        for lost in (1, 2):
            victim.write()
            victim.gateway.barrier()
            key, sealed = victim.die(lost)
            before = victim.stored(key)
            assert before[0] == sealed, "what is in the store is what is durable here"
            victim.mount()
            status = victim.gateway.control().status()
            assert status.fenced is None
            victim.verify()
            victim.gateway.barrier()
            assert victim.stored(key) == before, "the object is the one it was"
        assert victim.set_aside() == []
        texts = victim.texts_by_nonce()
        assert len(texts) >= 6 and all(len(digests) == 1 for digests in texts.values())
        assert len(victim.sendings()) > len(texts), "nothing was sent twice"
    finally:
        victim.gateway.end()


@pytest.mark.timeout(300)
def test_a_gateway_that_forgot_the_bytes_would_be_fenced_by_itself(tmp_path: Path) -> None:
    """The control: what the first test rests on is that the bytes are durable before they are sent."""
    victim = Victim(tmp_path)
    try:
        victim.mount()
        victim.gateway.barrier()
        victim.die(1)
        victim.forget_the_bytes()
        victim.mount()
        assert len(victim.set_aside()) == 1
    finally:
        victim.gateway.end()
