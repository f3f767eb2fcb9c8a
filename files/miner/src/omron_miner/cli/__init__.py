"""The command line, ``omron-miner``: thin commands over the layers below, one file per group.

Imports of other layers are inside the commands, so that the monitor starts without loading bittensor or EZKL.
Every command exits with 0 on success, 1 on failure, 2 for invalid arguments.
"""

from omron_miner.cli.app import main

__all__ = ["main"]
