"""Checks this host: everything the miner needs, each with the expected and the actual state and one line of advice.

Read-only; changes nothing and opens no circuit with EZKL. For this product's own miner it does not query the chain;
where upstream's `sn2-miner` serves, it queries the chain, the miner itself and the repository of circuits (`sn2`).
Best run as root or as the service user, because others cannot read the wallet and the session directory: what is not
visible is "unknown", not "ok". Every check has a time limit, so that the doctor also finishes on a faulty host.
"""

from omron_miner.doctor.check import Status
from omron_miner.doctor.report import to_json, to_text
from omron_miner.doctor.run_checks import examine

__all__ = ["Status", "examine", "to_json", "to_text"]
