"""The subnet's hotkeys as last read from the chain: validated before use, and kept on disk for a restart.

A chain may answer nonsense (a node that is still syncing, another subnet's list, a broken proxy). Then the last good
list is better than the new one, so a list is accepted whole or not at all. Nothing here queries the chain.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from omron_miner.constants import COPY_DAYS
from omron_miner.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping

    from omron_miner.constants import Network

_VERSION = 1
_AHEAD_SECONDS = 3600.0
"""A copy dated further in the future than this was not written with this clock."""
_LARGEST_COPY = 4_194_304
"""Bytes; 256 neurons take some 20 000."""


@dataclass(frozen=True)
class Validator:
    """A hotkey on our subnet, as of the last reading. `stake` is the subnet's total stake of it, in its token."""

    hotkey: str
    uid: int
    stake: float
    permit: bool


@dataclass(frozen=True)
class SubnetList:
    """One reading of the metagraph: all hotkeys of the subnet, and our own coldkey and announced address."""

    validators: Mapping[str, Validator] = field(default_factory=dict)
    time: float = 0.0
    """When it was read, seconds since 1970; 0 for never."""
    own_coldkey: str = ""
    own_address: tuple[str, int] | None = None


class RejectedMetagraph(Exception):
    """The list is unusable; the message gives the reason, without a full stop."""


def from_metagraph(metagraph: Any, netuid: int, own_hotkey: str) -> SubnetList:
    """The list in the SDK's metagraph of subnet `netuid`. Raises RejectedMetagraph."""
    if int(metagraph.netuid) != netuid:
        raise RejectedMetagraph(f"it is about netuid {metagraph.netuid}, not {netuid}")
    axons, stakes, permits = list(metagraph.axons), list(metagraph.S), list(metagraph.validator_permit)
    if not axons:
        raise RejectedMetagraph("it is empty")
    if not len(axons) == len(stakes) == len(permits):
        raise RejectedMetagraph(f"it has {len(axons)} hotkeys, {len(stakes)} stakes and {len(permits)} permits")
    validators, coldkey, address = {}, "", None
    for uid, axon in enumerate(axons):
        stake = float(stakes[uid])
        if not math.isfinite(stake) or stake < 0:
            raise RejectedMetagraph(f"the stake of uid {uid} is {stake}")
        if not isinstance(axon.hotkey, str) or axon.hotkey in validators:
            raise RejectedMetagraph(f"the hotkey of uid {uid} is {axon.hotkey!r}")
        validators[axon.hotkey] = Validator(axon.hotkey, uid, stake, bool(permits[uid]))
        if axon.hotkey == own_hotkey:
            coldkey, address = axon.coldkey, (str(axon.ip), int(axon.port))
    return SubnetList(validators, time.time(), coldkey, address)


class _Copy(BaseModel):
    """The file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: int
    network: str
    netuid: int
    hotkey: str
    time: float = Field(gt=0, allow_inf_nan=False)
    own_coldkey: str
    own_address: tuple[str, int] | None
    validators: list[tuple[str, int, float, bool]]
    """Hotkey, uid, stake, permit."""


def save(found: SubnetList, network: Network, own_hotkey: str) -> None:
    """Writes `found` to `network.copy_file` (0640), replacing it. Raises OSError."""
    copy = _Copy(
        version=_VERSION,
        network=network.name,
        netuid=network.netuid,
        hotkey=own_hotkey,
        time=found.time,
        own_coldkey=found.own_coldkey,
        own_address=found.own_address,
        validators=[(one.hotkey, one.uid, one.stake, one.permit) for one in found.validators.values()],
    )
    write_atomically(network.copy_file, json.dumps(copy.model_dump(mode="json")) + "\n", 0o640)


def load(network: Network, own_hotkey: str) -> SubnetList:
    """The list that was saved for this hotkey on this subnet. Raises RejectedMetagraph with why it is not usable."""
    path = network.copy_file
    try:
        with path.open(encoding="utf-8") as file:
            copy = _Copy.model_validate_json(file.read(_LARGEST_COPY))
    except FileNotFoundError:
        raise RejectedMetagraph(f"there is no {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RejectedMetagraph(f"{path} cannot be read: {error}") from None
    except ValidationError:
        raise RejectedMetagraph(f"{path} is corrupt") from None
    if (copy.version, copy.network, copy.netuid) != (_VERSION, network.name, network.netuid):
        raise RejectedMetagraph(f"{path} is of netuid {copy.netuid} of {copy.network}")
    if copy.hotkey != own_hotkey or own_hotkey not in {entry[0] for entry in copy.validators}:
        raise RejectedMetagraph(f"{path} is of another hotkey than {own_hotkey}")
    age = time.time() - copy.time
    if not -_AHEAD_SECONDS <= age <= COPY_DAYS * 86_400:
        days = f"{age / 86_400:.1f} days old, more than {COPY_DAYS:g}" if age > 0 else "dated in the future"
        raise RejectedMetagraph(f"{path} is {days}")
    if not all(math.isfinite(stake) for _, _, stake, _ in copy.validators):
        raise RejectedMetagraph(f"{path} is corrupt")
    validators = {hotkey: Validator(hotkey, uid, stake, permit) for hotkey, uid, stake, permit in copy.validators}
    return SubnetList(validators, copy.time, copy.own_coldkey, copy.own_address)
