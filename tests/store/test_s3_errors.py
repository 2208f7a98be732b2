"""What S3 servers and the client library say, and the class each saying gets."""

import pytest
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from fusegw.errors import Denied, Exists, Full, FusegwError, Invalid, NotFound, Overloaded, Unavailable
from fusegw.store.s3_errors import from_reply, translate

URL = "s3://bucket/prefix"


@pytest.mark.parametrize(
    ("status", "code", "expected", "hint"),
    [
        (403, "AccessDenied", Denied, "credentials"),
        (403, "403", Denied, "credentials"),
        (403, "InvalidAccessKeyId", Denied, "access key"),
        (403, "SignatureDoesNotMatch", Denied, "secret key"),
        (403, "RequestTimeTooSkewed", Denied, "check NTP"),
        (403, "InvalidObjectState", Denied, "restore it"),
        (400, "ExpiredToken", Denied, "expired"),
        (401, "Unauthorized", Denied, "credentials"),
        (404, "NoSuchBucket", NotFound, "no such bucket"),
        (404, "NoSuchKey", NotFound, "object k is not in"),
        (404, "404", NotFound, "object k is not in"),
        (409, "ConditionalRequestConflict", Unavailable, "try again"),
        (409, "OperationAborted", Unavailable, "try again"),
        (409, "ObjectExists", Exists, "expected a free name"),
        (412, "PreconditionFailed", Exists, "expected a free name"),
        (503, "SlowDown", Overloaded, "fewer requests"),
        (503, "ServiceUnavailable", Overloaded, "fewer requests"),
        (429, "TooManyRequests", Overloaded, "fewer requests"),
        (0, "SlowDown", Overloaded, "fewer requests"),
        (0, "InternalError", Unavailable, "try again"),
        (0, "AccessDenied", Denied, "credentials"),
        (500, "InternalError", Unavailable, "try again"),
        (502, "502", Unavailable, "try again"),
        (504, "504", Unavailable, "try again"),
        (520, "520", Unavailable, "try again"),
        (408, "RequestTimeout", Unavailable, "try again"),
        (400, "RequestTimeout", Unavailable, "try again"),
        (400, "BadDigest", Unavailable, "try again"),
        (400, "XAmzContentSHA256Mismatch", Unavailable, "try again"),
        (403, "QuotaExceeded", Full, "quota"),
        (507, "InsufficientStorage", Full, "room"),
        (301, "PermanentRedirect", Invalid, "region"),
        (400, "AuthorizationHeaderMalformed", Invalid, "region"),
        (416, "InvalidRange", Invalid, "does not accept"),
        (501, "NotImplemented", Invalid, "does not accept"),
        (405, "MethodNotAllowed", Invalid, "does not accept"),
    ],
)
def test_replies(status: int, code: str, expected: type[FusegwError], hint: str) -> None:
    error = from_reply(status, code, "the server's words", URL, "object k", create_only=True)
    assert type(error) is expected
    for part in (hint, code, URL, "the server's words"):
        assert part in str(error)


def test_a_failed_condition_means_exists_only_where_one_was_set() -> None:
    assert type(from_reply(412, "PreconditionFailed", "", URL, "object k")) is Invalid


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (boto.EndpointConnectionError(endpoint_url="http://x", error="refused"), Unavailable),
        (boto.ConnectTimeoutError(endpoint_url="http://x", error="slow"), Unavailable),
        (boto.ReadTimeoutError(endpoint_url="http://x", error="slow"), Unavailable),
        (boto.ConnectionClosedError(endpoint_url="http://x"), Unavailable),
        (boto.ResponseStreamingError(error="short"), Unavailable),
        (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), Unavailable),
        (boto.ProxyConnectionError(proxy_url="http://proxy"), Unavailable),
        (boto.SSLError(endpoint_url="https://x", error="UNEXPECTED_EOF_WHILE_READING"), Unavailable),
        (boto.SSLError(endpoint_url="https://x", error="CERTIFICATE_VERIFY_FAILED"), Denied),
        (boto.NoCredentialsError(), Denied),
        (boto.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"), Denied),
        (boto.CredentialRetrievalError(provider="role", error_msg="no"), Denied),
        (boto.ParamValidationError(report="bad"), Invalid),
        (ResponseParserError("not XML"), Unavailable),
        (ConnectionResetError(104, "reset"), Unavailable),
        (KeyError("ContentLength"), Unavailable),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.__name__,
)
def test_errors_of_the_client_library(error: Exception, expected: type[FusegwError]) -> None:
    translated = translate(error, URL, "object k")
    assert type(translated) is expected
    assert URL in str(translated)
