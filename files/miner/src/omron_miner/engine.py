"""Which miner serves on this host: omron-miner, or upstream's `sn2-miner`.

A release of `sn2-miner` has an sn2.json next to its constants.toml, so that the answer always matches
the release in use.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omron_miner.untrusted import NOT_OF_ITS_FORM, parse_json

EZKL, SN2 = "ezkl", "sn2"
SN2_FILE = "sn2.json"
"""In the folder of a release's constants.toml, if that is a release of `sn2-miner`."""
SN2_LOG = "sn2-miner.log"
"""In the folder of the logs."""
SN2_PROGRAM = "sn2-miner"
_DEFAULT_PORT = 8091


@dataclass(frozen=True)
class Engine:
    """The miner of this host. Empty fields are not known."""

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
"""omron-miner, the default."""


def engine_of(found: Any) -> Engine:
    """The `sn2-miner` that sn2.json with the content `found` describes."""
    values = found if isinstance(found, dict) else {}
    port = values.get("port")

    def text(key: str) -> str:
        value = values.get(key)
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


def read_engine(config: Path) -> Engine:
    """The engine of the release that the constants.toml at `config`, a link to the release's, belongs to."""
    try:
        return engine_of(parse_json(config.resolve().with_name(SN2_FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return OWN_MINER
    except (OSError, *NOT_OF_ITS_FORM):
        return engine_of(None)
