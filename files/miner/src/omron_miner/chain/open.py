"""Opens the chain that the constants name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omron_miner.chain.bittensor_chain import BittensorChain, look
from omron_miner.chain.chain import LocalChain
from omron_miner.chain.subnet_list import SubnetList

if TYPE_CHECKING:
    from omron_miner.chain.chain import Chain
    from omron_miner.constants import Constants, Network


def open_chain(constants: Constants, wallet: Any) -> Chain:
    """The chain `constants.network` names. Does not connect yet. `wallet` is a bittensor wallet with its hotkey."""
    if constants.network.name == "local":
        return LocalChain(constants.network.local_validator_hotkeys)
    return BittensorChain(constants.network, wallet.hotkey)


def look_at_chain(network: Network, hotkey: str) -> SubnetList:
    """The current list of the subnet, with `hotkey` (SS58) as ours; empty on `local`. Raises ChainError."""
    return SubnetList() if network.name == "local" else look(network, hotkey)
