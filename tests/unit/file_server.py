"""A real HTTP server on loopback that serves one file as storage does, or as badly as a test wants."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Act = Callable[["Handler"], None]


@dataclass
class FileServer:
    """What it serves, and what it was asked. `acts` are taken one a request; after the last it behaves."""

    content: bytes
    etag: str | None = '"one"'
    acts: list[Act] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)
    """Headers of each request, `path` among them."""
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/files/pk.key"

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of each request."""
        return [one.get("range") for one in self.requests]


class Handler(BaseHTTPRequestHandler):
    """Answers by the next act, else honestly, ranges included."""

    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        files = self.files
        files.requests.append({"path": self.path} | {name.lower(): value for name, value in self.headers.items()})
        act = files.acts.pop(0) if files.acts else honest
        self.close_connection = True
        act(self)

    def log_message(self, *_: Any) -> None:
        pass

    @property
    def files(self) -> FileServer:
        served: FileServer = self.server.files
        return served

    def answer(self, status: int, body: bytes = b"", **headers: Any) -> None:
        """Status and headers, dashes for underscores; Content-Length is the body's unless given or None."""
        self.send_response(status)
        for name, value in {"Content_Length": len(body), "Connection": "close", **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)


def honest(handler: Handler) -> None:
    """The file, or the range of it that is asked for while If-Range holds."""
    partial(handler)


def partial(handler: Handler, stop_after: int | None = None, **headers: Any) -> None:
    """As `honest`, but the connection ends after so many bytes of the body."""
    files = handler.files
    named: dict[str, Any] = {"ETag": files.etag} if files.etag else {}
    asked, size = handler.headers.get("Range"), len(files.content)
    if asked and handler.headers.get("If-Range") in (None, files.etag):
        first = int(asked.removeprefix("bytes=").removesuffix("-"))
        if first >= size:
            handler.answer(416, Content_Range=f"bytes */{size}", **named)
            return
        body, status = files.content[first:], 206
        named["Content_Range"] = f"bytes {first}-{size - 1}/{size}"
    else:
        body, status = files.content, 200
    handler.answer(status, body[:stop_after], **{"Content_Length": len(body), **named, **headers})


def cut(after: int) -> Act:
    """The connection ends after so many bytes of the body."""
    return lambda handler: partial(handler, after)


def status(code: int, **headers: Any) -> Act:
    """Only this status."""
    return lambda handler: handler.answer(code, **headers)


def redirect(location: str) -> Act:
    """On to another address."""
    return status(302, Location=location)


@contextmanager
def serving(content: bytes, *acts: Act, etag: str | None = '"one"') -> Iterator[FileServer]:
    """The server, up until the end of the block."""
    files = FileServer(content, etag, list(acts))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.files = files  # type: ignore[attr-defined]
    files.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
