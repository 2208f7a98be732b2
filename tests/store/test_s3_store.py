"""The S3 store against servers and a wire that misbehave: each failure has its class, none goes unnoticed."""

import base64
import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from fusegw.clock import SystemClock, SystemEntropy
from fusegw.errors import (
    Denied,
    Exists,
    Invalid,
    NotFound,
    Overloaded,
    Unavailable,
)
from fusegw.store.base import ObjectStore
from fusegw.store.opening import open_store
from fusegw.store.options import StoreOptions
from fusegw.store.retry import RetryPolicy
from fusegw.store.s3 import S3Store
from tests.plugins.certificates import write_certificates
from tests.plugins.s3servers import RgwServer, S3Server, free_port
from tests.plugins.wire import Page, Reply, Step, Wire

QUICK = RetryPolicy(tries_max=4, wait_first_s=0.001, wait_first_overloaded_s=0.002, wait_max_s=0.005)


@pytest.fixture
def wire(moto_server: S3Server) -> Iterator[Wire]:
    with Wire(moto_server.endpoint_url) as wire:
        yield wire


@pytest.fixture
def options(moto_server: S3Server, wire: Wire) -> StoreOptions:
    options = moto_server.options()
    return msgspec.structs.replace(options, endpoint_url=wire.endpoint_url, timeout_s=0.5)


@pytest.fixture
def bare(options: StoreOptions) -> Iterator[S3Store]:
    """The store without retries: what each fault looks like."""
    with closing(S3Store(options)) as store:
        yield store


@pytest.fixture
def whole(options: StoreOptions) -> Iterator[ObjectStore]:
    """The store as the gateway opens it."""
    with closing(open_store(options, clock=SystemClock(), entropy=SystemEntropy(), policy=QUICK)) as store:
        yield store


PASSING_FAULTS = [
    Reply(500, "InternalError"),
    Reply(502, "BadGateway"),
    Reply(503, "SlowDown"),
    Reply(503, "ServiceUnavailable"),
    Reply(429, "TooManyRequests"),
    Step.CLOSE,
    Step.STALL,
    Step.LOSE_REPLY,
]
FAULTS_WITH_A_BODY = [Reply(400, "RequestTimeout"), Reply(400, "BadDigest"), Step.TRUNCATE_REPLY]


@pytest.mark.parametrize("fault", [*PASSING_FAULTS, *FAULTS_WITH_A_BODY], ids=str)
def test_faults_of_reads_are_noticed_and_outlived(
    bare: S3Store, whole: ObjectStore, wire: Wire, fault: Step | Reply
) -> None:
    whole.put("object", b"0123456789" * 10)
    reads: list[Callable[[ObjectStore], object]] = [
        lambda store: store.get("object", size_max=100),
        lambda store: store.get_range("object", 10, 80),
        lambda store: [(info.key, info.size) for info in store.list()],
    ]
    if fault not in FAULTS_WITH_A_BODY:  # the reply to a HEAD has none
        reads.append(lambda store: store.head("object").size)
    for read in reads:
        expected = read(whole)
        wire.plan.append(fault)
        with pytest.raises(Unavailable):
            read(bare)
        wire.plan.append(fault)
        assert read(whole) == expected
        assert not wire.plan


@pytest.mark.parametrize("fault", [*PASSING_FAULTS, *FAULTS_WITH_A_BODY[:2]], ids=str)
def test_faults_of_writes_are_noticed_and_outlived(
    bare: S3Store, whole: ObjectStore, wire: Wire, fault: Step | Reply
) -> None:
    wire.plan.append(fault)
    with pytest.raises(Unavailable):
        bare.put("bare", b"bytes")
    wire.plan.append(fault)
    whole.put("whole", b"bytes")
    assert whole.get("whole", size_max=5) == b"bytes"
    wire.plan.append(fault)
    with pytest.raises(Unavailable):
        bare.delete(["whole"])
    wire.plan.append(fault)
    whole.delete(["whole", "bare"])
    assert list(whole.list()) == []
    assert not wire.plan


