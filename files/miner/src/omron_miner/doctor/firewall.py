"""Whether the axon's port gets through this host's own firewall, by the firewall's own word. Changes no rule."""

from __future__ import annotations

import json
import os
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
            advice = "run this as root" if os.geteuid() else ""
            yield unseen(name, wanted, "neither firewalld, ufw nor nft tells", advice)
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

    A packet must pass every input chain, so one that may drop must have a rule that accepts the port. What leads to
    other chains, and rules for certain callers only, are not followed: then it stays open whether the port is.
    """
    entries = list(entries)
    sets = {
        (one["set"]["table"], f"@{one['set']['name']}"): one["set"].get("elem", []) for one in entries if "set" in one
    }
    verdicts = []
    for chain in (one["chain"] for one in entries if one.get("chain", {}).get("hook") == "input"):
        place = (chain["family"], chain["table"], chain["name"])
        rules = [
            one["rule"]["expr"]
            for one in entries
            if "rule" in one and (one["rule"]["family"], one["rule"]["table"], one["rule"]["chain"]) == place
        ]
        named = {name: elements for (table, name), elements in sets.items() if table == chain["table"]}
        verdicts.append(_passes(chain.get("policy") == "drop", rules, port, named))
    if False in verdicts:
        return False, "nftables drops what no rule lets in"
    if None in verdicts:
        return None, "nftables has rules, none of which names the port"
    return True, "nftables" if verdicts else "no firewall is active"


def _passes(drops: bool, rules: list[list[dict[str, Any]]], port: int, named: dict[str, Any]) -> bool | None:
    """Whether one chain lets new connections to `port` in; None when its rules do not tell."""
    accepted = [_accepts(rule, port, named) for rule in rules]
    if True in accepted:
        return True
    if not drops and not any(_does(rule, "drop", "reject", "jump", "goto", "vmap") for rule in rules):
        return True
    return False if drops and None not in accepted else None


def _accepts(rule: list[dict[str, Any]], port: int, named: dict[str, Any]) -> bool | None:
    """Whether a rule lets TCP `port` in; None when it may."""
    if _does(rule, "jump", "goto", "vmap"):
        return None
    if not _does(rule, "accept"):
        return False
    found: bool | None = None
    for match in (statement["match"] for statement in rule if "match" in statement):
        left = match.get("left")
        left = left if isinstance(left, dict) else {}
        payload = left.get("payload", {})
        is_old = "ct" in left and "new" not in str(match.get("right"))
        if is_old or left.get("meta", {}).get("key") in ("iif", "iifname") or "icmp" in str(payload):
            return False  # connections that are there already, one interface, pings
        if payload.get("field") == "dport":
            if payload.get("protocol") not in ("tcp", "th") or match.get("op") not in ("==", "in"):
                return False
            found = _holds(match.get("right"), port, named)
    return found


def _does(rule: list[dict[str, Any]], *verdicts: str) -> bool:
    return any(verdict in statement for statement in rule for verdict in verdicts)


def _holds(right: Any, port: int, named: dict[str, Any]) -> bool:
    """Whether `port` is the number, in the range, or in the set with or without a name."""
    if isinstance(right, str) and right in named:
        right = {"set": named[right]}
    if isinstance(right, dict) and "set" in right:
        return any(_holds(one, port, named) for one in right["set"])
    if isinstance(right, dict) and "range" in right:
        low, high = right["range"]
        return bool(low <= port <= high)
    return bool(right == port)
