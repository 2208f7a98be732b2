"""The object store as every other layer sees it: one protocol, stated method by method.

Promises, kept by every implementation and checked by one contract suite:

- Methods block, may be called from any thread at once, and raise only `fusegw.errors`:
  NotFound (no such object, or no such bucket: the message tells), Exists (a create-only put found the
  key taken), Denied (permission or credentials), Unavailable (try again: outage, broken reply) and its kind
  Overloaded (the store asks for fewer requests), Full (no room left), Invalid (the request can never succeed
  as it is), Corrupt (larger than any valid object).
- An object is there whole or not at all, and durable once `put` returns.
- What was put is seen at once by every later get, head and list.

Keys are relative to the volume's prefix: parts of ASCII letters, digits, `.`, `_`, `-`, none beginning with
a dot, joined by `/`. No key may be a folder of another (`a` beside `a/b`): a directory could not hold both.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Protocol

import msgspec

from fusegw.errors import Invalid

KEY_LENGTH_MAX = 512
PART_LENGTH_MAX = 200
DELETE_BATCH_MAX = 1000
"""Keys in one delete request, as S3 allows."""

_PART = re.compile(rf"[A-Za-z0-9_-][A-Za-z0-9._-]{{0,{PART_LENGTH_MAX - 1}}}")
_KEY = re.compile(rf"{_PART.pattern}(?:/{_PART.pattern})*")
_PREFIX = re.compile(rf"(?:{_PART.pattern}/)*(?:{_PART.pattern})?")


class ObjectInfo(msgspec.Struct, frozen=True):
    """What a store knows about an object without reading it."""

    key: str
    size: int
    """Bytes."""
    modified_ns: int
    """Nanoseconds since 1970 by the store's own clock: for display, never for decisions."""


class ObjectStore(Protocol):
    """A place that keeps immutable named objects of up to a few hundred MiB."""

    @property
    def url(self) -> str:
        """Names the store in messages; carries no secret."""
        ...

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        """Store `data` under `key`, all or nothing, durable on return.

        create_only: Exists when the key is taken, whatever it holds; of several at once exactly one wins.
        Otherwise the object is replaced, and repeating the call is harmless.
        After Unavailable the object may be there or not.
        """
        ...

    def get(self, key: str, *, size_max: int) -> bytes:
        """The whole object. NotFound; Corrupt, without reading it, when larger than `size_max` bytes."""
        ...

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Exactly `length` (at least 1) bytes from `offset`. NotFound; Invalid beyond the object's end."""
        ...

    def head(self, key: str) -> ObjectInfo:
        """Size and time of the object. NotFound."""
        ...

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        """Objects whose key begins with `prefix` and sorts after `start_after`, ascending by key (bytewise).

        Asks page by page while iterated, so errors come from the iterator. Objects put or deleted meanwhile
        may be missed or seen; all others are seen exactly once.
        """
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove the objects; those already gone count as removed, so repeating is harmless.

        After an error some may be gone and others not.
        """
        ...

    def close(self) -> None:
        """Give connections back and wake whoever waits to try again; no call may follow."""
        ...


def check_key(key: str) -> None:
    """Invalid unless every store can hold `key`."""
    if not is_key(key):
        raise Invalid(
            f"object key {key!r} is not allowed: expected parts of A-Z a-z 0-9 . _ - joined by '/', none"
            f" beginning with '.', each at most {PART_LENGTH_MAX} characters, all at most {KEY_LENGTH_MAX}"
        )


def check_prefix(prefix: str) -> None:
    """Invalid unless some key could begin with `prefix`."""
    if len(prefix) > KEY_LENGTH_MAX or not _PREFIX.fullmatch(prefix):
        raise Invalid(f"key prefix {prefix!r} is not allowed: expected the beginning of an object key")


def check_range(key: str, offset: int, length: int) -> None:
    """Invalid unless `offset` and `length` describe a range of at least one byte."""
    if offset < 0 or length < 1:
        raise Invalid(f"object {key}: a range needs offset >= 0 and length >= 1, got {offset} and {length}")


def is_key(name: str) -> bool:
    """Whether `name` is a key that `check_key` accepts."""
    return len(name) <= KEY_LENGTH_MAX and _KEY.fullmatch(name) is not None


def is_key_part(name: str) -> bool:
    """Whether `name` may stand between the slashes of a key."""
    return _PART.fullmatch(name) is not None


def too_large(store_url: str, key: str, size: int, size_max: int) -> str:
    """The message of Corrupt for an object above the caller's bound."""
    return (
        f"object {key} in {store_url} has {size} bytes, expected at most {size_max}: it is damaged or not one"
        " of fusegw's; restore it from another copy of the store"
    )


def beyond_end(store_url: str, key: str, offset: int, length: int, size: int | None) -> str:
    """The message of Invalid for a range past the end of the object."""
    known = "" if size is None else f" of {size} bytes"
    return f"object {key}{known} in {store_url} ends before byte {offset + length} that a read asked for"
