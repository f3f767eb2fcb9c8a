"""Opens the pool that the settings select."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omron_miner.proving.prover import ProverPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from omron_miner.constants import Constants
    from omron_miner.proving.prover import Pool


def open_pool(constants: Constants, on_worker_lost: Callable[[str], None]) -> Pool:
    """A pool of this host, or of this host and its prover hosts (`prover.engine`). Not started.

    `on_worker_lost` as in `ProverPool`. Raises OmronError when the engine cannot be used.
    """
    if constants.prover.engine == "local":
        return ProverPool(constants, on_worker_lost)
    from omron_miner.provers.dask_client import DaskConnection  # here: a single-host miner must not load it
    from omron_miner.provers.multi_host_pool import MultiHostPool

    return MultiHostPool(constants, on_worker_lost, DaskConnection(constants).run)
