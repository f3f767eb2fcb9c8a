"""Which miner serves on this host: this product's own, or upstream's `sn2-miner`. The play writes it into host.toml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omron_miner.untrusted import parse_toml

if TYPE_CHECKING:
    from collections.abc import Mapping

EZKL, SN2 = "ezkl", "sn2"
HOST_FILE = "host.toml"
"""In the folder of constants.toml: what the play gave this host."""
SN2_LOG = "sn2-miner.log"
"""In the folder of the logs."""
SN2_PROGRAM = "sn2-miner"
_DEFAULT_PORT = 8091


@dataclass(frozen=True)
class Engine:
    """The miner of this host. What is empty is not known."""

    name: str = EZKL
    axon_port: int = _DEFAULT_PORT
    """UDP port of `sn2-miner`."""
    hotkey: str = ""
    """Its SS58 address."""
    log_file: Path | None = None
    """Log of `sn2-miner`; None: `SN2_LOG` in the folder of the logs."""
    program: Path | None = None
    """The program `sn2-miner`."""
    circuit_cache: Path | None = None
    """Its circuit cache."""
    external_ip: str = ""
    """Address that it announces on the chain."""
    circuits_url: str = ""
    """The repository of circuits; empty: the subnet's."""

    @property
    def is_sn2(self) -> bool:
        """Whether upstream's miner serves here."""
        return self.name == SN2

    def log_in(self, directory: Path) -> Path:
        """The log of `sn2-miner`, where logs are in `directory`."""
        return self.log_file or directory / SN2_LOG


OWN_MINER = Engine()
"""This product's own, which serves where nothing says otherwise."""


def engine_of(tables: Mapping[str, Any] | None) -> Engine:
    """What host.toml's `tables` say at the top; without a word, `EZKL`."""
    found = tables or {}
    if found.get("engine") != SN2:
        return OWN_MINER
    port = found.get("axon_port")

    def text(key: str) -> str:
        value = found.get(key)
        return value if isinstance(value, str) else ""

    def path(key: str) -> Path | None:
        return Path(text(key)) if text(key) else None

    return Engine(
        SN2,
        port if isinstance(port, int) and 0 < port < 65536 else _DEFAULT_PORT,
        text("hotkey"),
        path("log_file"),
        path("program"),
        path("circuit_cache"),
        text("external_ip"),
        text("circuits_url"),
    )


def read_engine(file: Path) -> Engine:
    """The engine that host.toml at `file` names; `EZKL` where it is missing, unreadable or names none."""
    try:
        return engine_of(parse_toml(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return OWN_MINER
