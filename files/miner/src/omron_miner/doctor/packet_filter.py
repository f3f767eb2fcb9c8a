"""What the rules of nftables and iptables do with a validator's connection: accept, drop, or unknown.

The packet is the first of a new TCP connection, or a UDP packet, over IPv4, from some public address, to one port of
this host. Each condition of a rule is true, false or unknown (None) for it, and every path that remains possible is
followed. There is a verdict only when all paths lead to the same result: a wrong "open" costs an operator all
income, a wrong "closed" an unnecessary change, and "test it from outside" a minute.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Iterable, Mapping
from itertools import chain as joined
from typing import Any, NamedTuple

ACCEPT, DROP = "accept", "drop"
_NEXT = "next"
"""Result of a chain that leaves the packet to the rules after it."""
_ANY = frozenset({ACCEPT, DROP, _NEXT})
_DEEPEST = 16
_SMALL = 2**24
"""Rules for less than 1/256 of all addresses are exceptions."""
_NUMBERS = {"tcp": 6, "udp": 17}
"""Protocols of a validator's packet (IANA)."""
_HOOKS = ("ingress", "prerouting", "input")
"""Hooks that a packet to this host passes (nft(8))."""


class _Step(NamedTuple):
    """One condition and its verdict: accept, drop, return, unknown, ``jump NAME`` or ``goto NAME``."""

    holds: bool | None
    verdict: str


_Chains = Mapping[str, list[_Step]]


def _ends(name: str, chains: _Chains, depth: int = 0) -> frozenset[str]:
    """The possible results for the packet in the chain `name`: ACCEPT, DROP and _NEXT."""
    if name not in chains or depth > _DEEPEST:
        return _ANY
    possible: set[str] = set()
    for holds, verdict in chains[name]:
        if holds is False:
            continue
        word, _, target = verdict.partition(" ")
        if word in (ACCEPT, DROP):
            ends = frozenset({word})
        elif word == "return":
            ends = frozenset({_NEXT})
        else:
            ends = _ends(target, chains, depth + 1) if word in ("jump", "goto") else _ANY
        if word in ("return", "goto"):  # after a goto the rest of this chain is not evaluated
            possible |= ends
            if holds:
                return frozenset(possible)
            continue
        possible |= ends - {_NEXT}
        if holds and _NEXT not in ends:
            return frozenset(possible)
    return frozenset(possible | {_NEXT})


def _outcome(ends: Iterable[frozenset[str]]) -> bool | None:
    """Whether a packet passes all chains with these results; None when that is not known."""
    ends = list(ends)
    if any(one == {DROP} for one in ends):
        return False
    return True if all(one == {ACCEPT} for one in ends) else None


def _with_policy(ends: frozenset[str], policy: str) -> frozenset[str]:
    return frozenset(policy if one == _NEXT else one for one in ends)


def _all(conditions: Iterable[bool | None]) -> bool | None:
    found = list(conditions)
    return False if False in found else None if None in found else True


def _not(condition: bool | None, negated: bool) -> bool | None:
    return condition if condition is None or not negated else not condition


def comes_from(networks: Iterable[ipaddress.IPv4Network] | None, negated: bool, verdict: str) -> bool | None:
    """Whether the rule for callers from `networks` (`negated`: from all others) is one for validators.

    None for networks: not known. No validator has an address that is not public. A few refused public addresses are an
    exception; a few accepted ones may well be the validators.
    """
    if networks is None:
        return None
    found = list(networks)
    if any(one.prefixlen == 0 for one in found):
        return not negated
    if not any(one.is_global for one in found) and all(one.prefixlen >= 8 for one in found):
        return negated
    is_small = sum(one.num_addresses for one in found) < _SMALL
    if is_small and (verdict == DROP) != negated:
        return negated
    return None


def comes_in_by(interface: str, outside: frozenset[str]) -> bool | None:
    """Whether validators connect through `interface`; `untrusted`: the interfaces of default routes."""
    if interface in outside:
        return True
    return False if interface in ("lo", "lo+") else None


# --- nftables: what ``nft --json list ruleset`` lists (libnftables-json(5)) ----------------------------------------


