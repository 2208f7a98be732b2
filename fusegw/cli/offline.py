"""The index of a volume that no gateway has open, for commands that may work without one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fusegw.cli.session import Site
from fusegw.daemon.lock import volume_lock
from fusegw.errors import Invalid, NotFound

if TYPE_CHECKING:  # commands that find a gateway must not wait for it
    from fusegw.meta.metadata import Change, Metadata


@contextmanager
def offline_index(site: Site, volume: str, *, writing: bool = False) -> "Iterator[Metadata]":
    """The index on this host, under the volume's lock; with `writing`, what the block merges is kept, and the
    next mount finds it. Busy, NotFound (never mounted here), Invalid."""
    from fusegw.meta.history import History
    from fusegw.meta.metadata import Metadata

    paths, entry = site.paths(volume), site.registry.get(volume)
    if not (paths.meta_dir / "data.mdb").exists():
        raise NotFound(f"volume {volume!r} has no index on this host yet: mount it first")
    if writing and entry.fixed_at is not None:
        raise Invalid(f"volume {volume!r} is an older state, which stays as it is")
    with volume_lock(paths):
        limit = site.volume_config(volume).metadata_limit_bytes
        metadata = Metadata(paths.meta_dir, size_max_bytes=limit)
        # Snapshots see what was there before. Data is not changed here.
        History(metadata, refer=_never, unrefer=_never)
        try:
            yield metadata
            if writing and metadata.freeze():
                metadata.save()
                metadata.saved()
        finally:
            metadata.close()


def _never(change: "Change", number: int) -> None:
    raise AssertionError(f"chunk {number:#x} is changed without a gateway")
