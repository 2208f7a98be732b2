"""The kinds of store a soak runs on."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fusegw.registry import Registry
from scripts.soaklib.chaos import STALL_S, Chaos, FileChaos, WireChaos
from tests.e2e.conftest import in_s3
from tests.mount.gateways import NAME, Gateway
from tests.plugins.s3servers import RgwServer, S3Server, free_port, moto_process
from tests.plugins.wire import Wire

KINDS = ("directory", "moto", "rgw")
MODULE = "scripts.soaklib.daemon"


class Place(ABC):
    """A store, the chaos before it, and how gateways get there."""

    def __init__(self, chaos: Chaos) -> None:
        self.chaos = chaos

    @abstractmethod
    def first(self, base: Path) -> Gateway:
        """A new volume, in the empty directory `base` of its host."""

    @abstractmethod
    def next(self, base: Path, last: Gateway) -> Gateway:
        """Another host for the volume of `last`."""

    @abstractmethod
    def packs(self) -> dict[str, int]:
        """Sizes of the packs in the store, by name, past all chaos."""

    @abstractmethod
    def lose(self, pack: str) -> None:
        """It is gone, and nobody has been told."""

    @abstractmethod
    def keep(self, evidence: Path) -> None:
        """All objects are below `evidence` or stay where they are."""

    def settings(self, gateway: Gateway) -> str:
        """The `store` table for the configuration of a gateway."""
        return ""


class DirectoryPlace(Place):
    """Below the soak's own directory, where it stays as evidence."""

    def __init__(self, base: Path, seed: int) -> None:
        chaos = FileChaos(base, seed)
        super().__init__(chaos)
        self._environment = chaos.environment
        self._store = Path()

    def first(self, base: Path) -> Gateway:
        gateway = Gateway(base, module=MODULE, environment=self._environment)
        self._store = gateway.store
        return gateway

    def next(self, base: Path, last: Gateway) -> Gateway:
        return Gateway(base, module=MODULE, volume_of=last)

    def packs(self) -> dict[str, int]:
        sizes = {}
        for path in self._store.glob("packs/*/*"):
            try:
                sizes[path.name] = path.stat().st_size
            except FileNotFoundError:
                continue  # collected just now
        return sizes

    def lose(self, pack: str) -> None:
        (self._store / "packs" / pack[:2] / pack).unlink()

    def keep(self, evidence: Path) -> None:
        """They stay where they are."""


class BucketPlace(Place):
    """A prefix in a bucket of `server`, which gateways reach through `wire`."""

    def __init__(self, server: S3Server, wire: Wire, chaos: WireChaos) -> None:
        super().__init__(chaos)
        self._server = server
        self._wire = wire
        self._client: Any = None
        self._bucket = self._prefix = ""

    def first(self, base: Path) -> Gateway:
        import boto3  # slow to import: a soak over a directory need not wait
        from botocore.config import Config

        self._client = boto3.client(
            "s3",
            endpoint_url=self._server.endpoint_url,
            aws_access_key_id=self._server.access_key,
            aws_secret_access_key=self._server.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )
        gateway = in_s3(base, S3Server(self._wire.endpoint_url))
        url = self._url(gateway)
        self._bucket, _, self._prefix = url.removeprefix("s3://").partition("/")
        return gateway

    def next(self, base: Path, last: Gateway) -> Gateway:
        return Gateway(base, volume_of=last)

    def settings(self, gateway: Gateway) -> str:
        # Shorter than a stall lasts.
        return (
            f'[volumes.{NAME}.store]\nurl = "{self._url(gateway)}"\n'
            f'endpoint_url = "{self._wire.endpoint_url}"\nregion = "us-east-1"\ntimeout_s = {STALL_S / 2}\n'
        )

    def packs(self) -> dict[str, int]:
        return {key.rpartition("/")[2]: size for key, size in self._objects(f"{self._prefix}/packs/")}

    def lose(self, pack: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=f"{self._prefix}/packs/{pack[:2]}/{pack}")

    def keep(self, evidence: Path) -> None:
        for key, _ in self._objects(f"{self._prefix}/"):
            path = evidence / "store" / key.removeprefix(f"{self._prefix}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._client.download_file(self._bucket, key, str(path))

    def _objects(self, prefix: str) -> Iterator[tuple[str, int]]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        for page in pages:
            for item in page.get("Contents", []):
                yield item["Key"], item["Size"]

    def _url(self, gateway: Gateway) -> str:
        return Registry(gateway.state).get(NAME).store.url


@contextmanager
def place_of(kind: str, base: Path, seed: int) -> Iterator[Place]:
    """A store of that kind, as long as the context lasts."""
    if kind == "directory":
        yield DirectoryPlace(base, seed)
        return
    with _server(kind, base) as server:
        chaos = WireChaos(seed)
        with Wire(server.endpoint_url, chance=chaos.step, stall_s=STALL_S) as wire:
            yield BucketPlace(server, wire, chaos)


@contextmanager
def _server(kind: str, base: Path) -> Iterator[S3Server]:
    if kind == "moto":
        yield from moto_process()
        return
    server = RgwServer(f"http://127.0.0.1:{free_port()}", directory=str(base / "rgw"))
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.directory)
