"""A competition circuit that no EZKL made, but that looks like one until it is opened; and a chain to commit to."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from omron_miner.chain.chain import ChainError
from omron_miner.circuits.load import version_mark
from omron_miner.competition.files import DECLARED_RUN_ARGS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VERSION = "22.0.1"


def write_circuit(directory: Path, body: bytes = b"weights", **run_args: Any) -> bytes:
    """Writes both files; what model.compiled holds."""
    directory.mkdir(exist_ok=True)
    settings = {"version": VERSION, "run_args": {**DECLARED_RUN_ARGS, **run_args}}
    (directory / "settings.json").write_text(json.dumps(settings))
    content = body + version_mark(VERSION) + b"\x01"
    (directory / "model.compiled").write_bytes(content)
    return content


@dataclass
class FakeChain:
    """The part of a chain that a competition needs. `switch` is one of ok, away and hang."""

    asked: int = 0
    """For its commitment."""
    hanging: threading.Event = field(default_factory=threading.Event)
    """A call waits now."""

    committed: str | None = None
    switch: str = "ok"
    commits: list[str] = field(default_factory=list)
    on_commit: Callable[[str], None] = lambda text: None
    released: threading.Event = field(default_factory=threading.Event)

    def commitment(self) -> str | None:
        self.asked += 1
        self._perhaps_fail()
        return self.committed

    def commit(self, text: str) -> None:
        self._perhaps_fail()
        self.on_commit(text)
        self.commits.append(text)
        self.committed = text

    def _perhaps_fail(self) -> None:
        if self.switch == "hang":
            self.hanging.set()
            self.released.wait(60)
            self.hanging.clear()
        if self.switch == "away":
            raise ChainError("could not ask the chain")
