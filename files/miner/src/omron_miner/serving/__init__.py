"""The miner as validators see it: endpoints, transports, admission, and a client that sends requests as they do."""

from omron_miner.chain import sdk as _sdk  # noqa: F401  before any module here imports bittensor

__all__ = ["query", "start"]
