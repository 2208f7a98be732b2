"""An S3 bucket as object store: `s3://bucket/prefix`, AWS or any server that speaks the same.

Promises:

- One request per call (list and delete: one per 1000 keys), never repeated here: `retry` does that.
- A body damaged on the way is refused: each PUT carries its MD5, and a GET that ends early is Unavailable.
- Create-only is `If-None-Match: *`. A server may ignore it: `probe.probe_create_only` finds out.
- TLS is always verified. Credentials and proxy come from where the AWS tools look for them, read when the
  store is opened; so the environment may be cleaned afterwards.

Importing this module loads boto3 (a third of a second), so only `open_store` does, and only for S3.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ProfileNotFound

from fusegw import __version__
from fusegw.errors import Corrupt, Denied, Invalid, Unavailable
from fusegw.store.base import (
    DELETE_BATCH_MAX,
    ObjectInfo,
    beyond_end,
    check_key,
    check_prefix,
    check_range,
    is_key,
    too_large,
)
from fusegw.store.options import StoreOptions, bucket_of
from fusegw.store.s3_errors import CLIENT_ERRORS, from_reply, translate

CONNECT_TIMEOUT_MAX_S: Final = 10.0
_SPARE_CONNECTIONS: Final = 2  # lists run beside the bounded requests


class S3Store:
    """`ObjectStore` over one bucket prefix. Thread-safe: one client, one pool of connections."""

    def __init__(self, options: StoreOptions) -> None:
        """Makes no request to the store; may ask for credentials. Invalid or Denied when there are none."""
        self._bucket, self._prefix = bucket_of(options)
        self.url = f"s3://{self._bucket}/{self._prefix}".rstrip("/")
        self._put_options: dict[str, str] = {}
        if options.sse:
            self._put_options["ServerSideEncryption"] = options.sse
        if options.kms_key_id:
            self._put_options["SSEKMSKeyId"] = options.kms_key_id
        if options.storage_class:
            self._put_options["StorageClass"] = options.storage_class
        self._client = _make_client(options, self.url)

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        body = data if isinstance(data, bytes) else bytes(data)
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        request = {
            **self._address(key),
            **self._put_options,
            "Body": body,
            "ContentMD5": base64.b64encode(digest).decode(),
        }
        if create_only:
            request["IfNoneMatch"] = "*"
        with self._errors(f"object {key}", create_only=create_only):
            self._client.put_object(**request)

    def get(self, key: str, *, size_max: int) -> bytes:
        with self._errors(f"object {key}"):
            reply = self._client.get_object(**self._address(key))
            size = int(reply["ContentLength"])
            if size > size_max:
                reply["Body"].close()  # drops the connection rather than read what nobody wants
                raise Corrupt(too_large(self.url, key, size, size_max))
            return self._body(reply, key, size)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        check_range(key, offset, length)
        end = offset + length
        with self._errors(f"object {key}, bytes {offset} to {end}"):
            reply = self._client.get_object(**self._address(key), Range=f"bytes={offset}-{end - 1}")
            given = reply.get("ContentRange", "")
            if given.startswith(f"bytes {offset}-{end - 1}/"):
                return self._body(reply, key, length)
            reply["Body"].close()
        if not given.startswith(f"bytes {offset}-"):
            raise Unavailable(
                f"store {self.url}: a ranged read of object {key} got no range back ({given!r})"
            )
        raise Invalid(beyond_end(self.url, key, offset, length, None))

    def head(self, key: str) -> ObjectInfo:
        with self._errors(f"object {key}"):
            reply = self._client.head_object(**self._address(key))
        return ObjectInfo(key, int(reply["ContentLength"]), _nanoseconds(reply["LastModified"]))

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        return self._pages(prefix, start_after)

    def delete(self, keys: Iterable[str]) -> None:
        remaining = iter(keys)
        while batch := list(islice(remaining, DELETE_BATCH_MAX)):
            objects = [{"Key": self._address(key)["Key"]} for key in batch]
            with self._errors(f"{len(batch)} objects to delete"):
                reply = self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True}
                )
            for failure in reply.get("Errors", ()):
                if (code := failure.get("Code", "")) not in ("NoSuchKey", "NoSuchVersion"):
                    what = f"delete of object {failure.get('Key', '').removeprefix(self._prefix)}"
                    raise from_reply(0, code, failure.get("Message", ""), self.url, what)

    def close(self) -> None:
        self._client.close()

    def _address(self, key: str) -> dict[str, Any]:
        check_key(key)
        return {"Bucket": self._bucket, "Key": f"{self._prefix}{key}"}

    def _body(self, reply: dict[str, Any], key: str, size: int) -> bytes:
        data: bytes = reply["Body"].read()
        if len(data) != size:
            raise Unavailable(f"store {self.url}: got {len(data)} of {size} bytes of object {key}; try again")
        return data

    def _pages(self, prefix: str, start_after: str) -> Iterator[ObjectInfo]:
        request = {"Bucket": self._bucket, "Prefix": f"{self._prefix}{prefix}"}
        if start_after:
            request["StartAfter"] = f"{self._prefix}{start_after}"
        while True:
            with self._errors(f"list of {prefix!r}"):
                reply = self._client.list_objects_v2(**request)
                token = reply["NextContinuationToken"] if reply.get("IsTruncated") else None
                page = [
                    ObjectInfo(key, int(entry["Size"]), _nanoseconds(entry["LastModified"]))
                    for entry in reply.get("Contents", ())
                    if is_key(key := entry["Key"].removeprefix(self._prefix))  # others' objects do not count
                ]
            yield from page
            if token is None:
                return
            request["ContinuationToken"] = token

    @contextmanager
    def _errors(self, what: str, *, create_only: bool = False) -> Iterator[None]:
        """No error of the client library leaves this module as it is."""
        try:
            yield
        except CLIENT_ERRORS as error:
            raise translate(error, self.url, what, create_only=create_only) from error


def _make_client(options: StoreOptions, url: str) -> Any:
    """A client for the place and credentials in force now."""
    try:
        session = boto3.session.Session(profile_name=options.profile)
        credentials = session.get_credentials()
        if credentials is None:
            raise Denied(
                f"store {url}: no credentials found: give them by environment, file or instance role"
            )
        credentials.get_frozen_credentials()
        client = _client_in_style(session, options, _style(options, options.endpoint_url))
        if (style := _style(options, client.meta.endpoint_url)) != client.meta.config.s3["addressing_style"]:
            client.close()  # the environment or a profile names the server
            client = _client_in_style(session, options, style)
    except (ValueError, OSError, ProfileNotFound) as error:
        raise Invalid(
            f"store {url}: the client cannot be set up: {error}; check the store's options"
        ) from error
    except BotoCoreError as error:
        raise translate(error, url, "the bucket") from error
    client.meta.events.register("before-call.s3.DeleteObjects", _md5_instead_of_crc)
    return client


def _style(options: StoreOptions, endpoint_url: str | None) -> str:
    """Where the bucket's name goes: hardly any server but AWS has a host name for each bucket."""
    if options.path_style is not None:
        return "path" if options.path_style else "virtual"
    host = urlsplit(endpoint_url or "https://s3.amazonaws.com").hostname or ""
    return "auto" if host.endswith((".amazonaws.com", ".amazonaws.com.cn")) else "path"


def _client_in_style(session: boto3.session.Session, options: StoreOptions, style: str) -> Any:
    connections = options.connections_max + _SPARE_CONNECTIONS
    settings: dict[str, Any] = {
        "signature_version": "s3v4",
        "s3": {"addressing_style": style},
        "retries": {"total_max_attempts": 1, "mode": "standard"},
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "max_pool_connections": connections,
        "connect_timeout": min(options.timeout_s, CONNECT_TIMEOUT_MAX_S),
        "read_timeout": options.timeout_s,
        "tcp_keepalive": True,
        "user_agent_extra": f"fusegw/{__version__}",
    }
    return session.client(
        "s3",
        endpoint_url=options.endpoint_url,
        region_name=options.region or session.region_name or "us-east-1",
        verify=options.ca_bundle,
        config=Config(**settings),
    )


def _md5_instead_of_crc(params: dict[str, Any], **_: Any) -> None:
    """Batched deletes need a checksum, and MD5 is the one every server knows."""
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()
    params["context"].pop("checksum", None)


def _nanoseconds(moment: Any) -> int:
    """A datetime of the client library as nanoseconds since 1970."""
    return int(moment.timestamp() * 1_000_000) * 1000
