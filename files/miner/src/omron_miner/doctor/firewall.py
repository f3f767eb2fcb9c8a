"""Whether the axon's port gets through this host's own firewall, by the firewall's own word. Changes no rule."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from omron_miner.doctor import probes
from omron_miner.doctor.check import Check, Status, judged, unseen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ADVICE = "run the play with --tags firewall, or open the port yourself; a provider's firewall is not seen from here"


def check(ports: object) -> Iterator[Check]:
    """One check per TCP port that host.toml names; nothing for anything else."""
    if not isinstance(ports, list):
        return
    for port in ports:
        name, wanted = "firewall", f"TCP {port} open"
        answer = is_open(int(port))
        if answer is None:
            yield unseen(name, wanted, "no firewall program answers", "run this as root")
        else:
            is_well, live = answer
            status = Status.WARN if is_well is None else Status.FAIL
            yield judged(name, is_well is True, wanted, live, _ADVICE, status)


def is_open(port: int) -> tuple[bool | None, str] | None:
    """Whether TCP `port` is let in (None: there are rules that say neither), and who says so; None when nobody does."""
    state = probes.ask_word("firewall-cmd", "--state")
    if state == "running":
        return probes.ask_word("firewall-cmd", f"--query-port={port}/tcp") == "yes", "firewalld"
    status = probes.ask("ufw", "status") or ""
    if "Status: active" in status:
        allowed = re.search(rf"^{port}(/tcp)?\s+(ALLOW|LIMIT)\b", status, re.MULTILINE)
        return bool(allowed), "ufw"
    answer = probes.ask("nft", "--json", "list", "ruleset")
    try:
        rules = json.loads(answer or "")["nftables"]
    except (ValueError, KeyError, TypeError):
        return None
    return judge_nftables(rules, port)


def judge_nftables(entries: Iterable[dict[str, Any]], port: int) -> tuple[bool | None, str]:
    """As `is_open`, of what ``nft --json list ruleset`` lists.

    A packet must pass every input chain, so one that may drop must have a rule that accepts the port; what leads to
    other chains is not followed.
    """
    entries = list(entries)
    chains = [one["chain"] for one in entries if one.get("chain", {}).get("hook") == "input"]
    unclear = False
    for chain in chains:
        place = (chain["family"], chain["table"], chain["name"])
        rules = [
            one["rule"]["expr"]
            for one in entries
            if "rule" in one and (one["rule"]["family"], one["rule"]["table"], one["rule"]["chain"]) == place
        ]
        may_drop = chain.get("policy") == "drop" or any(_does(rule, "drop", "reject", "jump", "goto") for rule in rules)
        if may_drop and not any(_does(rule, "accept") and _names(rule, port) for rule in rules):
            if chain.get("policy") == "drop" and not any(_does(rule, "jump", "goto") for rule in rules):
                return False, f"nftables: {chain['table']} {chain['name']} drops what no rule lets in"
            unclear = True
    if unclear:
        return None, "nftables has rules, none of which names the port"
    return True, "nftables" if chains else "no firewall is active"


def _does(rule: list[dict[str, Any]], *verdicts: str) -> bool:
    return any(verdict in statement for statement in rule for verdict in verdicts)


def _names(rule: list[dict[str, Any]], port: int) -> bool:
    """Whether a rule is for TCP `port`, alone, in a set or in a range."""
    for statement in rule:
        match = statement.get("match", {})
        payload = match.get("left", {}).get("payload", {}) if isinstance(match.get("left"), dict) else {}
        if payload.get("field") == "dport" and match.get("op") in ("==", "in") and _holds(match.get("right"), port):
            return True
    return False


def _holds(right: Any, port: int) -> bool:
    if isinstance(right, dict) and "set" in right:
        return any(_holds(one, port) for one in right["set"])
    if isinstance(right, dict) and "range" in right:
        low, high = right["range"]
        return bool(low <= port <= high)
    return bool(right == port)