def test_nonsense_from_a_middlebox_is_noticed(bare: S3Store, wire: Wire) -> None:
    bare.put("object", b"bytes")
    wire.plan.append(Reply(200, "InternalError"))
    with pytest.raises(Unavailable, match="no range back"):
        bare.get_range("object", 0, 5)
    wire.plan.append(Reply(200, "InternalError"))
    with pytest.raises(Unavailable):
        bare.delete(["object"])
    wire.plan.append(Page("<html>sign in to continue"))
    with pytest.raises(Unavailable):
        list(bare.list())


def test_lost_reply_of_a_create_only_put_is_no_conflict(
    bare: S3Store, whole: ObjectStore, wire: Wire
) -> None:
    wire.plan.append(Step.LOSE_REPLY)
    with pytest.raises(Unavailable):
        bare.put("bare", b"bytes")
    with pytest.raises(Exists):  # what a naive second try would report
        bare.put("bare", b"bytes")
    wire.plan.append(Step.LOSE_REPLY)
    whole.put("whole", b"bytes")
    assert whole.get("whole", size_max=5) == b"bytes"


def test_only_what_may_pass_is_retried(whole: ObjectStore, wire: Wire) -> None:
    wire.plan.extend([Reply(403, "AccessDenied")])
    with pytest.raises(Denied):
        whole.put("key", b"")
    assert len(wire.requests) == 1
    wire.plan.extend([Reply(503, "SlowDown")] * 10)
    with pytest.raises(Overloaded, match="gave up after 4 tries"):
        whole.put("key", b"")
    assert len(wire.requests) == 5  # one, and four; the client library repeats nothing on its own


def test_put_carries_its_checksum_and_the_options(options: StoreOptions, wire: Wire) -> None:
    chosen = msgspec.structs.replace(
        options, sse="aws:kms", kms_key_id="some-key-id", storage_class="STANDARD_IA"
    )
    with closing(S3Store(chosen)) as store:
        store.put("key", b"bytes")
        store.delete(["key"])
    put, delete = wire.requests
    assert put.headers["content-md5"] == base64.b64encode(hashlib.md5(b"bytes").digest()).decode()
    assert put.headers["if-none-match"] == "*"
    assert put.headers["x-amz-server-side-encryption"] == "aws:kms"
    assert put.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "some-key-id"
    assert put.headers["x-amz-storage-class"] == "STANDARD_IA"
    assert "content-md5" in delete.headers
    assert not [name for request in wire.requests for name in request.headers if "checksum" in name]


def test_bucket_stands_in_the_path_unless_asked_otherwise(options: StoreOptions, wire: Wire) -> None:
    with closing(S3Store(options)) as store:
        store.put("key", b"", create_only=False)
    assert wire.requests[0].target.startswith("/shared-bucket/volumes/")
    virtual = msgspec.structs.replace(options, path_style=False, endpoint_url="http://s3.example.invalid")
    with closing(S3Store(virtual)) as store, pytest.raises(Unavailable, match=r"shared-bucket\.s3\.example"):
        store.put("key", b"")


