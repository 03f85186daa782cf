"""What an object store's refusals mean, in one line for the user: whose fault, and what to do."""

from __future__ import annotations

import re

from configs.errors import ConfigError, MachineError, PassingError, UserError

_NO_BUCKET = re.compile(
    "NoSuchBucket|ContainerNotFound|ResourceNotFound|bucket does not exist", re.IGNORECASE
)
# Where credentials are looked for last: what a cloud tells its own machines.
_NO_CREDENTIALS = re.compile(
    r"169\.254\.|metadata\.google|token request|Account must be|Missing \w*Key|credential",
    re.IGNORECASE,
)
_REFUSED = re.compile("SignatureDoesNotMatch|InvalidAccessKeyId|Invalid Access Key|code: 40[13]")
BROKEN_OFF = re.compile("response body error|IncompleteBody|IncompleteMessage")
"""An answer that ended too early: the client does not ask again by itself."""
_UNREACHED = re.compile(r"after \d+ retries|error sending request|HTTP error|code: 5\d\d")

_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, if there is one)",
    "gs": "GOOGLE_SERVICE_ACCOUNT, the path of the account's key file",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
ENDPOINT = {"s3": "AWS_ENDPOINT_URL", "gs": "GOOGLE_BASE_URL", "az": "AZURE_ENDPOINT"}
ALLOW_HTTP = {"s3": "AWS_ALLOW_HTTP", "gs": "GOOGLE_ALLOW_HTTP", "az": "AZURE_ALLOW_HTTP"}


class NoCredentialsError(ConfigError):
    """Nobody says who asks."""


def for_user(
    error: Exception, scheme: str, place: str, verb: str, retry_time_s: float
) -> Exception:
    """Return the line that says what is wrong: with the object, bucket, credentials or network."""
    text = str(error).partition("\n\nDebug source:")[0]
    reason = " ".join(re.sub("<[^>]+>", " ", text).split())
    if _NO_BUCKET.search(text):
        return ConfigError(f"{place}: there is no such bucket: create it, or correct the URL")
    if "builder error" in text:  # nothing was asked of anybody
        return ConfigError(
            f"{place}: {ENDPOINT[scheme]} (or the key file) names no server that can be asked: "
            f"correct it; of http://, without TLS, set {ALLOW_HTTP[scheme]}=true"
        )
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(2, "No such object", place)
    if _REFUSED.search(text) and "169.254." not in text:
        return ConfigError(
            f"{place}: the store refuses to {verb} with these credentials: set "
            f"{_CREDENTIALS[scheme]} to ones that may ({reason[-200:]})"
        )
    if _NO_CREDENTIALS.search(text):
        return NoCredentialsError(f"{place}: no credentials were found: set {_CREDENTIALS[scheme]}")
    if _UNREACHED.search(text):
        return PassingError(
            f"{place}: the store did not answer for {retry_time_s:g} s: check the network and "
            f"{ENDPOINT[scheme]}, and run the same command again ({reason[:200]})"
        )
    kind = MachineError if verb == "write" else UserError
    return kind(
        f"{place}: the store cannot {verb} it: mend the cause and run again ({reason[:300]})"
    )
