"""A Subtensor of a subnet of three that fails, lies and refuses on request, and a log that is kept."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

OWN, VALIDATOR, MINER = (f"5{letter * 47}" for letter in "ABC")


@dataclass
class FakeSubtensor:
    """What we use of bittensor 10.5's Subtensor, with a subnet of three."""

    address: tuple[str, int] = ("192.0.2.7", 0)
    registered: bool = True
    success: bool = True
    fails: Exception | None = None
    served: list[Any] = field(default_factory=list)
    committed: Any = ""
    wrong: dict[str, Any] = field(default_factory=dict)
    """What the metagraph says in place of the truth."""
    closed: bool = False

    def metagraph(self, netuid: int, lite: bool) -> Any:
        assert (netuid, lite) == (2, True)
        self._perhaps_fail()
        axons = [
            SimpleNamespace(hotkey=OWN, coldkey="5Cold", ip=self.address[0], port=self.address[1]),
            SimpleNamespace(hotkey=VALIDATOR, coldkey="5Other", ip="192.0.2.9", port=9),
            SimpleNamespace(hotkey=MINER, coldkey="5Other", ip="192.0.2.8", port=8),
        ]
        answer = {"netuid": netuid, "axons": axons, "S": [1.0, 2048.5, 3.0], "validator_permit": [False, True, False]}
        return SimpleNamespace(**{**answer, **self.wrong})

    def is_hotkey_registered(self, hotkey: str, netuid: int) -> bool:
        assert (hotkey, netuid) == (OWN, 2)
        self._perhaps_fail()
        return self.registered

    def serve_axon(self, netuid: int, axon: Any) -> Any:
        self._perhaps_fail()
        self.served.append((netuid, axon))
        return SimpleNamespace(success=self.success, message="too often")

    def get_commitment_metadata(self, netuid: int, hotkey_ss58: str) -> Any:
        assert (netuid, hotkey_ss58) == (2, OWN)
        self._perhaps_fail()
        return self.committed

    def set_commitment(self, wallet: Any, netuid: int, data: str, *, wait_for_finalization: bool) -> Any:
        assert (wallet.hotkey.ss58_address, netuid, wait_for_finalization) == (OWN, 2, False)
        self._perhaps_fail()
        if self.success:
            self.committed = {"info": {"fields": [{f"Raw{len(data)}": f"0x{data.encode().hex()}"}]}}
        return SimpleNamespace(success=self.success, message="too often")

    def close(self) -> None:
        self.closed = True

    def _perhaps_fail(self) -> None:
        if self.fails:
            raise self.fails


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
