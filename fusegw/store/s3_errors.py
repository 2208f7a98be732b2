"""What an S3 server or its client library says, in the project's own error classes. No I/O.

One table for all requests, so the same answer always means the same to the caller. Statuses and codes follow
AWS; Ceph's RADOS Gateway, MinIO and others use the same ones.
"""

from typing import Final

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from fusegw.errors import Denied, Exists, Full, FusegwError, Invalid, NotFound, Overloaded, Unavailable

CLIENT_ERRORS: Final = (
    boto.BotoCoreError,
    boto.ClientError,
    ResponseParserError,
    HTTPError,
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
)
"""All that boto3 lets out of a request, of reading its body and of replies that lack a field."""

_DENIED_HINTS: Final = {
    "InvalidAccessKeyId": "the server does not know the access key: check the credentials",
    "SignatureDoesNotMatch": "the secret key does not fit the access key: check the credentials",
    "RequestTimeTooSkewed": "the clocks here and at the server are more than 15 minutes apart: check NTP",
    "RequestExpired": "the clocks here and at the server are too far apart: check NTP",
    "ExpiredToken": "the session credentials have expired: get new ones",
    "ExpiredTokenException": "the session credentials have expired: get new ones",
    "InvalidToken": "the session token is not valid: check the credentials",
    "InvalidObjectState": "the object is in an archive storage class: restore it first",
}
_DENIED_HINT: Final = "check the credentials, the policies of user and bucket, and the clock (NTP)"
_OVERLOADED: Final = {"SlowDown", "SlowDownRead", "SlowDownWrite", "Throttling", "RequestLimitExceeded"}
_DAMAGED_ON_THE_WAY: Final = {
    "BadDigest",
    "IncompleteBody",
    "RequestTimeout",
    "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
}
_BUSY: Final = {"ConditionalRequestConflict", "OperationAborted"}
_FULL: Final = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage"}
_WRONG_REGION: Final = {
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
}


def translate(error: Exception, url: str, what: str, *, create_only: bool = False) -> FusegwError:
    """What to raise for `error` from a request about `what` (an object, or the bucket) in the store `url`."""
    if isinstance(error, boto.ClientError):
        reply = error.response
        status = int(reply.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = str(reply.get("Error", {}).get("Code", status))
        message = str(reply.get("Error", {}).get("Message", ""))
        return from_reply(status, code, message, url, what, create_only=create_only)
    if isinstance(error, boto.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return Denied(f"store {url}: the server's certificate is not trusted: set ca_bundle ({error})")
    if isinstance(
        error, (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError)
    ):
        return Denied(f"store {url}: no usable credentials: give them by environment, file or role ({error})")
    if isinstance(error, (boto.TokenRetrievalError, boto.SSOError, boto.NoAuthTokenError)):
        return Denied(f"store {url}: no usable session token: sign in again ({error})")
    if isinstance(
        error, (boto.ParamValidationError, boto.BaseEndpointResolverError, boto.InvalidRegionError)
    ):
        return Invalid(f"store {url}: {what} cannot be asked for: {error}")
    return Unavailable(f"store {url}: no proper answer for {what}: {error}")


def from_reply(
    status: int, code: str, message: str, url: str, what: str, *, create_only: bool = False
) -> FusegwError:
    """The error for one reply: an HTTP status (0: unknown) and S3's error code and message."""
    said = f"({code}: {message})" if message else f"({code})"
    if code == "NoSuchBucket":
        return NotFound(f"store {url}: there is no such bucket: check the URL or create the bucket {said}")
    if code in _OVERLOADED or status in (429, 503):
        return Overloaded(f"store {url}: the server asks for fewer requests, at {what} {said}")
    if code in _BUSY or code in _DAMAGED_ON_THE_WAY or status in (408, 500, 502, 504):
        return Unavailable(f"store {url}: the server could not serve {what}, try again {said}")
    if create_only and status in (409, 412):
        return Exists(f"{what} is already in {url}, expected a free name {said}")
    if code in _FULL or status == 507:
        return Full(f"store {url}: no room for {what}: raise the quota or free space {said}")
    if status in (401, 403) or code in _DENIED_HINTS or code == "AccessDenied":
        return Denied(f"store {url}: {what} refused: {_DENIED_HINTS.get(code, _DENIED_HINT)} {said}")
    if code in _WRONG_REGION or status == 301:
        return Invalid(
            f"store {url}: the bucket is elsewhere: set region and endpoint_url to its place {said}"
        )
    if status == 404 or code == "NoSuchKey":
        return NotFound(f"{what} is not in {url} {said}")
    if status < 300 or (status > 500 and status != 501):  # an error code inside a success, or a rare 5xx
        return Unavailable(f"store {url}: the server could not serve {what}, try again {said}")
    return Invalid(f"store {url}: the server does not accept the request for {what} {said}")
