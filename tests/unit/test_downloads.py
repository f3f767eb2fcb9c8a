"""A download is complete or absent, resumes after interruptions, contacts only allowed hosts. Over real connections."""

from __future__ import annotations

import json
import random
import re
import socket
import time
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import pytest

from file_server import Handler, cut, honest, partial, redirect, serving, status
from omron_miner.addresses import is_public
from omron_miner.building.downloads import DownloadError, Rules, check_url, fetch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from file_server import Act
    from omron_miner.addresses import Resolve

CONTENT = random.Random(1).randbytes(300_000)  # noqa: S311  bytes, not secrets
RULES = Rules(
    hosts=("127.0.0.1",), plain_http=True, total_seconds=20.0, stall_seconds=0.5, tries=3, max_bytes=1 << 30,
    keep_free_bytes=0, pause_seconds=0.0,
)  # fmt: skip


ANY_HOST = replace(RULES, hosts=())


@pytest.fixture
def part(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work" / "pk.key"


def test_a_file_is_downloaded_completely_with_progress(part: Path, progress: list[str]) -> None:
    with serving(CONTENT) as server:
        fetched = fetch(server.url, part, RULES, len(CONTENT), CONTENT[:100])
    assert part.read_bytes() == CONTENT
    assert (fetched.bytes, fetched.received_bytes) == (len(CONTENT), len(CONTENT))
    assert server.requests[0]["accept-encoding"] == "identity"
    assert "KiB)" in progress[0]


def test_an_interrupted_download_is_resumed(part: Path, progress: list[str]) -> None:
    with serving(CONTENT, cut(100_000), status(503), cut(50_000)) as server:
        fetched = fetch(server.url, part, RULES)
    assert part.read_bytes() == CONTENT
    assert fetched.received_bytes == len(CONTENT), "no byte came twice"
    assert server.ranges == [None, "bytes=100000-", "bytes=100000-", "bytes=150000-"]
    assert server.requests[1]["if-range"] == '"one"'
    assert any("503" in line for line in progress)


def test_a_later_run_resumes_where_an_earlier_one_gave_up(part: Path) -> None:
    with serving(CONTENT, cut(100_000), *[status(500)] * 3) as server:
        with pytest.raises(DownloadError, match=r"100000 of 300000 bytes are downloaded.*resumes from there"):
            fetch(server.url, part, RULES)
        fetched = fetch(server.url, part, RULES)
    assert part.read_bytes() == CONTENT
    assert fetched.received_bytes == 200_000


def test_a_whole_part_is_only_asked_about(part: Path) -> None:
    with serving(CONTENT) as server:
        fetch(server.url, part, RULES)
        assert fetch(server.url, part, RULES).received_bytes == 0
    assert part.read_bytes() == CONTENT


@pytest.mark.parametrize("same_size", [True, False])
def test_a_file_that_changed_meanwhile_is_downloaded_again(part: Path, same_size: bool) -> None:
    other = bytes(reversed(CONTENT)) if same_size else CONTENT[::-1] + b"more"
    with serving(CONTENT, cut(100_000), *[status(500)] * 3) as server:
        with pytest.raises(DownloadError):
            fetch(server.url, part, RULES)
        server.content, server.etag = other, '"two"'
        fetch(server.url, part, RULES)
    assert part.read_bytes() == other


def ignores_if_range(handler: Handler) -> None:
    del handler.headers["If-Range"]
    honest(handler)


@pytest.mark.parametrize("whole", [True, False])
def test_a_changed_file_is_noticed_on_a_server_that_ignores_if_range(part: Path, whole: bool) -> None:
    with serving(CONTENT, honest if whole else cut(100_000), *[status(500)] * 3) as server:
        if whole:
            fetch(server.url, part, RULES)
            server.acts.clear()
        else:
            with pytest.raises(DownloadError):
                fetch(server.url, part, RULES)
        server.content, server.etag = CONTENT[::-1], '"two"'
        server.acts.append(ignores_if_range)
        fetch(server.url, part, RULES)
    assert part.read_bytes() == CONTENT[::-1]


def test_without_an_etag_the_size_has_to_do(part: Path) -> None:
    with serving(CONTENT, cut(100_000), etag=None) as server:
        fetch(server.url, part, RULES)
        assert part.read_bytes() == CONTENT
        server.content = CONTENT + b"more"
        server.acts.append(honest)
        fetch(server.url, part, RULES)
    assert part.read_bytes() == CONTENT + b"more"


def wrong_range(handler: Handler) -> None:
    body = handler.files.content[5:]
    handler.answer(206, body, Content_Range=f"bytes 5-{len(CONTENT) - 1}/{len(CONTENT)}", ETag='"one"')


def test_a_server_that_sends_another_range_is_not_believed(part: Path) -> None:
    with serving(CONTENT, cut(100_000), wrong_range) as server:
        fetch(server.url, part, RULES)
    assert part.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", None]


def test_another_address_starts_over(part: Path) -> None:
    with serving(CONTENT, cut(100_000), *[status(500)] * 3) as server:
        with pytest.raises(DownloadError):
            fetch(server.url, part, RULES)
        fetch(server.url + "?v=2", part, RULES)
    assert server.ranges[-1] is None
    assert part.read_bytes() == CONTENT


def longer_than_it_says(handler: Handler) -> None:
    handler.answer(200, CONTENT, Content_Length=200_000, ETag='"one"')


def test_bytes_beyond_the_said_length_are_not_taken(part: Path) -> None:
    with serving(CONTENT, longer_than_it_says) as server:
        assert fetch(server.url, part, RULES).bytes == 200_000


def chunked(handler: Handler) -> None:
    handler.answer(200, Content_Length=None, Transfer_Encoding="chunked")
    for first in range(0, len(CONTENT), 60_000):
        handler.wfile.write(b"%x\r\n%s\r\n" % (60_000, CONTENT[first : first + 60_000]))
    handler.wfile.write(b"0\r\n\r\n")


def chunked_and_cut(handler: Handler) -> None:
    handler.answer(200, Content_Length=None, Transfer_Encoding="chunked")
    handler.wfile.write(b"%x\r\n%s" % (60_000, CONTENT[:10_000]))


def test_a_body_of_unknown_length_is_taken_when_it_ends_as_it_should(part: Path) -> None:
    with serving(CONTENT, chunked_and_cut, chunked) as server:
        fetch(server.url, part, RULES)
    assert part.read_bytes() == CONTENT


def trickle(handler: Handler) -> None:
    handler.answer(200, Content_Length=len(CONTENT))
    try:
        for byte in CONTENT:
            handler.wfile.write(bytes([byte]))
            time.sleep(0.05)
    except OSError:
        pass


def hang(handler: Handler) -> None:
    handler.answer(200, Content_Length=len(CONTENT))
    handler.connection.settimeout(60)
    handler.connection.recv(1)  # which returns when the caller has gone


def test_a_long_download_says_how_far_it_is(part: Path, progress: list[str]) -> None:
    with serving(CONTENT) as server:
        fetch(server.url, part, replace(RULES, tell_seconds=0.0))
    _, *lines = progress
    assert all(
        re.fullmatch(r"pk\.key: [\d.]+ \w+ of [\d.]+ KiB, \d+ %, \d+ s left, [\d.]+ \w+/s", line) for line in lines
    )
    assert " 100 %, 0 s left" in lines[-1]


def test_a_quiet_download_says_nothing(part: Path, progress: list[str]) -> None:
    with serving(CONTENT, cut(100_000), status(503)) as server:
        fetch(server.url, part, RULES, quiet=True)
    assert part.read_bytes() == CONTENT
    assert progress == []


def test_a_stalled_connection_is_dropped_and_retried(part: Path, progress: list[str]) -> None:
    with serving(CONTENT, hang) as server:
        fetch(server.url, part, RULES)
    assert part.read_bytes() == CONTENT
    assert any("does not answer in time" in line for line in progress)


def test_a_server_that_trickles_cannot_take_longer_than_allowed(part: Path) -> None:
    begun = time.monotonic()
    with serving(CONTENT, trickle) as server, pytest.raises(DownloadError, match=r"took longer than 0\.7 s"):
        fetch(server.url, part, replace(RULES, total_seconds=0.7))
    assert time.monotonic() - begun < 15, "it hung"


def test_an_unreachable_server_is_an_error_with_its_reason(part: Path) -> None:
    with serving(CONTENT) as server:
        pass
    with pytest.raises(DownloadError, match="0 bytes are downloaded"):
        fetch(server.url, part, RULES)


def no_ranges(handler: Handler, after: int | None = None) -> None:
    """A server that knows no ranges: always the whole file, cut after so many bytes."""
    handler.answer(200, CONTENT[:after], Content_Length=len(CONTENT))


def test_a_server_that_cannot_resume_is_left_when_it_brings_no_more_than_before(part: Path) -> None:
    acts: list[Act] = [lambda handler: no_ranges(handler, 100_000)] * 50
    with serving(CONTENT, *acts) as server, pytest.raises(DownloadError, match="100000 of 300000 bytes are downloaded"):
        fetch(server.url, part, RULES)
    assert len(server.requests) == 1 + RULES.tries


def test_a_server_that_cannot_resume_may_still_bring_it_all(part: Path) -> None:
    with serving(CONTENT, lambda handler: no_ranges(handler, 100_000), no_ranges) as server:
        assert fetch(server.url, part, RULES).received_bytes == 400_000
    assert part.read_bytes() == CONTENT


def test_a_server_that_comes_a_little_further_each_time_is_left_when_much_came_in_vain(part: Path) -> None:
    cuts = count(start=30 << 20, step=1000)

    def act(handler: Handler) -> None:
        handler.answer(200, bytes(next(cuts)), Content_Length=48 << 20)

    with serving(b"", *[act] * 50) as server, pytest.raises(DownloadError, match="MiB were downloaded for nothing"):
        fetch(server.url, part, RULES)
    assert len(server.requests) == 5


def test_a_server_that_changes_the_file_each_time_is_left(part: Path) -> None:
    etags = count()

    def act(handler: Handler) -> None:
        handler.answer(200, CONTENT[:100_000], Content_Length=len(CONTENT), ETag=f'"{next(etags)}"')

    with serving(CONTENT, *[act] * 50) as server, pytest.raises(DownloadError, match="run it again"):
        fetch(server.url, part, RULES)
    assert len(server.requests) == 1 + RULES.tries


def test_pauses_increase_after_connections_that_deliver_almost_nothing(part: Path, progress: list[str]) -> None:
    with serving(CONTENT, *[cut(1000)] * 6) as server:
        fetch(server.url, part, replace(RULES, pause_seconds=0.01))
    pauses = [float(line.rpartition(" in ")[2].removesuffix(" s")) for line in progress if "resuming in" in line]
    assert pauses == [0.01, 0.02, 0.04, 0.08, 0.16, 0.32]


def test_retry_after_is_respected(part: Path, progress: list[str]) -> None:
    with serving(CONTENT, status(503, Retry_After="1"), status(503, Retry_After="\u00b2")) as server:
        fetch(server.url, part, RULES)
    assert [line for line in progress if "resuming" in line] == [
        "pk.key: the server answers 503; resuming in 1 s",
        "pk.key: the server answers 503; resuming in 0 s",
    ]


def trickled_headers(handler: Handler) -> None:
    try:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            handler.wfile.write(b"X-Another: 1\r\n")
            time.sleep(0.05)
    except OSError:
        pass


def test_a_server_that_trickles_headers_cannot_take_longer_than_allowed(part: Path) -> None:
    begun = time.monotonic()
    with serving(CONTENT, trickled_headers) as server, pytest.raises(DownloadError, match=r"took longer than 0\.7 s"):
        fetch(server.url, part, replace(RULES, total_seconds=0.7))
    assert time.monotonic() - begun < 15, "it hung"


@pytest.mark.parametrize("number", ["\u00b2", "9" * 5000, "-1", "1_0", ""])
def test_a_header_that_should_be_a_number_and_is_none_counts_for_nothing(part: Path, number: str) -> None:
    def no_range(handler: Handler) -> None:
        handler.answer(206, Content_Range=f"bytes {number}-1/{number}")

    def no_length(handler: Handler) -> None:
        handler.answer(200, CONTENT, Content_Length=number)

    with serving(CONTENT, cut(100), no_range, no_length, honest) as server:
        fetch(server.url, part, RULES)
    assert part.read_bytes() == CONTENT


# --- what is not even begun


@pytest.mark.parametrize(
    ("code", "said"), [(404, "newer version"), (403, "not public"), (401, "not public"), (418, "by hand")]
)
def test_a_refusal_is_final_and_says_what_to_do(part: Path, code: int, said: str) -> None:
    with serving(CONTENT, status(code)) as server, pytest.raises(DownloadError, match=f"{code}.*{said}"):
        fetch(server.url, part, RULES)
    assert len(server.requests) == 1


def page(handler: Handler) -> None:
    handler.answer(200, b"<html>log in first</html>" * 1000, Content_Type="text/html")


def test_a_page_instead_of_the_file_is_noticed_by_its_first_bytes(part: Path) -> None:
    with serving(CONTENT, page) as server, pytest.raises(DownloadError, match=r"not this circuit's pk\.key.*text/html"):
        fetch(server.url, part, RULES, begins_with=CONTENT[:1000])
    assert not part.exists()


def test_a_file_shorter_than_its_beginning_is_another(part: Path) -> None:
    with serving(CONTENT[:10]) as server, pytest.raises(DownloadError, match="not this circuit's"):
        fetch(server.url, part, RULES, begins_with=CONTENT[:1000])


def test_an_unreachable_server_is_not_reported_as_slow(part: Path) -> None:
    with serving(CONTENT) as server:
        pass
    with pytest.raises(DownloadError, match="Connection refused"):
        fetch(server.url, part, RULES)


@pytest.mark.parametrize(
    ("rules", "wanted", "said"),
    [
        ({"max_bytes": 1000}, None, "more than circuits.download_max_bytes"),
        ({"keep_free_bytes": 1 << 60}, None, "are needed.*larger disk"),
        ({}, 300_001, "has 300000 bytes, expected 300001"),
    ],
)
def test_a_file_of_a_wrong_size_is_refused_before_its_body(
    part: Path, rules: dict[str, int], wanted: int | None, said: str
) -> None:
    with serving(CONTENT) as server, pytest.raises(DownloadError, match=said):
        fetch(server.url, part, replace(RULES, **rules), wanted)  # type: ignore[arg-type]
    assert not part.exists()


def test_a_compressed_body_is_refused(part: Path) -> None:
    def act(handler: Handler) -> None:
        partial(handler, Content_Encoding="gzip")

    with serving(CONTENT, act) as server, pytest.raises(DownloadError, match="compressed"):
        fetch(server.url, part, RULES)


# --- allowed hosts


@pytest.mark.parametrize(
    ("url", "rules", "said"),
    [
        ("http://127.0.0.1/pk.key", {"plain_http": False}, "not encrypted"),
        ("ftp://storage.example/pk.key", {}, "not an HTTP or HTTPS URL"),
        ("file:///etc/shadow", {}, "not an HTTP or HTTPS URL"),
        ("pk.key", {}, "not an HTTP or HTTPS URL"),
        ("https:///pk.key", {}, "not an HTTP or HTTPS URL"),
        ("https://user:secret@storage.example/pk.key", {}, "contains a user name"),
        ("https://storage.example/pk.key", {"hosts": ("other.example",)}, "not in circuits.download_hosts"),
        (
            "https://storage.example.evil.example/pk.key",
            {"hosts": ("storage.example",)},
            "not in circuits.download_hosts",
        ),
        ("https://storage.example:port/pk.key", {}, "is not a URL"),
    ],
)
def test_an_address_that_is_not_allowed_is_not_asked(url: str, rules: dict[str, object], said: str) -> None:
    with pytest.raises(DownloadError, match=said) as caught:
        check_url(url, replace(RULES, **rules))  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


def test_an_allowed_address_is(part: Path) -> None:
    check_url("https://Storage.example/pk.key?signature=1", replace(RULES, hosts=("storage.example",)))


def test_a_signature_in_the_address_is_not_shown(part: Path, progress: list[str]) -> None:
    with serving(CONTENT, status(404)) as server, pytest.raises(DownloadError) as caught:
        fetch(server.url + "?signature=secret", part, RULES)
    assert "secret" not in str(caught.value) + str(progress)


def test_a_redirect_on_the_same_host_is_followed_ranges_included(part: Path) -> None:
    there: list[Act] = [redirect("/elsewhere/pk.key"), cut(100_000), redirect("/elsewhere/pk.key")]
    with serving(CONTENT, *there) as server:
        fetch(server.url, part, RULES)
    assert part.read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=100000-"
    assert server.requests[-1]["path"] == "/elsewhere/pk.key"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (lambda port: f"http://localhost:{port}/pk.key", "localhost is not in"),
        (lambda port: "file:///etc/shadow", "redirects to file:///etc/shadow"),
        (lambda port: f"https://127.0.0.1:{port}/pk.key", "redirects to https"),
        (lambda port: "//user:secret@127.0.0.1/pk.key", "contains a user name"),
    ],
)
def test_a_redirect_elsewhere_is_not_followed(part: Path, target: Callable[[int], str], said: str) -> None:
    with serving(CONTENT) as server:
        server.acts.append(redirect(target(server.port)))
        with pytest.raises(DownloadError, match=said):
            fetch(server.url, part, RULES)
    assert len(server.requests) == 1
    assert not part.exists()


