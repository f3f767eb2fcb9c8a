"""Rate limits per hotkey: requests in progress and requests per minute, so that no validator starves the others.

Charged only after a request's signature was verified: naming a hotkey cannot use up its allowance.

Not for: authorisation (`admission.refusal`), or the number of concurrent proofs (`prover`).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_HOTKEYS = 4096
"""Hotkeys remembered; a subnet has 256. A forgotten one starts again with a full minute's requests."""


@dataclass
class _Account:
    left: float
    """Number of requests that may start now; refilled over a minute."""
    at: float
    """When `left` was updated."""
    in_progress: int = 0


class Allowances:
    """An account for each requesting hotkey. For one thread. A limit of 0 means unlimited."""

    def __init__(self, in_progress: int, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        """A burst of `per_minute` is allowed and refills evenly; `clock` in seconds."""
        self._in_progress, self._per_minute, self._clock = in_progress, per_minute, clock
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    def take(self, hotkey: str) -> str | None:
        """Why `hotkey` is over its limits; None when it is not: call `give_back` afterwards."""
        account, now = self._account(hotkey), self._clock()
        if self._in_progress and account.in_progress >= self._in_progress:
            return f"More than {self._in_progress} requests in progress"
        if self._per_minute:
            refilled = account.left + (now - account.at) * self._per_minute / 60
            account.left, account.at = min(refilled, float(self._per_minute)), now
            if account.left < 1:
                return f"More than {self._per_minute} requests a minute"
            account.left -= 1
        account.in_progress += 1
        return None

    def give_back(self, hotkey: str) -> None:
        """One request of `hotkey` has ended."""
        self._accounts[hotkey].in_progress -= 1

    def __len__(self) -> int:
        return len(self._accounts)

    def _account(self, hotkey: str) -> _Account:
        account = self._accounts.get(hotkey)
        if account is None:
            self._forget_one()
            account = self._accounts[hotkey] = _Account(float(self._per_minute), self._clock())
        self._accounts.move_to_end(hotkey)
        return account

    def _forget_one(self) -> None:
        """The least recently used of the hotkeys without a request in progress: those must be remembered."""
        if len(self._accounts) < _MOST_HOTKEYS:
            return
        for hotkey, account in self._accounts.items():
            if not account.in_progress:
                del self._accounts[hotkey]
                return
