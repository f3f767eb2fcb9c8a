"""Checks this host: everything the miner needs, each with what is wanted, what is there, and one line of advice.

Looks only; changes nothing and opens no circuit with EZKL. For this product's own miner it asks no chain; where
upstream's `sn2-miner` serves, it asks the chain, the miner itself and the repository of circuits (`sn2`).
Best run as root or as the service user, because others cannot see into the wallet and the session directory: what
cannot be seen is "unknown", not "ok". Every look has a limit, so that a doctor on a sick host still ends.
"""

from omron_miner.doctor.check import Status
from omron_miner.doctor.examination import examine
from omron_miner.doctor.report import to_json, to_text

__all__ = ["Status", "examine", "to_json", "to_text"]
