"""The monitor: reads new events and the host's state, keeps a history, writes the summary, sends alerts.

A short-lived process next to the miner: it never connects to it and imports neither bittensor nor EZKL.
"""

from omron_miner.monitor.render import to_json, to_text
from omron_miner.monitor.run_once import compare_logs, run

__all__ = ["compare_logs", "run", "to_json", "to_text"]