def test_a_redirect_to_another_host_is_followed_where_it_is_allowed(part: Path) -> None:
    with serving(CONTENT) as server:
        server.acts.append(redirect(f"http://localhost:{server.port}/pk.key"))
        fetch(server.url, part, replace(RULES, hosts=("127.0.0.1", "localhost")))
    assert part.read_bytes() == CONTENT


def test_a_redirect_loop_is_refused(part: Path) -> None:
    with serving(CONTENT, *[redirect("/files/pk.key")] * 20) as server:
        with pytest.raises(DownloadError, match="redirect loop"):
            fetch(server.url, part, RULES)
        assert len(server.requests) == 6


def leading_to(*addresses: str) -> Resolve:
    """A resolver that knows every name, at these addresses, one a look-up and then the last."""
    left = list(addresses)

    def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (left.pop(0) if left[1:] else left[0], port))]

    return resolve


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "100.64.0.1", "::1", "fe80::1", "::ffff:192.168.0.1"]
)
def test_a_name_that_is_not_listed_must_have_a_public_address(part: Path, address: str) -> None:
    with pytest.raises(DownloadError, match=r"not a public address.*add storage\.example to circuits\.download_hosts"):
        fetch("https://storage.example/pk.key", part, ANY_HOST, resolve=leading_to(address))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433"])