def evaluate_nftables(
    entries: Iterable[dict[str, Any]], port: int, outside: frozenset[str] = frozenset(), protocol: str = "tcp"
) -> tuple[bool | None, str]:
    """Whether `port` of `protocol` (tcp, udp) is accepted (None: not known), and a text saying by which rules.

    Raises for input that does not have nft's format.
    """
    entries = list(entries)
    reader = _Nftables(entries, port, outside, protocol)
    chains: dict[str, list[_Step]] = {}
    bases: list[tuple[str, str, bool]] = []
    for one in (entry["chain"] for entry in entries if "chain" in entry):
        name = _place(one, one["name"])
        chains[name] = []
        if one["family"] in ("ip", "inet", "netdev") and one.get("hook") in _HOOKS:
            bases.append((name, one.get("policy", ACCEPT), one.get("hook") == "input"))
    for rule in (entry["rule"] for entry in entries if "rule" in entry):
        name = _place(rule, rule["chain"])
        chains.setdefault(name, []).extend(reader.steps(rule))
    outcome = _outcome(_with_policy(_ends(name, chains), policy) for name, policy, _ in bases)
    if outcome is None:
        return None, "nftables has rules that this check cannot follow"
    if not outcome:
        return False, "nftables refuses it"
    return True, "nftables lets it in" if any(is_input for _, _, is_input in bases) else "no firewall is active"


def _place(of: Mapping[str, Any], name: str) -> str:
    return f"{of['family']}/{of['table']}/{name}"


class _Nftables:
    def __init__(self, entries: list[dict[str, Any]], port: int, outside: frozenset[str], protocol: str) -> None:
        self._port, self._outside, self._protocol = port, outside, protocol
        self._names = (protocol, _NUMBERS[protocol])
        self._sets = {
            _place(one, f"@{one['name']}"): one.get("elem", [])
            for entry in entries
            for kind, one in entry.items()
            if kind in ("set", "map")
        }

    def steps(self, rule: Mapping[str, Any]) -> list[_Step]:
        """The rule as one step, or one per element of a verdict map."""
        conditions: list[Any] = []
        steps = []
        for statement in rule["expr"]:
            word, body = _only(statement)
            verdict = ""
            if word in (ACCEPT, DROP, "return"):
                verdict = word
            elif word == "reject":
                verdict = DROP
            elif word in ("jump", "goto"):
                verdict = f"{word} {_place(rule, body['target'])}"
            elif word in ("queue", "dnat", "redirect", "tproxy", "synproxy"):
                verdict = "unknown"
            elif word == "vmap":
                steps += self._verdict_map(body, conditions, rule)
                continue
            else:
                conditions.append(statement)
                continue
            steps.append(_Step(self._hold(conditions, rule, verdict), verdict))
        if not steps and any("xt" in one for one in conditions if one):  # a target of iptables that nft cannot show
            steps.append(_Step(self._hold([one for one in conditions if "xt" not in one], rule, ""), "unknown"))
        return steps

    def _hold(self, conditions: list[Any], rule: Mapping[str, Any], verdict: str) -> bool | None:
        return _all(self._holds(one, rule, verdict) for one in conditions)

    def _verdict_map(self, body: Any, conditions: list[Any], rule: Mapping[str, Any]) -> list[_Step]:
        before = self._hold(conditions, rule, "unknown")
        elements = self._elements(body.get("data"), rule)
        if elements is None:
            return [_Step(_all([before, None]), "unknown")]
        steps = []
        for element in elements:
            if not isinstance(element, list) or len(element) != 2 or not isinstance(element[1], dict):
                steps.append(_Step(_all([before, None]), "unknown"))
                continue
            for step in self.steps({**rule, "expr": [element[1]]}):
                match = {"op": "==", "left": body.get("key"), "right": element[0]}
                holds = self._holds({"match": match}, rule, step.verdict)
                steps.append(_Step(_all([before, holds]), step.verdict))
        return steps

    def _holds(self, statement: Any, rule: Mapping[str, Any], verdict: str) -> bool | None:
        """Whether the packet matches one statement of a rule."""
        word, body = _only(statement)
        if word in ("counter", "log", "comment", "mangle", "notrack", "flow", "ct helper"):
            return True
        if word == "limit":  # validators do not connect that often
            return not body.get("inv", False) if isinstance(body, dict) else None
        if word == "ct count":
            return not body.get("inv", False)
        if word != "match":
            return None
        op, left, right = body.get("op", "=="), body.get("left"), body.get("right")
        if op not in ("==", "!=", "in") or not isinstance(left, dict):
            return None
        return self._matches(left, right, op == "!=", rule, verdict)

    def _matches(
        self, left: dict[str, Any], right: Any, negated: bool, rule: Mapping[str, Any], verdict: str
    ) -> bool | None:
        word, body = _only(left)
        if word == "&":
            if self._protocol != "tcp" and _is_tcp(body):
                return False
            return _not(_syn_has(body, right), negated)
        values = self._elements(right, rule)
        key = body.get("key") if isinstance(body, dict) else None
        if word == "payload":
            return self._payload(body, values, negated, verdict)
        if word == "meta" and key in ("iif", "iifname") and values is not None:
            return _not(_any(comes_in_by(str(one), self._outside) for one in values), negated)
        known = {
            ("meta", "l4proto"): self._names,
            ("meta", "nfproto"): ("ipv4", 2),
            ("meta", "protocol"): ("ip", 8, 2048),
            ("meta", "pkttype"): ("host", "unicast"),
            ("ct", "state"): ("new",),
        }.get((word, key or ""))
        if word == "fib":
            flags = [body.get("flags")] if isinstance(body.get("flags"), str) else body.get("flags", [])
            if body.get("result") == "type" and flags == ["daddr"]:
                known = ("local",)
            elif "saddr" in flags and values in ([0], [False], ["missing"]):
                return negated  # a route back to the caller exists
        if known is None or values is None:
            return None
        words = joined.from_iterable(str(one).split(",") if isinstance(one, str) else [one] for one in values)
        return _not(any(one in known for one in words), negated)

    def _payload(self, body: Any, values: list[Any] | None, negated: bool, verdict: str) -> bool | None:
        protocol, field = body.get("protocol"), body.get("field")
        others = ("tcp", "udp", "udplite", "sctp", "dccp", "icmp", "icmpv6", "ip6", "igmp", "esp", "ah", "arp")
        if protocol != self._protocol and protocol in others:
            return False  # another kind of packet
        if values is None:
            return None
        if protocol in (self._protocol, "th") and field == "dport":
            return _not(_any(_is_port(one, self._port) for one in values), negated)
        if protocol == "tcp" and field == "flags":
            return _not("syn" in values, negated) if all(isinstance(one, str) for one in values) else None
        if protocol == "ip" and field == "protocol":
            return _not(any(one in self._names for one in values), negated)
        if protocol == "ip" and field == "saddr":
            return comes_from(_networks(values), negated, verdict)
        if protocol == "ip" and field == "daddr":
            return _not(_is_ours(_networks(values)), negated)
        return None

    def _elements(self, right: Any, rule: Mapping[str, Any]) -> list[Any] | None:
        """The values of the comparison, those of a set individually; None when they are not known."""
        if isinstance(right, str) and right.startswith("@"):
            right = {"set": self._sets.get(_place(rule, right))}
        if isinstance(right, dict) and "set" in right:
            right = right["set"]
            if isinstance(right, str):
                return self._elements(right, rule)
        if right is None:
            return None
        values = right if isinstance(right, list) else [right]
        return [one["elem"].get("val") if isinstance(one, dict) and "elem" in one else one for one in values]


