"""Fetches one large file over HTTP into a file that grows until it is whole; goes on where an earlier try broke off.

Beside the growing file lies a note (``NAME.json``) of the address, size and ETag it is a part of: when the server has
another file by now, the part is thrown away. What is asked from whom is bounded by `Rules`. Knows nothing of circuits;
whether the file is the right one is for the caller to prove.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import urllib3

from omron_miner import __version__
from omron_miner.errors import OmronError

if TYPE_CHECKING:
    from pathlib import Path

Say = Callable[[str], None]

_PIECE_BYTES = 1 << 20
_MOST_REDIRECTS = 5
_LONGEST_PAUSE_SECONDS = 30.0
_TELL_SECONDS = 5.0
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may be gone when asked again."""
_ADVICE = {
    401: "the file is not public: fetch it by hand",
    403: "the file is not public, or the address has run out: fetch it by hand",
    404: "the file is not there any more: look for a newer version of the circuit",
    410: "the file is not there any more: look for a newer version of the circuit",
}
_CERTIFICATE_ADVICE = "behind a proxy with an authority of its own, set SSL_CERT_FILE to its certificates"
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+)")


class DownloadError(OmronError):
    """A file cannot be fetched: an address that is not allowed, a server that refuses, no room, no time."""


@dataclass(frozen=True)
class Rules:
    """From where, how long and how much. Sizes are bytes."""

    hosts: tuple[str, ...]
    """Names of hosts that may be asked; empty: the one the address names, and no redirect to another."""
    plain_http: bool
    total_seconds: float
    stall_seconds: float
    """Without a byte for so long, a connection is given up, and another one made."""
    tries: int
    """So many connections in a row that bring nothing are a failure."""
    max_bytes: int
    keep_free_bytes: int
    """What the file must leave free on its file system."""
    pause_seconds: float = 1.0
    """Before the second connection; doubled with each that brings nothing, up to 30."""


@dataclass(frozen=True)
class Fetched:
    """A whole file."""

    bytes: int
    received_bytes: int
    """What this call received of it, tries that were thrown away included."""
    seconds: float


class _TryAgainError(Exception):
    """Another connection may do better."""


@dataclass(frozen=True)
class _Note:
    """Which file the part belongs to."""

    url: str
    size: int | None = None
    etag: str | None = None
    modified: str | None = None

    @property
    def validator(self) -> str | None:
        """What If-Range takes: a strong ETag, else the date."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


def check_url(url: str, rules: Rules) -> None:
    """Raises DownloadError unless `rules` allow this address."""
    shown = without_query(url)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise DownloadError(f"{shown} is not an address: {error}", "correct metadata.json") from error
    if parts.scheme not in ("https", "http") or not host:
        raise DownloadError(f"{shown} is not an address of the web", "write https://… in metadata.json")
    if parts.scheme == "http" and not rules.plain_http:
        raise DownloadError(f"{shown} is not encrypted", "set circuits.download_plain_http, or fetch it by hand")
    if parts.username is not None or parts.password is not None:
        raise DownloadError(f"the address on {host} holds a user name", "fetch the file by hand")
    if rules.hosts and host not in {one.lower() for one in rules.hosts}:
        raise DownloadError(f"{shown}: {host} is not among circuits.download_hosts", "add it, or fetch it by hand")


def without_query(url: str) -> str:
    """The address as it may be shown: a query can hold a signature, the user's part a password."""
    bare = re.split(r"[?#]", url, maxsplit=1)[0]
    return re.sub(r"//[^/@]*@", "//", bare)[:200]