def test_an_address_of_this_host_is_asked_only_where_it_is_listed(part: Path, host: str) -> None:
    with serving(CONTENT) as server:
        url = server.url.replace("127.0.0.1", host)
        with pytest.raises(DownloadError, match="not a public address"):
            fetch(url, part, ANY_HOST)
        assert server.requests == []
        fetch(url, part, replace(RULES, hosts=(host,)))
    assert part.read_bytes() == CONTENT


def test_the_checked_address_is_used_and_each_connection_resolves_again(part: Path) -> None:
    listed = replace(RULES, hosts=("storage.example",), tries=1)
    with serving(CONTENT, redirect("/elsewhere")) as server:
        url = server.url.replace("127.0.0.1", "storage.example")
        with pytest.raises(DownloadError):  # nobody listens at the second address
            fetch(url, part, listed, resolve=leading_to("127.0.0.1", "127.0.0.2"))
        assert len(server.requests) == 1
        fetch(url, part, listed, resolve=leading_to("127.0.0.1"))
    assert server.requests[0]["host"] == f"storage.example:{server.port}"
    assert part.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2606:4700::1", True), ("64:ff9b::808:808", True),
        ("64:ff9b::7f00:1", False), ("2002:7f00:1::", False), ("fec0::1", False), ("224.0.0.1", False),
        ("fe80::1%eth0", False), ("0.0.0.1", False), ("198.18.0.1", False), ("fd00::1", False),
    ],
)  # fmt: skip
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize("note", [b"", b"[]", b"{}", b'{"url": 1}', b'{"other": 1}', b"\xff"])
def test_a_part_without_a_readable_note_is_discarded(part: Path, note: bytes) -> None:
    part.write_bytes(b"left by something else")
    part.with_name("pk.key.json").write_bytes(note)
    with serving(CONTENT) as server:
        fetch(server.url, part, RULES)
    assert part.read_bytes() == CONTENT
    assert server.ranges == [None]
    assert json.loads(part.with_name("pk.key.json").read_text())["size"] == len(CONTENT)


def test_the_environments_proxy_is_asked(part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(CONTENT) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "")
        fetch("http://storage.example/pk.key", part, ANY_HOST)
        assert proxy.requests[0]["path"] == "http://storage.example/pk.key"
        assert part.read_bytes() == CONTENT
        for host in ("10.0.0.1", "127.1", "[::1]", "localhost"):
            with pytest.raises(DownloadError, match="not a public address"):
                fetch(f"http://{host}/pk.key", part, ANY_HOST)
    assert len(proxy.requests) == 1