def _only(one: Any) -> tuple[str, Any]:
    """The only key of a statement, and its value."""
    ((word, body),) = one.items() if one else (("", None),)
    return word, body


def _any(conditions: Iterable[bool | None]) -> bool | None:
    found = list(conditions)
    return True if True in found else None if None in found else False


def _is_port(value: Any, port: int) -> bool | None:
    if isinstance(value, dict) and "range" in value:
        low, high = value["range"]
        return bool(low <= port <= high)
    return value == port if isinstance(value, int) else None


def _networks(values: list[Any]) -> list[ipaddress.IPv4Network] | None:
    """The addresses as networks; None when one of them is of another form."""
    found: list[ipaddress.IPv4Network] = []
    try:
        for value in values:
            if isinstance(value, dict) and "range" in value:
                first, last = map(ipaddress.IPv4Address, value["range"])
                found += ipaddress.summarize_address_range(first, last)
            elif isinstance(value, dict):
                found.append(ipaddress.IPv4Network((value["prefix"]["addr"], value["prefix"]["len"]), strict=False))
            else:
                found.append(ipaddress.IPv4Network(value, strict=False))
    except (ValueError, KeyError, TypeError):
        return None
    return found


def _is_ours(networks: list[ipaddress.IPv4Network] | None) -> bool | None:
    """Whether this host's address is among `networks`: it is not known, but some networks have no public addresses."""
    if networks is None:
        return None
    if any(one.prefixlen == 0 for one in networks):
        return True
    return None if any(not (one.is_multicast or one.is_loopback or one.is_link_local) for one in networks) else False


