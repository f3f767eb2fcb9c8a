"""Ports that the operator's own ufw or firewalld rules restrict to some callers, or close.

A port is written with its protocol, ``8091/tcp`` or ``8091/udp``. Pure functions of the output of
``ufw show added``, ``ufw app info all`` and ``firewall-cmd --list-all-zones``. A rule that is not understood counts as
one for another port.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

_OURS = "omron-miner"
"""The comment of the rules that the role firewall adds."""
_WIDEST_RANGE = 1000
"""A rule for this many ports allows a network to use any service; it does not restrict a single port."""
_UFW_OPEN = re.compile(r"ufw (?:allow|limit) ([0-9]+)(?:/(tcp|udp))?(?: comment .*)?")
_RICH_PORT = re.compile(r'\bport port="([0-9-]+)" protocol="(tcp|udp)"')
_RICH_SERVICE = re.compile(r'\bservice name="([^"]+)"')
_RICH_REFUSES_SOME = re.compile(r"\brule\b.*\bsource (?!NOT\b).*\b(drop|reject)\b")


def ufw_open(lines: list[str]) -> list[str]:
    """The ports that rules in `lines` open to everybody; a rule without a protocol opens both."""
    found = [match for line in lines if (match := _UFW_OPEN.fullmatch(line))]
    return [f"{match[1]}/{protocol}" for match in found for protocol in ([match[2]] if match[2] else ["tcp", "udp"])]


def ufw_needs_profiles(lines: list[str]) -> bool:
    """Whether a rule in `lines` uses an application profile for anything but opening it to everybody."""
    return any(
        re.search(r" app |^ufw (deny|reject) (?!in |out |from |to |proto |on )['A-Za-z]", line) for line in lines
    )


def ufw_profiles(text: str) -> dict[str, list[str]]:
    """The ports of each application profile, as in rules."""
    found = {}
    for block in re.split(r"^--$", text, flags=re.MULTILINE):
        name = re.search(r"^Profile: (.*)$", block, re.MULTILINE)
        if name:
            found[name[1]] = re.findall(r"^  (\S+)$", block.partition("\nPort")[2], re.MULTILINE)
    return found


def ufw_limited(lines: list[str], ports: list[str], profiles: dict[str, list[str]] | None = None) -> list[str]:
    """The `ports` that rules in `lines` mention, and that no rule except ours opens to everybody."""
    limited, opened = set(), set()
    for line in lines:
        try:
            words = shlex.split(line)
        except ValueError:
            continue
        if len(words) < 3 or words[0] != "ufw" or words[1] not in ("allow", "limit", "deny", "reject"):
            continue
        words, comment = _without_comment(words)
        allowed = _ufw_ports(words, profiles or {})
        found = {port for port in ports for one in allowed if _covers(one, port)}
        conditional = any(_value(words, word, "any") != "any" for word in ("from", "on"))
        if words[1] in ("allow", "limit") and not conditional:
            opened |= found if comment != _OURS else set()
        elif words[1] in ("allow", "limit") or not conditional:  # refusing some callers still admits all others
            limited |= found
    return sorted(limited - opened)


def firewalld_services(listed: str, zone: str) -> list[str]:
    """The services with which rich rules, or zones other than `zone`, may open a port to some callers."""
    return sorted({name for _, services in _firewalld_rules(listed, zone) for name in services})


def firewalld_limited(listed: str, zone: str, ports: list[str], services: dict[str, str] | None = None) -> list[str]:
    """The `ports` that rich rules mention, or that a zone other than `zone` opens to its sources.

    `services`: the ports of those that `firewalld_services` names.
    """
    allowed = []
    for own, names in _firewalld_rules(listed, zone):
        allowed += own + [one for name in names for one in (services or {}).get(name, "").split()]
    return sorted({port for port in ports for one in allowed if _covers(one, port)})


def _firewalld_rules(listed: str, zone: str) -> list[tuple[list[str], list[str]]]:
    """For each zone the ports and services that are open to some callers."""
    found = []
    for block in re.split(r"\n(?=\S)", listed):
        name, _, body = block.partition("\n")
        rich = "\n".join(line for line in body.splitlines() if not _RICH_REFUSES_SOME.search(line))
        ports = ["/".join(one) for one in _RICH_PORT.findall(rich)]
        services = _RICH_SERVICE.findall(rich)
        values = dict(re.findall(r"^  ([a-z-]+): ?(.*)$", body, re.MULTILINE))
        if name.split()[:1] != [zone] and values.get("sources", "").strip():
            ports += values.get("ports", "").split()
            services += values.get("services", "").split()
        found.append((ports, services))
    return found


def _without_comment(words: list[str]) -> tuple[list[str], str]:
    if "comment" not in words:
        return words, ""
    at = words.index("comment")
    return words[:at], " ".join(words[at + 1 :])


def _value(words: list[str], before: str, default: str) -> str:
    """The word after `before`."""
    return words[words.index(before) + 1] if before in words[:-1] else default


def _ufw_ports(words: list[str], profiles: dict[str, list[str]]) -> list[str]:
    """The ports of the destination: ``allow 8091/tcp``, ``allow PROFILE``, ``to ADDRESS port``, ``to ADDRESS app``."""
    if "to" in words:
        rest = words[words.index("to") :]
        rest = rest[: rest.index("from")] if "from" in rest else rest
        if "app" in rest:
            return profiles.get(_value(rest, "app", ""), [])
        protocol = _value(words, "proto", "")
        return ["/".join(filter(None, (_value(rest, "port", ""), protocol)))]
    rest = [word for word in words[2:] if word != "in"]
    return profiles.get(rest[0], [rest[0]]) if rest and "out" not in rest else []


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
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """The filters by name."""
        return {
            "firewalld_limited": firewalld_limited,
            "firewalld_services": firewalld_services,
            "ufw_limited": ufw_limited,
            "ufw_needs_profiles": ufw_needs_profiles,
            "ufw_open": ufw_open,
            "ufw_profiles": ufw_profiles,
        }