def fetch(
    url: str, part: Path, rules: Rules, wanted_bytes: int | None = None, begins_with: bytes = b"", say: Say = print
) -> Fetched:
    """Fetches `url` into `part`, which may hold the beginning of it, and returns when it is whole and on the disk.

    The server's size must be `wanted_bytes` when that is known, and the file must begin with `begins_with`: both are
    seen before gigabytes have come. On a failure `part` stays, for the next call to go on with, unless it is wrong.
    Raises DownloadError.
    """
    check_url(url, rules)
    if not rules.hosts:
        rules = replace(rules, hosts=(urlsplit(url).hostname or "",))
    try:
        download = _Download(url, part, rules, wanted_bytes, begins_with, say)
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
    say: Say
    received: int = 0
    begun: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._until = self.begun + self.rules.total_seconds
        self._note = _read_note(self.part)
        self._progress = _Progress(self.part.name, self.say)
        if self._note.url != self.url:
            self._start_anew()

    def run(self) -> None:
        fruitless = 0
        with _pool(self.url) as pool:
            while True:
                before = self.received
                try:
                    self._connect(pool)
                    return
                except (_TryAgainError, urllib3.exceptions.HTTPError) as error:
                    if "CERTIFICATE_VERIFY_FAILED" in str(error):
                        raise DownloadError(f"{without_query(self.url)}: {error}", _CERTIFICATE_ADVICE) from error
                    fruitless = fruitless + 1 if self.received == before else 0
                    self._pause(fruitless, _reason(error))

    def _pause(self, fruitless: int, reason: str) -> None:
        """Waits before the next connection. Raises DownloadError when there shall be none."""
        left = self._until - time.monotonic()
        late = left <= 0
        if late or fruitless >= self.rules.tries:
            of = f" of {self._note.size}" if self._note.size else ""
            why = f"took longer than {self.rules.total_seconds:g} s" if late else f"broke off: {reason}"
            raise DownloadError(
                f"{without_query(self.url)} {why}; {self._have()}{of} bytes are here",
                "run it again: it goes on from there",
            )
        pause = min(self.rules.pause_seconds * 2**fruitless, _LONGEST_PAUSE_SECONDS, left)
        self.say(f"{self.part.name}: {reason}; going on in {pause:.0f} s")
        time.sleep(pause)

    def _connect(self, pool: urllib3.PoolManager) -> None:
        """One connection; returns when the file is whole."""
        have = self._have()
        headers = {"User-Agent": f"omron-miner/{__version__}", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if self._note.validator:
                headers["If-Range"] = self._note.validator
        response = self._open(pool, headers)
        try:
            if self._is_whole(response, have):
                return
            self._take(response)
        finally:
            response.close()

    def _open(self, pool: urllib3.PoolManager, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        """Asks, and follows redirects to allowed places only."""
        url, scheme = self.url, urlsplit(self.url).scheme
        for _ in range(_MOST_REDIRECTS + 1):
            stall = min(self.rules.stall_seconds, max(self._until - time.monotonic(), 0.1))
            timeout = urllib3.Timeout(connect=stall, read=stall)
            response = pool.request(
                "GET", url, headers=headers, timeout=timeout, preload_content=False, redirect=False, retries=False
            )
            if not (target := response.get_redirect_location()):
                return response
            response.close()
            url = urljoin(url, target)
            if urlsplit(url).scheme != scheme:
                raise DownloadError(
                    f"{without_query(self.url)} sends us on to {without_query(url)}", "fetch the file by hand"
                )
            check_url(url, self.rules)
        raise DownloadError(f"{without_query(self.url)} sends us round in circles", "fetch the file by hand")

    def _is_whole(self, response: urllib3.BaseHTTPResponse, have: int) -> bool:
        """Whether nothing is left to fetch. Otherwise the part is ready for the body; raises when there is none."""
        status = response.status
        if status == 200:
            self._start_anew(response)
            return False
        if status in (206, 416) and have:
            begin, size = _content_range(response)
            same = size is not None and size == self._note.size and not self._etag_differs(response)
            if same and status == 416 and have == size:
                return True
            if same and status == 206 and begin == have:
                return False
            self._start_anew()
            raise _TryAgainError("the server has another file by now")
        if status in _AGAIN:
            raise _TryAgainError(f"the server answers {status}")
        advice = _ADVICE.get(status, "fetch the file by hand")
        raise DownloadError(f"{without_query(self.url)}: the server answers {status}", advice)

    def _etag_differs(self, response: urllib3.BaseHTTPResponse) -> bool:
        etag = response.headers.get("ETag")
        return etag is not None and etag != self._note.etag

    def _start_anew(self, response: urllib3.BaseHTTPResponse | None = None) -> None:
        """Throws the part away; the next is one of what `response` sends."""
        discard(self.part)
        self._note = _Note(self.url)
        if response is None:
            return
        length = response.headers.get("Content-Length", "")
        size = int(length) if length.isdigit() else None
        self._note = _Note(self.url, size, response.headers.get("ETag"), response.headers.get("Last-Modified"))
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadError(f"{without_query(self.url)} comes compressed, unasked", "fetch the file by hand")
        if size is not None and self.wanted_bytes not in (None, size):
            raise DownloadError(
                f"{without_query(self.url)} has {size} bytes, wanted are {self.wanted_bytes}",
                "the server has another version: fetch the whole circuit again",
            )
        self._check_room(size or 0)
        _note_file(self.part).write_text(json.dumps(asdict(self._note)), encoding="utf-8")
        shown = f" ({size / 1e6:.1f} MB)" if size else ""
        self.say(f"{self.part.name}: fetching {without_query(self.url)}{shown}")

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
                f"{free / 1e9:.1f} GB are free below {self.part.parent.parent}, {needed / 1e9:.1f} GB are needed",
                "free or add some, or lower circuits.download_keep_free_bytes",
            )

    def _take(self, response: urllib3.BaseHTTPResponse) -> None:
        """Appends the body to the part. Returns at the body's end, which urllib3 holds against Content-Length."""
        self._progress.start(self._have(), self._note.size)
        judged = not self.begins_with
        with self.part.open("ab") as file:
            while piece := response.read1(_PIECE_BYTES, decode_content=False):
                file.write(piece)
                file.flush()  # a killed run keeps what it had
                self.received += len(piece)
                have = file.tell()
                if not judged and have >= len(self.begins_with):
                    self._judge(response)
                    judged = True
                if not self._note.size and self._progress.due():
                    self._check_room(have)
                self._progress.tell(have)
                if time.monotonic() > self._until:
                    raise _TryAgainError("no time is left")
            if not judged:
                self._judge(response)
        if self._note.size not in (None, have := self._have()):
            raise _TryAgainError(f"it ended after {have} of {self._note.size} bytes")

    def _judge(self, response: urllib3.BaseHTTPResponse) -> None:
        """Throws the part away and raises DownloadError unless it begins as it should."""
        with self.part.open("rb") as begun:
            if begun.read(len(self.begins_with)) == self.begins_with:
                return
        kind = response.headers.get("Content-Type", "no type")
        self._start_anew()
        raise DownloadError(
            f"{without_query(self.url)} is not this circuit's {self.part.name} (the server calls it {kind})",
            "look at the address in metadata.json, or fetch the whole circuit again",
        )

    def _have(self) -> int:
        try:
            return self.part.stat().st_size
        except FileNotFoundError:
            return 0


class _Progress:
    """One line every few seconds."""

    def __init__(self, name: str, say: Say) -> None:
        self._name, self._say = name, say
        self._size: int | None = None
        self._first, self._begun, self._told = 0, 0.0, 0.0

    def start(self, have: int, size: int | None) -> None:
        self._first, self._size, self._begun = have, size, time.monotonic()
        self._told = self._begun

    def due(self) -> bool:
        return time.monotonic() - self._told >= _TELL_SECONDS

    def tell(self, have: int) -> None:
        if not self.due():
            return
        self._told = now = time.monotonic()
        rate = (have - self._first) / (now - self._begun)
        text = f"{self._name}: {have / 1e6:.0f} MB"
        if self._size:
            left = f", {(self._size - have) / rate:.0f} s left" if rate else ""
            text = f"{self._name}: {have / 1e6:.0f} of {self._size / 1e6:.0f} MB, {100 * have / self._size:.0f} %{left}"
        self._say(f"{text}, {rate / 1e6:.1f} MB/s")


def _pool(url: str) -> urllib3.PoolManager:
    """Connections by way of the environment's proxy, if it names one for this address."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(parts.netloc):
        return urllib3.PoolManager(num_pools=1)
    auth = urllib3.util.parse_url(proxy).auth
    headers = urllib3.make_headers(proxy_basic_auth=auth) if auth else None
    return urllib3.ProxyManager(proxy, num_pools=1, proxy_headers=headers)


def _content_range(response: urllib3.BaseHTTPResponse) -> tuple[int | None, int | None]:
    """First byte and whole size; None for what is not said."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if not match:
        return None, None
    begin, size = match.groups()
    return int(begin) if begin else None, int(size)


def _note_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_note(part: Path) -> _Note:
    """The part's note; an empty one, which fits no address, when there is none."""
    try:
        content = json.loads(_note_file(part).read_bytes())
        note = _Note(**content)
        if isinstance(note.url, str) and isinstance(note.size, (int, type(None))):
            return note
    except (OSError, ValueError, TypeError):
        pass
    return _Note("")


def _reason(error: Exception) -> str:
    """In few words; urllib3's own begin with an object's name."""
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "the server does not answer in time"
    return " ".join(str(error).split())[:200]
