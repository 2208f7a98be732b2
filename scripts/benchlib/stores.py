"""Where the contenders put their data: a directory each, or a prefix each in a bucket of a real S3 server."""

import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from scripts.benchlib import machine

ROOT = Path(__file__).resolve().parents[2]
BUCKET = "bench"


class DirectoryStore(msgspec.Struct, frozen=True):
    """An empty directory."""

    path: Path
    environment: dict[str, str] = {}

    def stored_bytes(self) -> int:
        return machine.tree_bytes(self.path)

    def objects(self) -> int:
        """How many there are."""
        return len(self.names())

    def names(self) -> list[str]:
        """Names of all objects."""
        return [str(file.relative_to(self.path)) for file in self.path.rglob("*") if file.is_file()]

    def read(self, key: str) -> bytes:
        return (self.path / key).read_bytes()

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


class BucketStore(msgspec.Struct, frozen=True):
    """A prefix of `BUCKET` at `endpoint`; `environment` holds the account in AWS's names."""

    endpoint: str
    prefix: str
    environment: dict[str, str]
    client: Any

    @property
    def path(self) -> str:
        """Bucket and prefix."""
        return f"{BUCKET}/{self.prefix}"

    @property
    def url(self) -> str:
        return f"s3://{self.path}"

    def stored_bytes(self) -> int:
        return sum(item["Size"] for item in self._objects())

    def objects(self) -> int:
        """How many there are."""
        return len(self.names())

    def names(self) -> list[str]:
        """Names of all objects."""
        return [item["Key"].removeprefix(f"{self.prefix}/") for item in self._objects()]

    def read(self, key: str) -> bytes:
        reply = self.client.get_object(Bucket=BUCKET, Key=f"{self.prefix}/{key}")
        data: bytes = reply["Body"].read()
        return data

    def remove(self) -> None:
        for item in self._objects():
            self.client.delete_object(Bucket=BUCKET, Key=item["Key"])

    def _objects(self) -> Iterator[dict[str, Any]]:
        for page in self.client.get_paginator("list_objects_v2").paginate(
            Bucket=BUCKET, Prefix=f"{self.prefix}/"
        ):
            yield from page.get("Contents", [])


Store = DirectoryStore | BucketStore


class Stores:
    """Hands out empty stores."""

    def empty(self, name: str) -> Store:
        raise NotImplementedError


class Directories(Stores):
    """Stores in directories below `base`."""

    def __init__(self, base: Path) -> None:
        self._base = base

    def empty(self, name: str) -> DirectoryStore:
        path = self._base / name
        path.mkdir(parents=True)
        return DirectoryStore(path)


class Bucket(Stores):
    """Stores in one bucket of an S3 server."""

    def __init__(self, endpoint: str, environment: dict[str, str]) -> None:
        import boto3  # slow to import: a run over directories need not wait
        from botocore.config import Config

        self._endpoint = endpoint
        self._environment = environment
        self._client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
            region_name=environment["AWS_DEFAULT_REGION"],
            config=Config(s3={"addressing_style": "path"}),
        )
        self._client.create_bucket(Bucket=BUCKET)

    def empty(self, name: str) -> BucketStore:
        return BucketStore(self._endpoint, name, self._environment, self._client)


@contextmanager
def rados_gateway(directory: Path, room_bytes: int) -> Iterator[Bucket]:
    """A real S3 server on 127.0.0.1 with its data on the disk, as long as the context lasts."""
    directory.mkdir()
    settings = {"RGW_STORE": "bluestore", "RGW_SIZE": str(room_bytes)}
    program = ROOT / "scripts" / "rgw"
    try:
        exports = machine.run(
            [sys.executable, program, "start", directory, free_port()],
            environment=machine.clean_environment() | settings,
        )
        account = account_of(exports)
        endpoint = account.pop("AWS_ENDPOINT_URL")
        yield Bucket(endpoint, account | {"AWS_EC2_METADATA_DISABLED": "true"})
    finally:
        machine.run([sys.executable, program, "stop", directory])


def account_of(exports: str) -> dict[str, str]:
    """The variables that a shell would export after reading `exports`."""
    words = (word for line in exports.splitlines() if line.startswith("export ") for word in line.split()[1:])
    return dict(word.split("=", 1) for word in words)


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
