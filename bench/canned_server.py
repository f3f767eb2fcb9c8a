"""A bare HTTP server with a fixed answer: measures a call's time without the miner.

    .venv/bin/python bench/canned_server.py PORT REPLY_FILE

The reply is the JSON of REPLY_FILE. It knows no bittensor, checks nothing, and keeps connections open.
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


async def serve(port: int, body: bytes) -> None:
    """Answers on loopback until it is killed."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    reply = head.encode() + body

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(request)
                await reader.readexactly(int(length[1]) if length else 0)
                writer.write(reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2]).read_bytes()))
