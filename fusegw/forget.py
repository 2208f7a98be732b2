"""Making this host forget a volume, so that nothing of it is left here; its store is not touched.

Order: cache and index → the registry → the directory. A crash in between leaves a volume that is known and
has no index: a mount would rebuild it from the store, another call forgets the rest.
"""

import shutil
from pathlib import Path

from fusegw.clock import Clock
from fusegw.config import VolumePaths, cache_of
from fusegw.daemon.lock import volume_lock
from fusegw.errors import Busy, FusegwError
from fusegw.registry import Registry
from fusegw.salvage.run import sources_of


def forget_volume(
    registry: Registry, paths: VolumePaths, cache_dir: Path, *, discard_unsent: bool, clock: Clock
) -> None:
    """Blocking: the volume is unknown here, its index and its cache (below `cache_dir`) are gone. Its number
    is given to no other one.

    NotFound, Busy (mounted; or it holds what never reached the store, unless `discard_unsent`).
    """
    name = paths.name
    entry = registry.get(name)
    with volume_lock(paths):
        unsent = [*sources_of(paths, clock), *paths.unsent_dirs()]
        if unsent and not discard_unsent:
            raise Busy(
                f"this host holds changes of volume {name!r} that never reached the store ({unsent[0]}): "
                f"mount it and run fusegw sync --wait, or write them out with fusegw salvage {name} "
                "DIRECTORY, or give --discard-unsent to lose them"
            )
        try:
            for place in (cache_of(cache_dir, entry.volume_id, entry.number, entry.fixed_at), paths.meta_dir):
                if place.exists():
                    shutil.rmtree(place)
            registry.remove(name)
            shutil.rmtree(paths.volume_dir)
        except OSError as error:
            raise FusegwError(
                f"{error.filename} cannot be removed: {error.strerror}; correct that and try again"
            ) from None
