"""Signs and verifies requests of the signed HTTP transport, for client and server.

A caller signs ``{nonce}:{its hotkey}:{sha256 of the body}``, so, unlike with the SDK, the body is authenticated.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

from bittensor_wallet import Keypair

NONCE, SIGNATURE, VALIDATOR_HOTKEY, MINER_HOTKEY = "nonce", "signature", "validator-hotkey", "miner-hotkey"
"""The headers."""


def signed_headers(keypair: Any, miner_hotkey: str, body: bytes, nonce: int | None = None) -> dict[str, str]:
    """The headers of a request by `keypair` to the miner `miner_hotkey`; `nonce` in nanoseconds, by default now."""
    text = str(time.time_ns() if nonce is None else nonce)
    return {
        NONCE: text,
        SIGNATURE: f"0x{keypair.sign(_message(text, keypair.ss58_address, body)).hex()}",
        VALIDATOR_HOTKEY: keypair.ss58_address,
        MINER_HOTKEY: miner_hotkey,
        "content-type": "application/json",
    }


def is_signed(hotkey: str, nonce: str, body: bytes, signature: str) -> bool:
    """Whether `hotkey` signed `body` with the nonce in that header."""
    try:
        return bool(Keypair(ss58_address=hotkey).verify(_message(nonce, hotkey, body), signature))
    except ValueError:  # not an address, or not a signature in hex
        return False


def _message(nonce: str, hotkey: str, body: bytes) -> str:
    return f"{nonce}:{hotkey}:{hashlib.sha256(body).hexdigest()}"
