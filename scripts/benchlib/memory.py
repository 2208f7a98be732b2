"""A file system in memory, with pyfuse3 and its event loop as they come: what the kernel, pyfuse3 and Python
take before anything is stored.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyfuse3

from fusegw.errors import Unavailable
from scripts.benchlib import machine
from scripts.benchlib.contender import Figures, Reference, Timed, read_again, rsync
from scripts.benchlib.corpus import Corpus
from scripts.benchlib.machine import Stopwatch
from scripts.benchlib.stores import ROOT, Store


class Memory(Reference):
    """One process of `scripts.benchlib.memoryfs`."""

    name = "memory pyfuse3"
    room = 0.0
    workloads = ("reread", "files", "rsync-again", "rm")

    def __init__(self, directory: Path, store: Store) -> None:
        super().__init__(directory, store)
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def version(cls) -> str:
        return str(pyfuse3.__version__)

    def begin(self) -> None:
        super().begin()
        self._root.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "scripts.benchlib.memoryfs", str(self._root)],
            cwd=ROOT,
            env=machine.clean_environment(),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        machine.wait_until(
            self._mounted(), "the file system in memory did not get ready", machine.READY_TIMEOUT_S
        )

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            machine.detach(self._root)
        super().end()

    def measure(self, workloads: tuple[str, ...], corpus: Corpus) -> Figures:
        tree = self._root / "tree"
        if "reread" in workloads:
            return {"reread": self._read_again(corpus.day1)}
        with Stopwatch() as watch:
            if "files" in workloads or "rsync-again" in workloads:
                rsync(corpus.tree, tree)
            elif "rm" in workloads:
                machine.run(["rm", "-rf", tree])
            else:
                return {}
        return {workloads[0]: Timed(corpus.planted.files, watch.seconds)}

    def _read_again(self, file: Path) -> Timed:
        copy = self._root / file.name
        machine.run(["cp", file, copy])
        timed = read_again(copy)
        copy.unlink()
        return timed

    @property
    def _root(self) -> Path:
        return self.directory / "mnt"

    def _mounted(self) -> Iterator[bool]:
        assert self._process is not None
        while True:
            if self._process.poll() is not None:
                raise Unavailable(f"the file system in memory ended with status {self._process.returncode}")
            yield machine.is_mounted(self._root)
