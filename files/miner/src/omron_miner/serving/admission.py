"""Authorisation: the rules that refuse a hotkey, the limits per hotkey, and the log lines of refusals.

Everything here runs in the axon's event loop. Not for: signatures (`axon_server`, `http_transport`) or
unauthenticated connections (`unauthenticated`).

No ``from __future__ import annotations``: bittensor compares a blacklist's annotations with real classes.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Tuple  # noqa: UP035  the SDK compares a blacklist's annotation with typing's Tuple

from omron_miner.chain.chain import Chain
from omron_miner.constants import Access
from omron_miner.serving.allowance import Allowances
from omron_miner.serving.http_server import ServedRequest, current_request

_REFUSAL_LINE_SECONDS = 60.0


def refusal(chain: Chain, access: Access, own_hotkey: str, hotkey: str | None) -> str | None:
    """Why `hotkey` is not authorised, in upstream's words; None when it is.

    Our own hotkey always is: only we can sign with it, and the health gate does.
    """
    if hotkey == own_hotkey or not access.blacklist:
        return None
    validator = chain.validator(hotkey) if hotkey else None
    if validator is None:
        return "Hotkey is not registered"
    if not validator.stake >= access.minimum_stake:  # NaN is refused as well
        return "Stake below minimum"
    if access.require_validator_permit and not validator.permit:
        return "Requesting UID has no validator permit"
    return None


class RefusalLines:
    """At most one log line per minute and status, so that refused callers cannot fill the log."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._counts: dict[int, int] = {}
        self._written: dict[int, float] = {}

    def note(self, request: ServedRequest) -> None:
        """Counts a refused request, and logs the count when the last line is a minute old."""
        status, now = request.status, time.monotonic()
        self._counts[status] = self._counts.get(status, 0) + 1
        if now - self._written.get(status, -_REFUSAL_LINE_SECONDS) >= _REFUSAL_LINE_SECONDS:
            count, self._counts[status], self._written[status] = self._counts[status], 0, now
            # Both come from an unauthenticated caller: truncated, and without control characters.
            path, hotkey = (repr(text[:64]) for text in (request.path, request.hotkey))
            why = f" ({request.refusal})" if request.refusal else ""
            self._log.warning("Refused %d request(s) with %d%s, the last to %s by %s", count, status, why, path, hotkey)


class Admission:
    """Decides which requests are served. For one thread."""

    def __init__(
        self,
        chain: Chain,
        access: Access,
        own_hotkey: str,
        log: logging.Logger,
        on_refused: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_refused` is called when a hotkey is refused because of the validator list."""
        self._chain, self._access, self._own_hotkey, self._log = chain, access, own_hotkey, log
        self._on_refused = on_refused
        self._lines = RefusalLines(log)
        self._allowances = Allowances(access.requests_in_progress, access.requests_per_minute)

    def blacklist_for(self, synapse_class: type) -> Callable[..., Awaitable[Tuple[bool, str]]]:  # noqa: UP006
        """The SDK's hook for `synapse_class`, which decides by hotkey alone.

        It sees headers only, and before the signature is checked.
        """

        async def blacklist(synapse: Any) -> Tuple[bool, str]:  # noqa: UP006
            request = current_request()
            request.hotkey = str(synapse.dendrite.hotkey or "")
            reason = self.refusal(request.hotkey)
            request.refusal = reason or ""
            return reason is not None, reason or ""

        blacklist.__annotations__["synapse"] = synapse_class
        return blacklist

    def refusal(self, hotkey: str) -> str | None:
        """Why `hotkey` is refused; None when it is not. An internal error refuses it. Never raises."""
        try:
            reason = refusal(self._chain, self._access, self._own_hotkey, hotkey)
            if reason is not None and hotkey:
                self._on_refused()
        except Exception:
            self._log.exception("The blacklist failed; the request is refused")
            return "Not allowed"
        return reason

    def admit(self, request: ServedRequest) -> str | None:
        """Charges a request to its hotkey's allowance until `done`; returns the reason when that is used up."""
        why = self._allowances.take(request.hotkey)
        request.admitted = why is None
        return why

    def done(self, request: ServedRequest) -> None:
        """Releases its allowance, and counts a request that was refused before it reached a handler."""
        if request.admitted:
            self._allowances.give_back(request.hotkey)
        if request.outcome is None and request.status >= 400:
            self._lines.note(request)
