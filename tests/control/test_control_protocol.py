"""Messages of the control socket: both directions, other versions, hostile lines."""

import msgspec
import pytest

from fusegw.control import protocol
from fusegw.control.protocol import (
    CacheDropReply,
    Failure,
    Progress,
    Request,
    Result,
    StoreHealth,
    SyncProgress,
)
from fusegw.errors import Corrupt, Fenced, FusegwError, Invalid


def test_a_request_survives_the_wire() -> None:
    request = Request(method="sync", wait=True)
    line = protocol.encode_request(request)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert protocol.decode_request(line) == request


def test_a_newer_clients_request_is_understood() -> None:
    assert protocol.decode_request(b'{"method":"status","colour":"red"}') == Request(method="status")


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b'{"method":"format"}', b"\xff\xfe", b'{"method":1}'])
def test_other_lines_are_refused(line: bytes) -> None:
    with pytest.raises(Invalid, match="not understood"):
        protocol.decode_request(line)


def test_result_and_progress_survive_the_wire() -> None:
    result = protocol.decode_line(protocol.encode_result(CacheDropReply(freed_bytes=7)))
    assert isinstance(result, Result)
    assert protocol.decode_result(result, CacheDropReply) == CacheDropReply(freed_bytes=7)
    with pytest.raises(Invalid, match="not understood"):
        protocol.decode_result(result, SyncProgress)
    progress = SyncProgress(
        backlog_bytes=5,
        upload_rate_bytes_s=1.5,
        store_health=StoreHealth(state="down", last_error="no route"),
    )
    assert protocol.decode_line(protocol.encode_progress(progress)) == Progress(progress)


def test_an_error_keeps_its_class_and_message() -> None:
    line = protocol.decode_line(protocol.encode_failure(Fenced("taken over by\nanother")))
    assert isinstance(line, Failure)
    error = protocol.error_of(line)
    assert type(error) is Fenced and str(error) == "taken over by\nanother" and error.exit_code == 13


@pytest.mark.parametrize("name", ["Unheard", "errno", "errno_of", "__builtins__", "FusegwError"])
def test_an_unknown_error_is_the_root_class(name: str) -> None:
    assert type(protocol.error_of(Failure(name, "text"))) is FusegwError


def test_a_class_that_only_one_module_knows_is_told_as_what_it_is() -> None:
    class Pruned(Corrupt):
        pass

    line = protocol.decode_line(protocol.encode_failure(Pruned("given up")))
    assert isinstance(line, protocol.Failure)
    assert type(protocol.error_of(line)) is Corrupt


def test_a_huge_message_still_fits_a_line() -> None:
    assert len(protocol.encode_failure(Corrupt("\0" * 10**6))) <= protocol.LINE_BYTES_MAX


def test_replies_of_a_gateway_that_speaks_otherwise_are_refused() -> None:
    with pytest.raises(Invalid, match="not understood"):
        protocol.decode_line(msgspec.json.encode({"kind": "novel", "result": 1}))
