"""Omron (Bittensor subnet 2) miner: takes validators' requests and answers with verified EZKL proofs."""

__version__ = "0.1.0"
