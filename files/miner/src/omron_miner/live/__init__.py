"""Tools for the live network's own miner: a QUIC probe, its circuit cache, its log. Nothing here proves."""

__all__ = ["cache", "cache_check", "circuits", "miner_log", "probe", "release", "repository"]
