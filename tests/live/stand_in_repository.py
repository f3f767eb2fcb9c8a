"""A stand-in for the subnet's circuit repository on loopback, for tests only: honest, or as bad as a test wants."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import msgpack  # type: ignore[import-untyped]

from omron_miner.live.bundle import crc32c

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Act = Callable[["Handler", bytes], None]


def sha(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def enveloped(payload: bytes, flags: int = 0, **wrong: int) -> bytes:
    """A manifest's envelope; `length` and `checksum` only to lie."""
    length, checksum = wrong.get("length", len(payload)), wrong.get("checksum", crc32c(payload))
    return struct.pack("<4sIQI", b"JST\x01", flags, length, checksum) + payload


def manifest(config: Any = "goldilocks_basefold", version: Any = 1, **metadata: Any) -> bytes:
    """A manifest as the miner takes it."""
    stamp = {"proof_config": {"config": config, "version": version}, "scale_base": 2, **metadata}
    return enveloped(msgpack.packb({"metadata": stamp, "version": None}))


def bundle_files(label: str, **changed: bytes) -> dict[str, bytes]:
    """What a component consists of; its content differs by `label`."""
    names = {"circuit": "circuit.bin", "solver": "witness_solver.bin", "manifest": "manifest.msgpack", "key": "vk.bin"}
    files = {
        "circuit.bin": f"circuit {label} ".encode() * 500,
        "witness_solver.bin": b"\x28\xb5\x2f\xfd" + f"solver {label} ".encode() * 50,
        "manifest.msgpack": manifest(),
    }
    return files | {names[key]: value for key, value in changed.items()}


@dataclass
class Repository:
    """What it has. `acts` take over a path until they are used up; `checksums` says whether it sends its header."""

    checksums: bool = True
    circuits: list[Any] = field(default_factory=list)
    models: list[Any] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    acts: dict[str, list[Act]] = field(default_factory=dict)
    on_head: Act | None = None
    """How it answers every HEAD, if not honestly."""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and range of each request."""
    url: str = ""

    def add_component(self, name: str, files: dict[str, bytes], weights: bytes | None = b"") -> dict[str, Any]:
        """A slice with these files; its entry in a circuit. `weights` None: it has none, empty: some of its own."""
        component = sha("component" + "".join(sorted(files)) + sha(b"".join(files.values())))
        for filename, content in files.items():
            self.files[f"/components/{component}/files/{filename}"] = content
        model = weights or f"onnx of {name}".encode() * 20
        entry: dict[str, Any] = {"name": name, "sha256": component, "proof_system": "JSTPROVE", "files": [*files]}
        entry["weights"] = [] if weights is None else [self.add_blob(f"{name}.onnx", model)]
        return entry

    def add_blob(self, filename: str, content: bytes) -> dict[str, str]:
        """Weights or an artifact."""
        self.files[f"/models/wb/{sha(content)}"] = content
        return {"sha256": sha(content), "filename": filename}

    def add_circuit(
        self, name: str, components: list[dict[str, Any]], artifacts: list[dict[str, str]] | None = None
    ) -> str:
        """Lists a circuit and returns its id."""
        entry = circuit(name, components, artifacts or [])
        self.circuits.append(entry)
        return str(entry["id"])

    def gets(self, part: str = "") -> list[str]:
        """Paths that were fetched and contain `part`."""
        return [path for method, path, _ in self.asked if method == "GET" and part in path]


def circuit(name: str, components: list[Any], artifacts: list[Any]) -> dict[str, Any]:
    metadata = {
        "name": name, "description": "", "author": "", "version": "1", "type": "DSPERSE_PROOF_GENERATION",
        "proof_system": "JSTPROVE", "netuid": 2, "weights_version": None, "timeout": 3600, "input_schema": {},
    }  # fmt: skip
    return {"id": sha(name), "metadata": metadata, "composition": {"components": components, "artifacts": artifacts}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        repository = self.repository
        repository.asked.append((self.command, self.path, self.headers.get("Range")))
        self.close_connection = True
        content = self.content()
        acts = repository.acts.get(self.path)
        if self.command == "HEAD" and repository.on_head:
            repository.on_head(self, content or b"")
        elif acts and self.command == "GET":
            acts.pop(0)(self, content or b"")
        elif content is None:
            self.answer(404)
        else:
            self.honest(content)

    def log_message(self, *_: Any) -> None:
        pass

    @property
    def repository(self) -> Repository:
        found: Repository = self.server.repository
        return found

    def content(self) -> bytes | None:
        repository = self.repository
        for kind in ("circuits", "models"):
            entries = getattr(repository, kind)
            if self.path == f"/{kind}":
                return json.dumps({kind: entries}).encode()
        return repository.files.get(self.path)

    def honest(self, content: bytes, stop_after: int | None = None, **headers: Any) -> None:
        """The file or the range that is asked for; the connection ends after so many bytes of the body."""
        named: dict[str, Any] = {"ETag": f'"{sha(content)}"'}
        if self.repository.checksums and "/components/" in self.path:
            named["x-checksum-sha256"] = sha(content)
        status, first = 200, 0
        if asked := self.headers.get("Range"):
            first = int(asked.removeprefix("bytes=").removesuffix("-"))
            status = 206 if first < len(content) else 416
            end = f"{first}-{len(content) - 1}" if status == 206 else "*"
            named["Content-Range"] = f"bytes {end}/{len(content)}"
        body = content[first:]
        self.answer(status, body[:stop_after], **{"Content-Length": len(body), **named, **headers})

    def answer(self, status: int, body: bytes = b"", **headers: Any) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": len(body), "Connection": "close", **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def cut(after: int) -> Act:
    """The connection ends after so many bytes of the body."""
    return lambda handler, content: handler.honest(content, after)


def other(content: bytes) -> Act:
    """Something else, with what the headers say of the right one."""
    return lambda handler, _: handler.answer(200, content)


def status(code: int) -> Act:
    return lambda handler, _: handler.answer(code)


@contextmanager
def serving(**options: Any) -> Iterator[Repository]:
    """The repository, up until the end of the block."""
    repository = Repository(**options)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.repository = repository  # type: ignore[attr-defined]
    repository.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield repository
    finally:
        server.shutdown()
        server.server_close()
