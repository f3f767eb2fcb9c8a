"""Nodes that a chain's client may meet: real sockets and websockets, none of which is a chain.

What a working node says cannot be had here (its metadata is a chain's own), so these are the ones that do not work.
"""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from websockets.sync.server import ServerConnection


def _says_nothing(connection: ServerConnection) -> None:
    for _ in connection:
        pass


def _says_no_json(connection: ServerConnection) -> None:
    for _ in connection:
        connection.send("<html>502 Bad Gateway</html>")


def _says_nonsense(connection: ServerConnection) -> None:
    for message in connection:
        asked = json.loads(message)
        connection.send(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": {"number": "0xzz", "x": [None]}}))


def _says_an_error(connection: ServerConnection) -> None:
    for message in connection:
        error = {"code": -32000, "message": "the node is\n still syncing"}
        connection.send(json.dumps({"jsonrpc": "2.0", "id": json.loads(message)["id"], "error": error}))


def _hangs_up(connection: ServerConnection) -> None:
    connection.recv()
    connection.close()


_SPEAKERS: dict[str, Callable[[Any], None]] = {
    "mute": _says_nothing,
    "no json": _says_no_json,
    "nonsense": _says_nonsense,
    "error": _says_an_error,
    "hangs up": _hangs_up,
}
NODES = ("gone", "silent", *_SPEAKERS)
"""gone: nothing listens; silent: a socket that accepts and never speaks; mute: a websocket that does."""


@contextmanager
def node(kind: str) -> Iterator[str]:
    """Its address while it runs."""
    if kind in ("gone", "silent"):
        with socket.socket() as opened:
            opened.bind(("127.0.0.1", 0))
            if kind == "silent":
                opened.listen()
            yield f"ws://127.0.0.1:{opened.getsockname()[1]}"
        return

    def speak(connection: ServerConnection) -> None:
        try:
            _SPEAKERS[kind](connection)
        except ConnectionClosed:
            return

    with serve(speak, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()
