"""The storage takes and gives, validators can fetch by its URLs, and its credentials stay where they are."""

from __future__ import annotations

import hashlib
import io
import os
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from omron_miner.competition.storage import (
    Credentials,
    Storage,
    StorageError,
    host_problem,
    is_accepted,
    read_credentials,
)
from omron_miner.constants import Competition, parse_constants
from omron_miner.errors import ConfigError
from s3_server import ACCESS_KEY, SECRET_KEY, S3Server, s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CREDENTIALS = Credentials(ACCESS_KEY, SECRET_KEY)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as made:
        yield made


def storage_at(server: S3Server, credentials: Credentials = CREDENTIALS, **more: object) -> Storage:
    return Storage(Competition(endpoint=server.endpoint, bucket=server.bucket, **more), credentials)  # type: ignore[arg-type]


def put(storage: Storage, key: str, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    storage.put(key, io.BytesIO(content), len(content), digest)
    return digest


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_an_uploaded_object_is_found_and_downloaded_by_its_url_alone(server: S3Server) -> None:
    storage, content = storage_at(server), b"a circuit"
    assert not storage.holds("ab/model.compiled", len(content), "ab")
    digest = put(storage, "ab/model.compiled", content)
    assert storage.holds("ab/model.compiled", len(content), digest)
    assert not storage.holds("ab/model.compiled", len(content), "another")
    url = storage.url("ab/model.compiled")
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
        assert answer.read() == content
    storage.try_url("ab/model.compiled")
    assert status_of(url.partition("?")[0]) == 403
    assert status_of(url.replace("model.compiled", "settings.json")) == 403
    assert "X-Amz-Expires=3600" in url


@pytest.mark.slow
def test_a_url_has_an_end(server: S3Server) -> None:
    storage = Storage(Competition(endpoint=server.endpoint, bucket=server.bucket), CREDENTIALS, url_seconds=600)
    put(storage, "cd/model.compiled", b"a circuit")
    url = storage.url("cd/model.compiled")
    made = time.time()
    server.clock = lambda: made + 590
    assert status_of(url) == 200
    server.clock = lambda: made + 610
    assert status_of(url) == 403
    server.clock = time.time


@pytest.mark.slow
def test_a_large_file_goes_in_parts_and_arrives_whole(server: S3Server) -> None:
    competition, least = Competition(endpoint=server.endpoint, bucket=server.bucket), 5 << 20  # that storage takes
    content, before = os.urandom(11 << 20), len(server.puts)
    digest = put(Storage(competition, CREDENTIALS, part_bytes=least), "ef/model.compiled", content)
    assert len(server.puts) - before == 3
    assert server.objects["ef/model.compiled"] == content
    assert storage_at(server).holds("ef/model.compiled", len(content), digest)


@pytest.mark.slow
def test_a_wrong_key_a_missing_bucket_and_no_server_are_errors_that_name_the_place(server: S3Server) -> None:
    wrong = storage_at(server, Credentials(ACCESS_KEY, "not-the-secret"))
    with pytest.raises(StorageError, match="SignatureDoesNotMatch") as refused:
        put(wrong, "gh/model.compiled", b"x")
    assert "not-the-secret" not in f"{refused.value}{refused.value.__cause__!r}{CREDENTIALS}"
    with pytest.raises(StorageError, match="validators could not fetch"):
        wrong.try_url("gh/model.compiled")
    elsewhere = Storage(Competition(endpoint=server.endpoint, bucket="no-such-bucket"), CREDENTIALS)
    assert not elsewhere.holds("gh/model.compiled", 1, "x")
    with pytest.raises(StorageError, match="NoSuchBucket"):
        put(elsewhere, "gh/model.compiled", b"x")
    nowhere = Storage(Competition(endpoint="http://127.0.0.1:9", bucket="circuits"), CREDENTIALS)
    with pytest.raises(
        StorageError, match=r"could not look for gh/model\.compiled in the bucket circuits at 127\.0\.0"
    ):
        nowhere.holds("gh/model.compiled", 1, "x")


@pytest.mark.parametrize(
    ("endpoint", "region", "host"),
    [
        ("https://0a1b.r2.cloudflarestorage.com", "auto", "0a1b.r2.cloudflarestorage.com"),
        ("", "us-east-1", "circuits.s3.amazonaws.com"),
        ("", "eu-west-1", "circuits.s3.amazonaws.com"),  # not s3.eu-west-1.amazonaws.com, which validators refuse
    ],
)
def test_urls_name_hosts_that_validators_accept(endpoint: str, region: str, host: str) -> None:
    competition = Competition(endpoint=endpoint, region=region, bucket="circuits")
    url = Storage(competition, CREDENTIALS).url("ab/model.compiled")
    assert urlsplit(url).hostname == host
    assert f"%2F{region}%2Fs3%2Faws4_request" in url
    assert is_accepted(url)
    assert host_problem(competition) is None


@pytest.mark.parametrize(
    "endpoint", ["https://s3.eu-west-1.amazonaws.com", "https://minio.example:9000", "http://127.0.0.1:9000"]
)
def test_an_endpoint_that_validators_refuse_is_reported(endpoint: str) -> None:
    problem = host_problem(Competition(endpoint=endpoint, bucket="circuits"))
    assert problem
    assert str(urlsplit(endpoint).hostname) in problem


def test_credentials_are_read_only_from_a_private_file_of_the_same_user(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    S3Server().write_credentials(path)
    assert read_credentials(path) == CREDENTIALS
    path.chmod(0o640)
    with pytest.raises(StorageError, match="can be read by others"):
        read_credentials(path)
    path.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(path, 1, 1)
        with pytest.raises(StorageError, match="belongs to another user"):
            read_credentials(path)
    with pytest.raises(StorageError, match="cannot read the storage's credentials"):
        read_credentials(tmp_path / "none")


@pytest.mark.parametrize(
    "text", ["", "hush", "[default]\naws_secret_access_key = hush\n", "[other]\nx = hush", "[default\nhush", "\xff\xfe"]
)
def test_invalid_credentials_are_refused_without_showing_them(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o600)
    with pytest.raises(StorageError) as refused:
        read_credentials(path)
    assert "hush" not in str(refused.value)
    assert refused.value.__suppress_context__


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("", r"competition\.bucket must be set"),
        ('bucket = "circuits"', r"competition\.region must be the bucket's region"),
        ('bucket = "my.circuits"\nregion = "us-east-1"', "must not contain a dot on Amazon S3"),
        ('bucket = "circuits"\nendpoint = "r2.example"', r"competition\.endpoint"),
        ('bucket = "Circuits/x"\nendpoint = "https://r2.example"', r"competition\.bucket"),
    ],
)
def test_half_a_competition_is_refused(section: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_constants(f"[competition]\nenabled = true\n{section}\n")
