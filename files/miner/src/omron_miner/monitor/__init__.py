"""The monitor: reads new events and the host's state, keeps a history, writes the summary, sends alerts.

A short-lived process next to the miner: it never connects to it and imports neither bittensor nor EZKL.
"""

from omron_miner.monitor.one_run import compare_logs, run
from omron_miner.monitor.render import to_json, to_text

__all__ = ["compare_logs", "run", "to_json", "to_text"]
