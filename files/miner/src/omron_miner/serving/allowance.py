"""How much one hotkey may ask: requests in progress and requests a minute, so that no validator starves the others.

Charged only after a request's signature was verified: naming a hotkey cannot use up its allowance.

Not for: who may ask at all (`admission.refusal`), or how many proofs run (`prover`).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_HOTKEYS = 4096
"""Hotkeys remembered; a subnet has 256. A forgotten one starts again with a whole minute's requests."""


@dataclass
class _Account:
    left: float
    """Requests that may begin now; refilled over a minute."""
    at: float
    """When `left` was so."""
    in_progress: int = 0


class Allowances:
    """An account for each hotkey that asks. For one thread. A limit of 0 is none."""

    def __init__(self, in_progress: int, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`per_minute` may begin at once and come back evenly; `clock` in seconds."""
        self._in_progress, self._per_minute, self._clock = in_progress, per_minute, clock
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    def take(self, hotkey: str) -> str | None:
        """Why `hotkey` may not ask now; None when it may, and a `give_back` is then owed."""
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
        """The one that asked longest ago of those that are not being served, whose debt must be remembered."""
        if len(self._accounts) < _MOST_HOTKEYS:
            return
        for hotkey, account in self._accounts.items():
            if not account.in_progress:
                del self._accounts[hotkey]
                return
