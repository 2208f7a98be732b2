"""Store URLs and options: what is understood, and what is refused with which words."""

from pathlib import Path

import msgspec
import pytest

from fusegw.errors import Invalid
from fusegw.store.options import StoreOptions, bucket_of, check_options, directory_of


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///srv/backup", "/srv/backup"),
        ("file://localhost/srv/backup", "/srv/backup"),
        ("file:///srv/with%20space/%C3%A4", "/srv/with space/ä"),
        ("file:///srv/backup/", "/srv/backup"),
    ],
)
def test_directories(url: str, path: str) -> None:
    assert directory_of(StoreOptions(url)) == Path(path)
    check_options(StoreOptions(url))


@pytest.mark.parametrize(
    ("url", "bucket", "prefix"),
    [
        ("s3://bucket", "bucket", ""),
        ("s3://bucket/", "bucket", ""),
        ("s3://bucket/a", "bucket", "a/"),
        ("s3://my.bucket-1/a/b_c/", "my.bucket-1", "a/b_c/"),
    ],
)
def test_buckets(url: str, bucket: str, prefix: str) -> None:
    assert directory_of(StoreOptions(url)) is None
    assert bucket_of(StoreOptions(url)) == (bucket, prefix)
    check_options(StoreOptions(url))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/srv/backup",
        "backup",
        "file:srv",
        "file://srv/backup",
        "file:///srv?x=1",
        "file:///a%00b",
        "s3:bucket",
        "s3://",
        "s3:///prefix",
        "s3://b",
        "s3://bucket/a//b",
        "s3://bucket/a/../b",
        "s3://bucket/.a",
        "s3://bucket/ä",
        "s3://bucket/a?x",
        "s3://bucket/a#x",
        "http://host/bucket",
        "ftp://host/x",
    ],
)
def test_urls_that_are_no_store(url: str) -> None:
    with pytest.raises(Invalid, match="store"):
        check_options(StoreOptions(url))


def test_a_secret_in_a_url_is_refused_and_not_repeated() -> None:
    for options in (
        StoreOptions("s3://key:hunter2@bucket/prefix"),
        StoreOptions("s3://bucket/prefix", endpoint_url="https://key:hunter2@host"),
    ):
        with pytest.raises(Invalid, match="no credentials") as caught:
            check_options(options)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"connections_max": 0}, "connections_max"),
        ({"connections_max": 1000}, "connections_max"),
        ({"timeout_s": 0.0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"kms_key_id": "k"}, "kms_key_id"),
        ({"kms_key_id": "k", "sse": "AES256"}, "kms_key_id"),
        ({"endpoint_url": "minio:9000"}, "endpoint_url"),
        ({"ca_bundle": "/no/such/file.pem"}, "ca_bundle"),
    ],
)
def test_options_that_cannot_be(change: dict[str, object], named: str) -> None:
    with pytest.raises(Invalid, match=named):
        check_options(msgspec.structs.replace(StoreOptions("s3://bucket/prefix"), **change))


def test_options_come_from_configuration() -> None:
    text = b'{"url": "s3://bucket/x", "sse": "aws:kms", "kms_key_id": "k", "path_style": false}'
    options = msgspec.json.decode(text, type=StoreOptions)
    assert (options.sse, options.path_style, options.connections_max) == ("aws:kms", False, 8)
    for wrong in (b'{"url": "s3://bucket", "sse": "rot13"}', b'{"url": "s3://bucket", "regoin": "x"}'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(wrong, type=StoreOptions)