def _syn_has(operands: Any, right: Any) -> bool | None:
    """``tcp flags & mask == flags``, of a packet with SYN alone."""
    try:
        left, mask = operands
        if left != {"payload": {"protocol": "tcp", "field": "flags"}}:
            return None
        return _flags(mask) & {"syn"} == _flags(right)
    except (ValueError, TypeError):
        return None


def _is_tcp(operands: Any) -> bool:
    """Whether a field of TCP is matched."""
    return any(isinstance(one, dict) and (one.get("payload") or {}).get("protocol") == "tcp" for one in operands)


def _flags(value: Any) -> set[str]:
    if isinstance(value, dict) and len(value) == 1 and "|" in value:
        value = value["|"]
    if isinstance(value, list):
        return set().union(*map(_flags, value))
    if value in ("fin", "syn", "rst", "psh", "ack", "urg", "ecn", "cwr"):
        return {value}
    if value == 0:
        return set()
    raise ValueError(value)


# --- iptables: what ``iptables-save -t filter`` prints -------------------------------------------------------------


def evaluate_iptables(
    saved: str, port: int, outside: frozenset[str] = frozenset(), protocol: str = "tcp"
) -> bool | None:
    """As `evaluate_nftables`, for the filter table of iptables."""
    chains: dict[str, list[_Step]] = {}
    policy = ACCEPT
    for line in saved.splitlines():
        if line.startswith(":"):
            name, word = line[1:].split()[:2]
            chains.setdefault(name, [])
            if name == "INPUT":
                policy = word.lower()
        elif line.startswith("-A "):
            words = shlex.split(line)
            chains.setdefault(words[1], []).append(_iptables_step(words[2:], port, outside, protocol))
    return _outcome([_with_policy(_ends("INPUT", chains), policy)] if "INPUT" in chains else [])


def _iptables_step(words: list[str], port: int, outside: frozenset[str], protocol: str) -> _Step:
    options: list[tuple[str, str, bool]] = []
    negated = False
    for word in words:
        if word == "!":
            negated = True
        elif word.startswith("-"):
            options.append((word, "", negated))
            negated = False
        elif options:
            name, value, was = options[-1]
            options[-1] = (name, f"{value} {word}".strip(), was)
    target = next((value for name, value, _ in options if name in ("-j", "-g")), "")
    is_goto = any(name == "-g" for name, _, _ in options)
    verdict = {"ACCEPT": ACCEPT, "DROP": DROP, "REJECT": DROP, "RETURN": "return"}.get(target)
    if target in ("", "LOG", "NFLOG", "MARK", "CONNMARK", "TRACE"):
        return _Step(False, "")
    if verdict is None:
        verdict = f"{'goto' if is_goto else 'jump'} {target}"
    return _Step(_all(_iptables_holds(*one, verdict, port, outside, protocol) for one in options), verdict)


def _iptables_holds(
    name: str, value: str, negated: bool, verdict: str, port: int, outside: frozenset[str], protocol: str
) -> bool | None:
    if name in ("-j", "-g", "-m", "--comment", "--reject-with", "--limit", "--limit-burst"):
        return True  # -m names a module; its options are the conditions
    if name == "-p":
        return _not(value in (protocol, str(_NUMBERS[protocol]), "all"), negated)
    if name in ("--dport", "--dports", "--destination-ports"):
        return _not(_any(port_in(one, port) for one in value.split(",")), negated)
    if name in ("--state", "--ctstate"):
        return _not("NEW" in value.split(","), negated)
    if name == "-i":
        return _not(comes_in_by(value, outside), negated)
    if name in ("-s", "-d"):
        networks = _networks(value.split(","))
        return comes_from(networks, negated, verdict) if name == "-s" else _not(_is_ours(networks), negated)
    if name == "--syn":
        return not negated
    return None


def port_in(text: str, port: int) -> bool | None:
    """Whether `port` is ``8091`` or in ``8000:9000`` or ``8000-9000``; None for anything else."""
    low, _, high = text.replace("-", ":").partition(":")
    if not low.isascii() or not low.isdigit() or (high and not (high.isascii() and high.isdigit())):
        return None
    return int(low) <= port <= int(high or low)
