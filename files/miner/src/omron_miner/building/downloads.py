"""Downloads one large file over HTTP into a partial file, and resumes interrupted downloads.

Next to the partial file is a note (``NAME.json``) with the URL, size and ETag of the whole file: when the file on the
server has changed, the partial file is discarded. `Rules` limits hosts, time and size. A host name is resolved for each
connection, its addresses are checked, and one of those is connected to; behind the environment's proxy, the proxy
resolves. Knows nothing about circuits; the caller must verify that the file is the right one.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import threading
import time
import urllib.request
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urljoin, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from omron_miner import __version__, formatting
from omron_miner.addresses import Resolve, addresses_of, is_public, literal_address
from omron_miner.backoff import pause_after
from omron_miner.constants import DOWNLOAD_STALL_SECONDS
from omron_miner.errors import OmronError
from omron_miner.files import write_atomically
from omron_miner.progress import say
from omron_miner.untrusted import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PIECE_BYTES = 1 << 20
_MOST_REDIRECTS = 5
_LONGEST_PAUSE_SECONDS = 30.0
_LONGEST_RETRY_AFTER_SECONDS = 300.0
_SLOW_BYTES = 1 << 20
"""If connections deliver less than this, the pauses increase."""
_MOST_WASTE, _LEAST_WASTE_BYTES = 2, 64 << 20
"""Maximum of discarded bytes, as a multiple of the file's size; and the minimum of that limit, for small files."""
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Status codes that may be temporary."""
_ADVICE = {
    401: "the file is not public: fetch it by hand",
    403: "the file is not public, or the URL has expired: fetch it by hand",
    404: "the file no longer exists: look for a newer version of the circuit",
    410: "the file no longer exists: look for a newer version of the circuit",
}
_CERTIFICATE_ADVICE = "behind a proxy with its own CA, set SSL_CERT_FILE to that CA's certificates"
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-[0-9]{1,18}|\*)/([0-9]{1,18})")
_LENGTH = re.compile(r"[0-9]{1,18}")


class DownloadError(OmronError):
    """A file cannot be downloaded: a URL that is not allowed, a server that refuses, no space, no time."""


@dataclass(frozen=True)
class Rules:
    """From where, how long and how much. Sizes are bytes."""

    hosts: tuple[str, ...]
    """Allowed host names, whatever their address; empty: the one in the URL, if its address is public.
    No redirect leads to another."""
    plain_http: bool
    total_seconds: float
    max_bytes: int
    stall_seconds: float = DOWNLOAD_STALL_SECONDS
    tries: int = 6
    """This many connections in a row without progress are a failure."""
    keep_free_bytes: int = 1 << 30
    """Space that must remain free on the file system, for logs and for the next release."""
    pause_seconds: float = 1.0
    """Pause before the second connection; doubled with each that delivers next to nothing, up to 30."""
    tell_seconds: float = 5.0
    """From one line of progress to the next."""


@dataclass(frozen=True)
class Fetched:
    """A whole file."""

    bytes: int
    received_bytes: int
    """Bytes this call received, including discarded attempts."""
    seconds: float


class _TryAgainError(Exception):
    """Another connection may succeed, after this many seconds."""

    def __init__(self, reason: str, after_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.after_seconds = after_seconds


@dataclass(frozen=True)
class _Note:
    """Which file the part belongs to."""

    url: str
    size: int | None = None
    etag: str | None = None
    modified: str | None = None

    @property
    def validator(self) -> str | None:
        """The value for If-Range: a strong ETag, else the date."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


def check_url(url: str, rules: Rules) -> None:
    """Raises DownloadError unless `rules` allow this URL."""
    shown, parts = without_query(url), parts_of(url)
    host = parts.hostname
    if parts.scheme not in ("https", "http") or not host:
        raise DownloadError(f"{shown} is not an HTTP or HTTPS URL", "write https://… in metadata.json")
    if parts.scheme == "http" and not rules.plain_http:
        raise DownloadError(f"{shown} is not encrypted", "set circuits.download_plain_http, or fetch it by hand")
    if parts.username is not None or parts.password is not None:
        raise DownloadError(f"the URL on {host} contains a user name", "fetch the file by hand")
    if rules.hosts and host not in {one.lower() for one in rules.hosts}:
        raise DownloadError(f"{shown}: {host} is not in circuits.download_hosts", "add it, or fetch it by hand")


