"""restic and borg: backup programs with a repository instead of a mount, as their manuals set them up.

Their backups are in the store when the command returns. Both keep their metadata caches, as fusegw keeps its
index.
"""

import os
from pathlib import Path
from shutil import rmtree, which

from scripts.benchlib import machine
from scripts.benchlib.contender import Contender, Timed, TreeStored
from scripts.benchlib.corpus import Corpus
from scripts.benchlib.machine import Stopwatch
from scripts.benchlib.stores import BucketStore, DirectoryStore

PASSPHRASE = "the benchmark's own passphrase"


class Restic(Contender):
    """restic with its default compression."""

    name = "restic"
    room = 2.0

    @classmethod
    def version(cls) -> str | None:
        return machine.run(["restic", "version"]).split()[1] if which("restic") else None

    def begin(self) -> None:
        super().begin()
        self._password_file.touch(0o600)
        self._password_file.write_text(PASSPHRASE)
        self._restic("init")

    def store_file(self, file: Path) -> Timed:
        with Stopwatch() as watch:
            self._restic("backup", file)
        return Timed(file.stat().st_size, watch.seconds)

    def store_tree(self, corpus: Corpus) -> TreeStored:
        with Stopwatch() as watch:
            self._restic("backup", corpus.tree)
        return TreeStored(None, Timed(corpus.planted.files, watch.seconds))

    def restore(self, file: Path, target: Path) -> Timed:
        out = self.directory / "out"
        machine.forget_pages()
        with Stopwatch() as watch:
            self._restic("restore", "latest", "--path", file, "--target", out)
        os.replace(out / file.relative_to("/"), target)
        rmtree(out)
        return Timed(file.stat().st_size, watch.seconds)

    @property
    def _password_file(self) -> Path:
        return self.directory / "password"

    def _repository(self) -> str:
        match self.store:
            case DirectoryStore(path=path):
                return str(path)
            case BucketStore(endpoint=endpoint, path=path):
                return f"s3:{endpoint}/{path}"

    def _restic(self, *arguments: object) -> None:
        environment = machine.clean_environment() | {
            "RESTIC_REPOSITORY": self._repository(),
            "RESTIC_PASSWORD_FILE": str(self._password_file),
            "RESTIC_CACHE_DIR": str(self.directory / "cache"),
        }
        environment |= self.store.environment
        machine.run(["restic", "--quiet", *arguments], environment=environment)


class Borg(Contender):
    """borg with zstd at level 1, encrypted and authenticated."""

    name = "borg"
    stores = ("directory",)
    room = 2.0

    @classmethod
    def version(cls) -> str | None:
        return machine.run(["borg", "--version"]).split()[1] if which("borg") else None

    def begin(self) -> None:
        super().begin()
        self._borg("init", "--encryption", "repokey-blake2")

    def store_file(self, file: Path) -> Timed:
        return Timed(file.stat().st_size, self._create(file))

    def store_tree(self, corpus: Corpus) -> TreeStored:
        return TreeStored(None, Timed(corpus.planted.files, self._create(corpus.tree)))

    def restore(self, file: Path, target: Path) -> Timed:
        out = self.directory / "out"
        out.mkdir()
        machine.forget_pages()
        with Stopwatch() as watch:
            self._borg("extract", f"::{file.name}", directory=out)
        os.replace(out / file.name, target)
        rmtree(out)
        return Timed(file.stat().st_size, watch.seconds)

    def _create(self, source: Path) -> float:
        with Stopwatch() as watch:
            self._borg(
                "create", "--compression", "zstd,1", f"::{source.name}", source.name, directory=source.parent
            )
        return watch.seconds

    def _borg(self, *arguments: object, directory: Path | None = None) -> None:
        assert isinstance(self.store, DirectoryStore)
        environment = machine.clean_environment() | {
            "BORG_REPO": str(self.store.path),
            "BORG_PASSPHRASE": PASSPHRASE,
            "BORG_BASE_DIR": str(self.directory),
        }
        machine.run(["borg", *arguments], environment=environment, directory=directory)
