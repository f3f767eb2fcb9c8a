"""S3-compatible storage from which validators download a competition circuit's files.

A wrapper of boto3: the settings with which all such services work and validators accept the URLs, the credentials file,
and one error class with a hint. Knows nothing about the content of the files.

Not for: when to upload, and what to answer. `competition.watch` decides that.
"""

from __future__ import annotations

import configparser
import os
import stat
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from omron_miner.errors import OmronError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from omron_miner.constants import Competition

ACCEPTED_HOSTS = ("r2.cloudflarestorage.com", "s3.amazonaws.com", ".r2.dev")
"""Validators fetch only from hosts with one of these in their name (protocol, section 6)."""
_AMAZON = "https://s3.amazonaws.com"
"""Amazon's name for all regions. Validators refuse regional names such as s3.eu-west-1.amazonaws.com."""
_LONGEST_CREDENTIALS = 65_536
_CONNECT_SECONDS, _READ_SECONDS, _TRIES = 5.0, 30.0, 3
PART_BYTES = 16 << 20
"""Part size of an upload; one part is in memory at a time. At most 10 000 parts: larger files get larger parts."""
_MOST_PARTS = 10_000
_DIGEST = "sha256"
"""Metadata key of the object's digest, so that it is not uploaded again after a restart."""
URL_SECONDS = 3600
"""Lifetime of a presigned URL: validators download immediately, and each answer has URLs at most two minutes old."""


class StorageError(OmronError):
    """The storage is unreachable, refuses access, or its credentials are unusable."""


@dataclass(frozen=True)
class Credentials:
    """An access key and its secret, which is excluded from repr()."""

    access_key: str
    secret_key: str = field(repr=False)


def read_credentials(path: Path) -> Credentials:
    """The credentials of the `default` profile in a file in the AWS command line's format.

    Raises StorageError when it is missing, owned by another user, readable by others, or incomplete; the error never
    contains its content.
    """
    hint = "set omron_competition_credentials_file and run the play again"
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            text = file.read(_LONGEST_CREDENTIALS).decode()
    except OSError as error:
        raise StorageError(f"cannot read the storage's credentials {path}: {error.strerror}", hint) from error
    except UnicodeDecodeError:
        raise StorageError(f"the storage's credentials {path} are not text", hint) from None
    if stat.S_IMODE(status.st_mode) & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise StorageError(f"{path} can be read by others (mode {mode:04o})", f"chmod 0600 {path}")
    if status.st_uid != os.geteuid():
        raise StorageError(f"{path} belongs to another user (id {status.st_uid})", f"chown it to id {os.geteuid()}")
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(text)
        found = parser["default"]
        return Credentials(found["aws_access_key_id"].strip(), found["aws_secret_access_key"].strip())
    except (configparser.Error, KeyError):
        wanted = "[default] with aws_access_key_id and aws_secret_access_key"
        raise StorageError(f"the storage's credentials {path} lack {wanted}", hint) from None


def is_accepted(url: str) -> bool:
    """Whether validators fetch from the URL's host."""
    host = urlsplit(url).hostname or ""
    return any(part in host for part in ACCEPTED_HOSTS)


def host_problem(competition: Competition) -> str | None:
    """What is wrong with the host in the URLs, None when validators accept it. No network access."""
    url = _public_endpoint(competition)
    if is_accepted(url):
        return None
    return (
        f"validators refuse URLs of {urlsplit(url).hostname}: they fetch only from hosts with "
        f"{', '.join(ACCEPTED_HOSTS)} in their name"
    )


def _public_endpoint(competition: Competition) -> str:
    return competition.endpoint or _AMAZON


class Storage:
    """A bucket. Thread-safe; `url` works offline, everything else may take long and raises StorageError."""

    def __init__(
        self,
        competition: Competition,
        credentials: Credentials,
        url_seconds: int = URL_SECONDS,
        part_bytes: int = PART_BYTES,
    ) -> None:
        """No network access yet. `url` is valid for `url_seconds`; `put` sends parts of `part_bytes`."""
        self.url_seconds, self._part_bytes = url_seconds, part_bytes
        self._bucket = competition.bucket
        # Amazon's global name needs the bucket as a subdomain; elsewhere certificates may not cover that.
        style = "path" if competition.endpoint else "virtual"
        self._client = _client(competition.endpoint or None, competition.region, style, credentials)
        self._signer = _client(_public_endpoint(competition), competition.region, style, credentials)

    def holds(self, key: str, size: int, digest: str) -> bool:
        """Whether the object `key` was put there by `put` with this size and digest."""
        from botocore.exceptions import ClientError

        with self._errors("look for", key):
            try:
                found = self._client.head_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                # Without permission to list the bucket, a missing object is a 403; if more is wrong, `put` will fail.
                if error.response.get("Error", {}).get("Code") in ("404", "403"):
                    return False
                raise
        return bool(found["ContentLength"] == size and found.get("Metadata", {}).get(_DIGEST) == digest)

    def put(self, key: str, content: IO[bytes], size: int, digest: str) -> None:
        """Uploads `size` bytes of `content`, in parts if necessary. The object appears complete or not at all."""
        from boto3.s3.transfer import TransferConfig

        # One part at a time and no threads: proofs need the cores, and an upload may take its time.
        parts = max(self._part_bytes, -(-size // _MOST_PARTS))
        config = TransferConfig(multipart_threshold=parts, multipart_chunksize=parts, use_threads=False)
        extra = {"Metadata": {_DIGEST: digest}}
        with self._errors("upload", key):
            self._client.upload_fileobj(content, self._bucket, key, ExtraArgs=extra, Config=config)

    def url(self, key: str) -> str:
        """A URL with which anyone can download the object for `url_seconds`. It is a secret: not for logs."""
        asked = {"Bucket": self._bucket, "Key": key}
        return str(self._signer.generate_presigned_url("get_object", Params=asked, ExpiresIn=self.url_seconds))

    def try_url(self, key: str) -> None:
        """Fetches the first byte of the object as a validator would, by its URL."""
        request = urllib.request.Request(self.url(key), headers={"Range": "bytes=0-0"})  # noqa: S310  made by `url`
        try:
            with urllib.request.urlopen(request, timeout=_READ_SECONDS) as answer:  # noqa: S310
                answer.read(1)
        except OSError as error:  # HTTP errors are OSErrors too; none quotes the URL
            host = urlsplit(request.full_url).hostname
            hint = (
                "the credentials must allow GetObject; a new Amazon bucket may need up to a day to be reachable there"
            )
            raise StorageError(f"validators could not fetch {key} from {host}: {error}", hint) from None

    @contextmanager
    def _errors(self, what: str, key: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (Boto3Error, BotoCoreError, ClientError, OSError, ValueError) as error:
            where = urlsplit(self._client.meta.endpoint_url).netloc
            said = " ".join(str(error).split())
            raise StorageError(
                f"could not {what} {key} in the bucket {self._bucket} at {where}: {said}",
                "check omron_competition_endpoint, _bucket and _region, and what the credentials allow",
            ) from error


def _client(endpoint: str | None, region: str, style: str, credentials: Credentials) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": style},
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": _TRIES},
        # Not every service supports the checksums that boto3 adds by default.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        ignore_configured_endpoint_urls=True,
    )
    session = boto3.session.Session(
        aws_access_key_id=credentials.access_key, aws_secret_access_key=credentials.secret_key, region_name=region
    )
    return session.client("s3", endpoint_url=endpoint, config=config)