def parts_of(url: str) -> SplitResult:
    """The URL's parts. Raises DownloadError."""
    try:
        parts = urlsplit(url)
        _ = parts.hostname, parts.port  # these are parsed only here
    except ValueError as error:
        raise DownloadError(f"{without_query(url)} is not a URL: {error}", "correct the address") from error
    return parts


def without_query(url: str) -> str:
    """The URL as it may be shown: a query can contain a signature, the user part a password."""
    bare = re.split(r"[?#]", url, maxsplit=1)[0]
    return re.sub(r"//[^/@]*@", "//", bare)[:200]


def fetch(
    url: str,
    part: Path,
    rules: Rules,
    wanted_bytes: int | None = None,
    begins_with: bytes = b"",
    quiet: bool = False,
    resolve: Resolve = socket.getaddrinfo,
) -> Fetched:
    """Downloads `url` into `part`, which may hold the start of it, and returns when it is complete and on disk.

    The server's size must be `wanted_bytes` when that is known, and the file must start with `begins_with`: both are
    checked early, before gigabytes are downloaded. After a failure `part` stays for the next call to resume, unless it
    is wrong. `quiet`: without lines of progress. Raises DownloadError.
    """
    check_url(url, rules)
    ask = _Ask(frozenset(one.lower() for one in rules.hosts), resolve)
    if not rules.hosts:
        rules = replace(rules, hosts=(urlsplit(url).hostname or "",))
    try:
        download = _Download(url, part, rules, wanted_bytes, begins_with, quiet, ask)
        download.run()
        with part.open("rb") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise DownloadError(f"cannot write {part.name}: {error}", "check the free space and the owner") from error
    return Fetched(part.stat().st_size, download.received, time.monotonic() - download.begun)


def discard(part: Path) -> None:
    """Removes a part and its note. Raises OSError."""
    part.unlink(missing_ok=True)
    _note_file(part).unlink(missing_ok=True)


