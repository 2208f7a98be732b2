"""Where a store is and how to talk to it: the `[store]` table of the configuration, checked, with no I/O.

Credentials are no part of it: they come from the usual AWS chain (environment, shared files, instance role).
"""

import re
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import msgspec

from fusegw.errors import Invalid

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_FOLDER = re.compile(r"[A-Za-z0-9_=@+-][A-Za-z0-9._=@+-]*")


class StoreOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Address of a store and the ways to reach it; all but `url` concern S3 alone unless said otherwise."""

    url: str
    """`file:///absolute/directory` (percent-encoding allowed) or `s3://bucket/prefix`."""
    endpoint_url: str | None = None
    """Base URL of an S3 server that is not AWS."""
    region: str | None = None
    ca_bundle: str | None = None
    """PEM file of the certificate authorities to trust instead of the public ones."""
    profile: str | None = None
    """Section of the shared AWS configuration and credentials files."""
    sse: Literal["", "AES256", "aws:kms"] = ""
    """Server-side encryption asked for with each PUT."""
    kms_key_id: str | None = None
    """KMS key for `aws:kms`; None is the bucket's default key."""
    storage_class: str | None = None
    path_style: bool | None = None
    """Bucket in the path instead of the host name; None: path style on any server that is not AWS."""
    connections_max: int = 8
    """Requests in flight at once; any store."""
    timeout_s: float = 60.0
    """Longest silence of the server within one request, in seconds."""


def directory_of(options: StoreOptions) -> Path | None:
    """The directory a `file:` URL names, None for any other scheme. Invalid: relative or on another host."""
    parts = urlsplit(options.url)
    if parts.scheme != "file":
        return None
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or parts.query or parts.fragment:
        raise Invalid(f"store {options.url!r}: expected file:///absolute/directory")
    if "\0" in path:
        raise Invalid("store: a directory's name has no NUL byte")
    return Path(path)


def bucket_of(options: StoreOptions) -> tuple[str, str]:
    """Bucket and key prefix ("" or ending in "/") of an `s3:` URL. Invalid for anything else."""
    parts = urlsplit(options.url)
    if "@" in parts.netloc:
        raise Invalid("store: no credentials in an s3 URL; give them by environment, file or instance role")
    if parts.scheme != "s3" or parts.query or parts.fragment:
        raise Invalid(f"store {options.url!r}: expected file:///absolute/directory or s3://bucket/prefix")
    bucket, prefix = parts.netloc, parts.path.strip("/")
    if not _BUCKET.fullmatch(bucket):
        raise Invalid(
            f"store {options.url!r}: {bucket!r} is no bucket name; expected 3 to 63 letters, digits and . - _"
        )
    if not prefix:
        return bucket, ""
    for folder in prefix.split("/"):
        if not _FOLDER.fullmatch(folder):
            raise Invalid(
                f"store {options.url!r}: {folder!r} in the prefix is not allowed; expected letters, digits"
                " and . _ = @ + - with no leading '.'"
            )
    return bucket, f"{prefix}/"


def check_options(options: StoreOptions) -> None:
    """Invalid, naming the option, when values are out of range or contradict each other."""
    if directory_of(options) is None:
        bucket_of(options)
    if not 1 <= options.connections_max <= 256:
        raise Invalid(f"store: connections_max is {options.connections_max}, expected 1 to 256")
    if not 0.05 <= options.timeout_s <= 3600:
        raise Invalid(f"store: timeout_s is {options.timeout_s}, expected 0.05 to 3600 seconds")
    if options.kms_key_id and options.sse != "aws:kms":
        raise Invalid("store: kms_key_id needs sse = 'aws:kms'")
    if options.endpoint_url and urlsplit(options.endpoint_url).scheme not in ("http", "https"):
        raise Invalid(f"store: endpoint_url is {options.endpoint_url!r}, expected http://… or https://…")
    if options.endpoint_url and "@" in urlsplit(options.endpoint_url).netloc:
        raise Invalid(
            "store: no credentials in endpoint_url; give them by environment, file or instance role"
        )
    if options.ca_bundle and not Path(options.ca_bundle).is_file():
        raise Invalid(f"store: ca_bundle {options.ca_bundle} is no file; expected PEM certificates")
