"""A volume opened by a command that reads its store: the store, and the keys that the secret gives."""

from collections.abc import Iterator
from contextlib import contextmanager

from fusegw.cli.creation import POLICY
from fusegw.cli.session import Site
from fusegw.clock import SystemClock, SystemEntropy
from fusegw.errors import Invalid
from fusegw.keys import Secret, VolumeKeys
from fusegw.keys.volume import read_volume, unlock
from fusegw.store.base import ObjectStore
from fusegw.store.opening import open_store


@contextmanager
def opened_volume(site: Site, name: str, secret: Secret) -> Iterator[tuple[ObjectStore, VolumeKeys]]:
    """For the time of the block. Invalid when the store holds another volume; as `unlock` and the store."""
    store = open_store(site.store_options(name), clock=SystemClock(), entropy=SystemEntropy(), policy=POLICY)
    try:
        stored = read_volume(store)
        found, expected = stored.header.volume_id.hex(), site.registry.get(name).volume_id
        if found != expected:
            raise Invalid(
                f"{store.url} holds volume {found}, volume {name!r} is {expected}; check the store's address"
            )
        yield store, unlock(stored, secret).keys
    finally:
        store.close()