@dataclass
class _Download:
    url: str
    part: Path
    rules: Rules
    wanted_bytes: int | None
    begins_with: bytes
    quiet: bool
    ask: _Ask
    received: int = 0
    begun: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._until = self.begun + self.rules.total_seconds
        self._note = _read_note(self.part)
        self._progress = _Progress(self.part.name, self.rules.tell_seconds)
        if self._note.url != self.url:
            self._restart()

    def run(self) -> None:
        fruitless, slow, most = 0, 0, self._have()
        had = most
        while True:
            before = self.received
            try:
                self._connect()
                return
            except (_TryAgainError, urllib3.exceptions.HTTPError) as error:
                if "CERTIFICATE_VERIFY_FAILED" in str(error):
                    raise DownloadError(f"{without_query(self.url)}: {error}", _CERTIFICATE_ADVICE) from error
                have = self._have()
                fruitless = 0 if have > most else fruitless + 1
                most = max(most, have)
                slow = 0 if self.received - before >= _SLOW_BYTES and not fruitless else slow + 1
                self._check_waste(self.received - (most - had), most)
                after = error.after_seconds if isinstance(error, _TryAgainError) else 0.0
                self._pause(fruitless, max(slow - 1, 0), after, _reason(error))

    def _say(self, line: str) -> None:
        if not self.quiet:
            say(line)

    def _check_waste(self, wasted: int, most: int) -> None:
        """Raises DownloadError when too much of the file was downloaded for nothing."""
        if wasted > max(_MOST_WASTE * max(self._note.size or 0, most), _LEAST_WASTE_BYTES):
            raise DownloadError(
                f"{without_query(self.url)} keeps restarting from the first byte: "
                f"{formatting.size(wasted)} were downloaded for nothing",
                "fetch the file by hand",
            )

    def _pause(self, fruitless: int, slow: int, after: float, reason: str) -> None:
        """Waits before the next connection. Raises DownloadError when no further one is allowed."""
        left = self._until - time.monotonic()
        late = left <= 0
        if late or fruitless >= self.rules.tries:
            of = f" of {self._note.size}" if self._note.size else ""
            why = f"took longer than {self.rules.total_seconds:g} s" if late else f"broke off: {reason}"
            raise DownloadError(
                f"{without_query(self.url)} {why}; {self._have()}{of} bytes are downloaded",
                "run it again: it resumes from there",
            )
        pause = min(max(pause_after(slow + 1, self.rules.pause_seconds, _LONGEST_PAUSE_SECONDS), after), left)
        self._say(f"{self.part.name}: {reason}; resuming in {round(pause, 2):g} s")
        time.sleep(pause)

    def _connect(self) -> None:
        """One connection; returns when the file is whole."""
        have = self._have()
        headers = {"User-Agent": f"omron-miner/{__version__}", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if self._note.validator:
                headers["If-Range"] = self._note.validator
        with contextlib.ExitStack() as opened:
            response = self._open(opened, headers)
            self._check_time()  # a connection that was shut down looks like one that has ended
            if not self._is_whole(response, have):
                self._take(response)

    def _open(self, opened: contextlib.ExitStack, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        """Sends the request and follows redirects to allowed hosts only. `opened` closes what stays open."""
        url, scheme = self.url, urlsplit(self.url).scheme
        for _ in range(_MOST_REDIRECTS + 1):
            left = max(self._until - time.monotonic(), 0.1)
            response = opened.enter_context(self.ask(url, headers, min(self.rules.stall_seconds, left), left))
            if not (target := response.get_redirect_location()):
                return response
            url = urljoin(url, target)
            if urlsplit(url).scheme != scheme:
                raise DownloadError(
                    f"{without_query(self.url)} redirects to {without_query(url)}", "fetch the file by hand"
                )
            check_url(url, self.rules)
        raise DownloadError(f"redirect loop at {without_query(self.url)}", "fetch the file by hand")

    def _is_whole(self, response: urllib3.BaseHTTPResponse, have: int) -> bool:
        """Whether the file is complete. Otherwise the part is ready for the body; raises when there is none."""
        status = response.status
        if status == 200:
            self._restart(response)
            return False
        if status in (206, 416) and have:
            begin, size = _content_range(response)
            same = size is not None and size == self._note.size and not self._etag_differs(response)
            if same and status == 416 and have == size:
                return True
            if same and status == 206 and begin == have:
                return False
            self._restart()
            raise _TryAgainError("the file on the server has changed")
        if status in _AGAIN:
            raise _TryAgainError(f"the server answers {status}", _retry_after(response))
        advice = _ADVICE.get(status, "fetch the file by hand")
        raise DownloadError(f"{without_query(self.url)}: the server answers {status}", advice)

    def _etag_differs(self, response: urllib3.BaseHTTPResponse) -> bool:
        etag = response.headers.get("ETag")
        return etag is not None and etag != self._note.etag

    def _restart(self, response: urllib3.BaseHTTPResponse | None = None) -> None:
        """Discards the part; the next one is of the file that `response` sends."""
        discard(self.part)
        self._note = _Note(self.url)
        if response is None:
            return
        length = response.headers.get("Content-Length")
        if length is not None and not _LENGTH.fullmatch(length):
            raise _TryAgainError("the server sent an invalid Content-Length")
        size = None if length is None else int(length)
        self._note = _Note(self.url, size, response.headers.get("ETag"), response.headers.get("Last-Modified"))
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadError(f"{without_query(self.url)} is sent compressed, unrequested", "fetch the file by hand")
        if size is not None and self.wanted_bytes not in (None, size):
            raise DownloadError(
                f"{without_query(self.url)} has {size} bytes, expected {self.wanted_bytes}",
                "the server has another version: fetch the whole circuit again",
            )
        self._check_room(size or 0)
        write_atomically(_note_file(self.part), json.dumps(asdict(self._note)), 0o600)
        shown = f" ({formatting.size(size)})" if size else ""
        self._say(f"{self.part.name}: fetching {without_query(self.url)}{shown}")

    def _check_room(self, size: int) -> None:
        if size > self.rules.max_bytes:
            raise DownloadError(
                f"{without_query(self.url)} has {size} bytes, more than circuits.download_max_bytes",
                "raise it if that is right",
            )
        free = shutil.disk_usage(self.part.parent).free
        needed = size - self._have() + self.rules.keep_free_bytes
        if free < needed:
            raise DownloadError(
                f"{formatting.size(free)} are free below {self.part.parent.parent}, "
                f"{formatting.size(needed)} are needed",
                "free some, or use a larger disk",
            )

    def _take(self, response: urllib3.BaseHTTPResponse) -> None:
        """Appends the body to the part. Returns at the body's end, which urllib3 checks against Content-Length."""
        self._progress.start(self._have(), self._note.size)
        checked = not self.begins_with
        with self.part.open("ab") as file:
            while piece := response.read1(_PIECE_BYTES, decode_content=False):
                file.write(piece)
                file.flush()  # what a killed run had received is kept
                self.received += len(piece)
                have = file.tell()
                if not checked and have >= len(self.begins_with):
                    self._check_start(response)
                    checked = True
                if self._progress.due():
                    if not self._note.size:
                        self._check_room(have)
                    self._say(self._progress.line(have))
                self._check_time()
            self._check_time()
            if not checked:
                self._check_start(response)
        if self._note.size not in (None, have := self._have()):
            raise _TryAgainError(f"it stopped after {have} of {self._note.size} bytes")

    def _check_time(self) -> None:
        if time.monotonic() >= self._until:
            raise _TryAgainError("no time is left")

    def _check_start(self, response: urllib3.BaseHTTPResponse) -> None:
        """Discards the part and raises DownloadError unless it starts with the expected bytes."""
        with self.part.open("rb") as begun:
            if begun.read(len(self.begins_with)) == self.begins_with:
                return
        kind = response.headers.get("Content-Type", "no type")
        self._restart()
        raise DownloadError(
            f"{without_query(self.url)} is not this circuit's {self.part.name} (the server calls it {kind})",
            "check the URL in metadata.json, or fetch the whole circuit again",
        )

    def _have(self) -> int:
        try:
            return self.part.stat().st_size
        except FileNotFoundError:
            return 0


class _Progress:
    """One line every few seconds."""

    def __init__(self, name: str, tell_seconds: float) -> None:
        self._name, self._tell_seconds = name, tell_seconds
        self._size: int | None = None
        self._first, self._begun, self._last_report = 0, 0.0, 0.0

    def start(self, have: int, size: int | None) -> None:
        self._first, self._size, self._begun = have, size, time.monotonic()
        self._last_report = self._begun

    def due(self) -> bool:
        return time.monotonic() - self._last_report >= self._tell_seconds

    def line(self, have: int) -> str:
        self._last_report = now = time.monotonic()
        rate = (have - self._first) / (now - self._begun)
        text = f"{self._name}: {formatting.size(have)}"
        if self._size:
            left = f", {(self._size - have) / rate:.0f} s left" if rate else ""
            percent = f"{100 * have / self._size:.0f} %"
            text = f"{self._name}: {formatting.size(have)} of {formatting.size(self._size)}, {percent}{left}"
        return f"{text}, {formatting.size(rate)}/s"


@dataclass(frozen=True)
class _Ask:
    """One request, to an allowed address."""

    listed: frozenset[str]
    """Hosts that the operator named; others must have a public address."""
    resolve: Resolve

    @contextlib.contextmanager
    def __call__(
        self, url: str, headers: dict[str, str], stall_seconds: float, seconds: float
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """The response to a GET, its body unread. Raises DownloadError, _TryAgainError and urllib3's HTTPError.

        Without a proxy, it is aborted after `seconds` even if the server trickles.
        """
        if proxy := _proxy(url):
            self._check_literal(url)
            with proxy:
                timeout = urllib3.Timeout(connect=stall_seconds, read=stall_seconds)
                with proxy.request(
                    "GET", url, headers=headers, timeout=timeout, preload_content=False, redirect=False, retries=False
                ) as response:
                    yield response
            return
        connection = self._connected(url, stall_seconds)
        watch = threading.Timer(seconds, _shut, (connection.sock,))
        watch.daemon = True
        watch.start()
        try:
            parsed = urllib3.util.parse_url(url)
            try:
                named = {"Host": parsed.netloc or "", **headers}
                connection.request("GET", parsed.request_uri, headers=named, preload_content=False)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise _TryAgainError(_reason(error)) from error
            with response:
                yield response
        finally:
            watch.cancel()
            connection.close()

    def _connected(self, url: str, stall_seconds: float) -> HTTPConnection:
        """Connects to the host's first allowed address that answers."""
        parts, problem = urlsplit(url), OSError("no address")
        host, is_https = parts.hostname or "", parts.scheme == "https"
        for address in self._addresses(url, host, port := parts.port or (443 if is_https else 80)):
            if is_https:
                connection: HTTPConnection = HTTPSConnection(
                    address, port, timeout=stall_seconds, server_hostname=host.rstrip(".")
                )
            else:
                connection = HTTPConnection(address, port, timeout=stall_seconds)
            try:
                connection.connect()
                return connection
            except (OSError, urllib3.exceptions.HTTPError) as error:
                connection.close()
                problem = OSError(_reason(error))
        raise _TryAgainError(str(problem)) from problem

    def _addresses(self, url: str, host: str, port: int) -> list[str]:
        try:
            found = addresses_of(host, port, self.resolve)
        except OSError as error:
            raise _TryAgainError(f"{host} has no address: {error}") from error
        usable = [one for one in found if host in self.listed or is_public(one)]
        if not usable:
            raise _not_public(url, host, found[0] if found else "nowhere")
        return usable

    def _check_literal(self, url: str) -> None:
        """What can be checked of a name that the proxy will resolve."""
        host = urlsplit(url).hostname or ""
        address = literal_address(host)
        if address and host not in self.listed and not is_public(address):
            raise _not_public(url, host, address)


def _not_public(url: str, host: str, address: str) -> DownloadError:
    return DownloadError(
        f"{without_query(url)} is at {address}, which is not a public address",
        f"if that is right, add {host} to circuits.download_hosts; otherwise do not use this circuit",
    )


def _shut(opened: socket.socket) -> None:
    with contextlib.suppress(OSError):
        opened.shutdown(socket.SHUT_RDWR)


def _proxy(url: str) -> urllib3.ProxyManager | None:
    """The environment's proxy, if it has one for this URL."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(parts.netloc):
        return None
    auth = urllib3.util.parse_url(proxy).auth
    headers = urllib3.make_headers(proxy_basic_auth=auth) if auth else None
    return urllib3.ProxyManager(proxy, num_pools=1, proxy_headers=headers)


def _retry_after(response: urllib3.BaseHTTPResponse) -> float:
    """Seconds of the server's Retry-After, capped; 0 when it sends none, or a date."""
    said = response.headers.get("Retry-After", "")
    return min(float(said), _LONGEST_RETRY_AFTER_SECONDS) if _LENGTH.fullmatch(said) else 0.0


def _content_range(response: urllib3.BaseHTTPResponse) -> tuple[int | None, int | None]:
    """First byte and total size; None for what is missing."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if not match:
        return None, None
    begin, size = match.groups()
    return int(begin) if begin else None, int(size)


def _note_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_note(part: Path) -> _Note:
    """The part's note; an empty one, which matches no URL, when there is none."""
    try:
        content = parse_json(_note_file(part).read_bytes())
        note = _Note(**content)
        if isinstance(note.url, str) and isinstance(note.size, (int, type(None))):
            return note
    except (OSError, ValueError, TypeError):
        pass
    return _Note("")


def _reason(error: Exception) -> str:
    """A short text; urllib3's own start with an object's name, and call a refused connection a timeout."""
    if isinstance(error, urllib3.exceptions.NewConnectionError) and isinstance(error.__cause__, OSError):
        return error.__cause__.strerror or str(error.__cause__)
    if isinstance(error, (urllib3.exceptions.TimeoutError, TimeoutError)):
        return "the server does not answer in time"
    return " ".join(str(error).split())[:200]
