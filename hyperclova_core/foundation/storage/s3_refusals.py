"""What a store's refusals mean: which may pass, and what a person is told of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from hyperclova_core.foundation.errors import ConfigError, DataError, HyperclovaError
from hyperclova_core.foundation.storage import restricted
from hyperclova_core.foundation.storage.retries import with_retries
from hyperclova_core.foundation.storage.s3_client import client, is_own

TRANSIENT_CODES = frozenset(
    [
        *("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"),
        *("RequestTimeout", "RequestTimeoutException", "ServiceUnavailable", "InternalError", "OperationAborted"),
        *("ConditionalRequestConflict", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"),
        *("408", "409", "429", "500", "502", "503", "504"),
    ]
)
DENIED_CODES = frozenset(
    [
        *("AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
        *("ExpiredToken", "InvalidToken", "AllAccessDisabled", "403"),
    ]
)
MISSING_CODES = frozenset(["NoSuchKey", "404", "NotFound"])
TAKEN_CODES = frozenset(["PreconditionFailed", "412"])

Result = TypeVar("Result")


def split(uri: str) -> tuple[str, str]:
    """(bucket, key) of `s3://bucket/key`.

    Raises:
        ConfigError: there is no bucket in it.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise ConfigError("An S3 address without a bucket", where=uri, remedy="write s3://bucket/folder")
    return bucket, key


def code_of(error: Exception) -> str:
    """The service's code of a refusal; empty for what is none."""
    response = getattr(error, "response", None)
    return str(response["Error"].get("Code", "")) if isinstance(response, dict) and "Error" in response else ""


def status_of(error: Exception) -> int:
    """HTTP status of a refusal; 0 for what is none."""
    response = getattr(error, "response", None)
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) if isinstance(response, dict) else 0


class TruncatedBodyError(Exception):
    """A body ended before its announced length."""


def reason_to_retry(error: Exception) -> str | None:
    """Why another try may go better, or None."""
    import urllib3.exceptions as http
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError

    if isinstance(error, TruncatedBodyError):
        return str(error)
    code = code_of(error)
    if code in TRANSIENT_CODES or status_of(error) >= 500:
        return f"it answered {code or status_of(error)}"
    broken = (
        boto.EndpointConnectionError,
        boto.ConnectionClosedError,
        boto.ConnectTimeoutError,
        boto.ReadTimeoutError,
        boto.ResponseStreamingError,
        boto.IncompleteReadError,
        boto.HTTPClientError,
        ResponseParserError,
        boto.FlexibleChecksumError,
        http.ProtocolError,
        http.TimeoutError,
        ConnectionError,
        TimeoutError,
    )
    return type(error).__name__ if isinstance(error, broken) else None


REPLACED_CODES = ("PreconditionFailed", "412")
"""An object's entity tag is another one than the reader asked for."""


def call(operation: Callable[[], Result], what: str, uri: str) -> Result:
    """An operation with retries, its refusals as errors for a person.

    Raises:
        FileNotFoundError: there is no such object.
        ConfigError: denied, no credentials, no such bucket, or a clock that is off.
        TransientError: it did not go well in any try.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return with_retries(operation, what, uri, reason_to_retry)
    except HyperclovaError:
        raise
    except ClientError as error:
        raise _explained(error, what, uri) from None
    except (BotoCoreError, Boto3Error) as error:
        inner = error.__context__ or error.__cause__
        if isinstance(inner, ClientError):
            raise _explained(inner, what, uri) from None
        raise ConfigError(
            f"S3 cannot be used: {what}",
            where=uri,
            why=type(error).__name__,
            remedy="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or a profile or role), AWS_DEFAULT_REGION, and"
            " AWS_ENDPOINT_URL_S3 for a store that is not AWS",
        ) from None


def _explained(error: Any, what: str, uri: str) -> Exception:
    code = code_of(error)
    if code == "NoSuchBucket" or (code == "AccessDenied" and _is_missing(uri)):
        return no_bucket(uri)
    if code in ("RequestTimeTooSkewed", "RequestExpired"):
        return ConfigError(
            "The clock of this machine is off",
            where=uri,
            why=f"the store refuses its signatures ({code})",
            remedy="set the clock (chrony or ntpd), then run again: nothing is lost",
        )
    if code in DENIED_CODES:
        return ConfigError(
            f"Access is denied: {what}",
            where=uri,
            why=f"the store answered {code}",
            remedy=_rights(uri),
        )
    if code in MISSING_CODES:
        return FileNotFoundError(2, "No such object", uri)
    return DataError(
        f"The object store refuses: {what}",
        where=uri,
        why=f"it answered {code or status_of(error)}",
        remedy="look the code up in the store's documentation",
        code=code or str(status_of(error)),
    )


def _rights(uri: str) -> str:
    where = f"s3://{split(uri)[0]}"
    if is_own(uri):
        return f"give the credentials of {restricted.VARIABLE} the right to list, read and write {where}, or use others"
    if restricted.FOLDER in uri.split("/"):
        return f"these credentials may be meant not to read restricted data: stages that do are given {restricted.VARIABLE}"
    return f"give the credentials in use the right to list, read and write {where}, or use others"


def _is_missing(uri: str) -> bool:
    """Some stores deny the use of a bucket that they do not know."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client(uri).head_bucket(Bucket=split(uri)[0])
    except ClientError as error:
        return code_of(error) in MISSING_CODES
    except BotoCoreError:
        return False
    return False


def no_bucket(uri: str) -> ConfigError:
    """What a person is told of a bucket that is not there."""
    bucket = split(uri)[0]
    return ConfigError(
        "The bucket does not exist",
        where=uri,
        why=f"the store knows no bucket {bucket}",
        remedy=f"create it (`aws s3 mb s3://{bucket}`), or correct the address or the endpoint",
    )
