"""Storage of the S3 kind on loopback: moto's, which keeps buckets and objects but asks nobody for a key.

So in front of it stands what real storage does: a request must be signed, in its headers or in its URL, by the one key
there is, and a URL has an end. The signature is worked out here from Amazon's description of version 4, not by the
library that made it. A switch makes the storage refuse everything, or keep everybody waiting.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
import time
import uuid
from calendar import timegm
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote

from moto.s3.models import s3_backends
from moto.server import create_backend_app
from werkzeug.serving import make_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ACCESS_KEY, SECRET_KEY = "AKIAOMRONTEST", "hush-this-is-the-secret/key"
REGION = "auto"
_ACCOUNT = "123456789012"


@dataclass
class S3Server:
    """`switch` is one of ok, refuse and wait; it may be set at any time. URLs end by `clock`."""

    endpoint: str = ""
    bucket: str = field(default_factory=lambda: f"circuits-{uuid.uuid4().hex[:8]}")
    switch: str = "ok"
    puts: list[str] = field(default_factory=list)
    """The paths that were written to, parts of an upload included."""
    not_served: threading.Event = field(default_factory=threading.Event)
    """Somebody was refused by the switch, or waits."""
    released: threading.Event = field(default_factory=threading.Event)
    clock: Callable[[], float] = time.time

    @property
    def objects(self) -> dict[str, bytes]:
        """What lies in the bucket."""
        return {key: found.value for key, found in s3_backends[_ACCOUNT]["aws"].buckets[self.bucket].keys.items()}

    def remove(self, key: str) -> None:
        s3_backends[_ACCOUNT]["aws"].delete_object(self.bucket, key)

    def write_credentials(self, path: Path, secret: str = SECRET_KEY) -> None:
        path.write_text(f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {secret}\n")
        path.chmod(0o600)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    storage = create_backend_app("s3")

    def application(environ: dict[str, Any], start: Any) -> Any:
        if server.switch != "ok":
            server.not_served.set()
        if server.switch == "wait":
            server.released.wait(60)
        refused = "AccessDenied" if server.switch == "refuse" else _refusal(environ, server.clock())
        if refused:
            start("403 Forbidden", [("Content-Type", "application/xml")])
            return [f"<Error><Code>{refused}</Code><Message>No</Message></Error>".encode()]
        if environ["REQUEST_METHOD"] == "PUT":
            server.puts.append(environ["PATH_INFO"])
        return storage(environ, start)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # which writes a line for each request, with its URL
    listening = make_server("127.0.0.1", 0, application, threaded=True)
    server.endpoint = f"http://127.0.0.1:{listening.server_port}"
    s3_backends[_ACCOUNT]["aws"].create_bucket(server.bucket, "us-east-1")
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        listening.shutdown()
        listening.server_close()
        thread.join()


def _refusal(environ: dict[str, Any], now: float) -> str | None:
    query = parse_qsl(environ["QUERY_STRING"], keep_blank_values=True)
    named = dict(query)
    if "X-Amz-Signature" in named:
        made = timegm(time.strptime(named["X-Amz-Date"], "%Y%m%dT%H%M%SZ"))
        if now > made + int(named["X-Amz-Expires"]):
            return "AccessDenied"
        scope, headers = named["X-Amz-Credential"], named["X-Amz-SignedHeaders"]
        given, when, digest = named["X-Amz-Signature"], named["X-Amz-Date"], "UNSIGNED-PAYLOAD"
        query = [(name, value) for name, value in query if name != "X-Amz-Signature"]
    else:
        parts = environ.get("HTTP_AUTHORIZATION", "").removeprefix("AWS4-HMAC-SHA256 ").split(", ")
        said = dict(part.partition("=")[::2] for part in parts)
        if set(said) != {"Credential", "SignedHeaders", "Signature"}:
            return "AccessDenied"
        scope, headers, given = said["Credential"], said["SignedHeaders"], said["Signature"]
        when, digest = environ["HTTP_X_AMZ_DATE"], environ["HTTP_X_AMZ_CONTENT_SHA256"]
    access_key, _, scope = scope.partition("/")
    if access_key != ACCESS_KEY:
        return "InvalidAccessKeyId"
    lines = [f"{name}:{' '.join(_header(environ, name).split())}\n" for name in headers.split(";")]
    asked = "&".join(sorted(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query))
    path = quote(environ["PATH_INFO"])
    request = "\n".join((environ["REQUEST_METHOD"], path, asked, "".join(lines), headers, digest))
    text = "\n".join(("AWS4-HMAC-SHA256", when, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{SECRET_KEY}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    wanted = hmac.digest(key, text.encode(), "sha256").hex()
    return None if hmac.compare_digest(wanted, given) else "SignatureDoesNotMatch"


def _header(environ: dict[str, Any], name: str) -> str:
    key = name.upper().replace("-", "_")
    return str(environ.get(key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}", ""))
