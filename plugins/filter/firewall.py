"""Ports that the operator's own rules in ufw or firewalld open to some callers only, or to none.

A port is written with its protocol, ``8091/tcp`` or ``8091/udp``. Pure functions of what ``ufw show added`` and
``firewall-cmd --list-all-zones`` print. What is not understood is taken as a rule about another port.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

_OURS = "omron-miner"
"""The comment of the rules that the role firewall adds."""
_WIDEST_RANGE = 100
"""Ports; a rule for more is not about one of them."""
_UFW_OPEN = re.compile(r"ufw (?:allow|limit) ([0-9]+)(?:/(tcp|udp))?(?: comment .*)?")
_RICH_PORT = re.compile(r'\bport port="([0-9-]+)" protocol="(tcp|udp)"')


def ufw_open(lines: list[str]) -> list[str]:
    """The ports that rules in `lines` open to everybody; a rule without a protocol opens both."""
    found = [match for line in lines if (match := _UFW_OPEN.fullmatch(line))]
    return [f"{match[1]}/{protocol}" for match in found for protocol in ([match[2]] if match[2] else ["tcp", "udp"])]


def ufw_limited(lines: list[str], ports: list[str]) -> list[str]:
    """Those of `ports` that rules in `lines` are about, and that no rule but ours opens to everybody."""
    limited, opened = set(), set()
    for line in lines:
        try:
            words = shlex.split(line)
        except ValueError:
            continue
        if len(words) < 3 or words[0] != "ufw" or words[1] not in ("allow", "limit", "deny", "reject"):
            continue
        words, comment = _without_comment(words)
        found = {port for port in ports if _covers(_ufw_ports(words), port)}
        conditional = any(_value(words, word, "any") != "any" for word in ("from", "on"))
        if words[1] in ("allow", "limit") and not conditional:
            opened |= found if comment != _OURS else set()
        elif words[1] in ("allow", "limit") or not conditional:  # to refuse some leaves all others
            limited |= found
    return sorted(limited - opened)


def firewalld_limited(listed: str, zone: str, ports: list[str]) -> list[str]:
    """Those of `ports` that rich rules are about, or that another zone than `zone` opens to its sources."""
    limited = set()
    for block in re.split(r"\n(?=\S)", listed):
        name, _, body = block.partition("\n")
        told = ["/".join(one) for one in _RICH_PORT.findall(body)]
        values = dict(re.findall(r"^  ([a-z-]+): ?(.*)$", body, re.MULTILINE))
        if name.split()[:1] != [zone] and values.get("sources", "").strip():
            told += values.get("ports", "").split()
        limited |= {port for port in ports for one in told if _covers(one, port)}
    return sorted(limited)


def _without_comment(words: list[str]) -> tuple[list[str], str]:
    if "comment" not in words:
        return words, ""
    at = words.index("comment")
    return words[:at], " ".join(words[at + 1 :])


def _value(words: list[str], before: str, default: str) -> str:
    """The word after `before`."""
    return words[words.index(before) + 1] if before in words[:-1] else default


def _ufw_ports(words: list[str]) -> str:
    """The ports of the destination: of ``allow 8091/tcp``, or behind ``to ADDRESS port``."""
    if "to" in words:
        rest = words[words.index("to") :]
        rest = rest[: rest.index("from")] if "from" in rest else rest
        protocol = _value(words, "proto", "")
        return "/".join(filter(None, (_value(rest, "port", ""), protocol)))
    rest = [word for word in words[2:] if word != "in"]
    return rest[0] if rest and "out" not in rest else ""


def _covers(text: str, port: str) -> bool:
    """Whether `port` is in ``8091``, ``80,8091/tcp``, ``8000:8100`` or ``8000-8100``."""
    numbers, _, protocol = text.partition("/")
    number, wanted = int(port.partition("/")[0]), port.partition("/")[2]
    if protocol not in ("", wanted):
        return False
    for one in numbers.replace("-", ":").split(","):
        low, _, high = one.partition(":")
        if low.isdigit() and (not high or high.isdigit()):
            last = int(high or low)
            if int(low) <= number <= last and last - int(low) < _WIDEST_RANGE:
                return True
    return False


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """The filters by name."""
        return {"ufw_open": ufw_open, "ufw_limited": ufw_limited, "firewalld_limited": firewalld_limited}