def test_endpoint_from_the_environment(
    options: StoreOptions, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", wire.endpoint_url)
    with closing(S3Store(msgspec.structs.replace(options, endpoint_url=None))) as store:
        store.put("key", b"")
    assert wire.requests[0].target.startswith("/shared-bucket/volumes/")


def test_credentials_are_read_when_opened(options: StoreOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(S3Store(options)) as store:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        store.put("key", b"")
    with pytest.raises(Denied, match="no credentials"):
        S3Store(options)


def test_profile(options: StoreOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Invalid, match="backup"):
        S3Store(msgspec.structs.replace(options, profile="backup"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    file = tmp_path / "credentials"
    file.write_text("[backup]\naws_access_key_id = k\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    with closing(S3Store(msgspec.structs.replace(options, profile="backup"))) as store:
        store.put("key", b"")


def test_proxy_of_the_environment(moto_server: S3Server, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", wire.endpoint_url)
    with closing(S3Store(moto_server.options())) as store:
        store.put("key", b"bytes")
        assert store.get("key", size_max=5) == b"bytes"
    assert [request.target.startswith(moto_server.endpoint_url) for request in wire.requests] == [True, True]


def test_other_objects_beside_the_prefix_stay_unseen(moto_server: S3Server) -> None:
    options = moto_server.options()
    with (
        closing(S3Store(options)) as store,
        closing(S3Store(msgspec.structs.replace(options, url=f"{options.url}-other"))) as other,
    ):
        other.put("theirs", b"")
        store.put("ours", b"")
        assert [info.key for info in store.list()] == ["ours"]
        assert [info.key for info in other.list()] == ["theirs"]


def test_unreachable_server(aws_environment: None) -> None:
    options = StoreOptions("s3://bucket/prefix", endpoint_url=f"http://127.0.0.1:{free_port()}")
    with closing(S3Store(options)) as store, pytest.raises(Unavailable, match="s3://bucket/prefix"):
        store.get("key", size_max=1)


def test_missing_bucket(moto_server: S3Server) -> None:
    with closing(S3Store(moto_server.options(bucket="no-such-bucket"))) as store:
        with pytest.raises(NotFound, match="no such bucket"):
            store.put("key", b"")
        with pytest.raises(NotFound, match="no such bucket"):
            store.get("key", size_max=1)
        with pytest.raises(NotFound, match="no such bucket"):
            list(store.list())
        with pytest.raises(NotFound, match="no such bucket"):
            store.delete(["key"])


def test_untrusted_certificate_is_refused_and_a_bundle_accepted(moto_tls_server: S3Server) -> None:
    options = moto_tls_server.options()
    with closing(S3Store(options)) as store:
        store.put("key", b"bytes")
        assert store.get("key", size_max=5) == b"bytes"
    stranger = msgspec.structs.replace(options, ca_bundle=None)
    with closing(S3Store(stranger)) as store, pytest.raises(Denied, match="certificate is not trusted"):
        store.get("key", size_max=5)


@pytest.mark.rgw
@pytest.mark.parametrize("method", ["put", "get", "head", "list", "delete"])
def test_wrong_keys_at_a_real_gateway(
    rgw_server: RgwServer, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    options = rgw_server.options()
    for name, hint in (("AWS_SECRET_ACCESS_KEY", "secret key"), ("AWS_ACCESS_KEY_ID", "access key")):
        monkeypatch.setenv(name, "wrong")
        calls = {
            "put": lambda store: store.put("key", b""),
            "get": lambda store: store.get("key", size_max=1),
            "head": lambda store: store.head("key"),
            "list": lambda store: list(store.list()),
            "delete": lambda store: store.delete(["key"]),
        }
        expected = "refused" if method == "head" else hint  # the reply to a HEAD has no body to say why
        with closing(S3Store(options)) as store, pytest.raises(Denied, match=expected):
            calls[method](store)


@pytest.mark.rgw
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_damaged_body_is_refused_by_a_real_gateway(
    rgw_server: RgwServer, tmp_path: Path, scheme: str
) -> None:
    ca, certificate, key = write_certificates(tmp_path)
    with Wire(rgw_server.endpoint_url, (certificate, key) if scheme == "https" else None) as wire:
        options = msgspec.structs.replace(
            rgw_server.options(), endpoint_url=wire.endpoint_url, ca_bundle=ca if scheme == "https" else None
        )
        with closing(S3Store(options)) as store:
            wire.plan.append(Step.DAMAGE_REQUEST)
            with pytest.raises(Unavailable):
                store.put("key", b"bytes")
            with pytest.raises(NotFound):
                store.head("key")
        opened = open_store(options, clock=SystemClock(), entropy=SystemEntropy(), policy=QUICK)
        with closing(opened) as store:
            wire.plan.append(Step.DAMAGE_REQUEST)
            store.put("key", b"bytes")
            assert store.get("key", size_max=5) == b"bytes"
        # By TLS the client signs no hash of the body, so what refuses it is our Content-MD5.
        signed = wire.requests[0].headers["x-amz-content-sha256"]
        assert (signed == "UNSIGNED-PAYLOAD") == (scheme == "https")


@pytest.mark.rgw
def test_real_gateway_stopped_and_started(rgw_server: RgwServer) -> None:
    opened = open_store(rgw_server.options(), clock=SystemClock(), entropy=SystemEntropy(), policy=QUICK)
    with closing(opened) as store:
        store.put("before", b"bytes")
        rgw_server.stop()
        try:
            with pytest.raises(Unavailable, match="gave up"):
                store.put("meanwhile", b"bytes")
            with pytest.raises(Unavailable, match="gave up"):
                store.get("before", size_max=5)
        finally:
            rgw_server.start()
        assert store.get("before", size_max=5) == b"bytes"
        store.put("meanwhile", b"bytes")
