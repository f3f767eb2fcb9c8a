"""Whether this host's own firewall accepts the miner's port, according to its rules. Changes no rule.

Only IPv4 is checked, which validators use. Rules that are not fully understood give no verdict: then the port must be
tested from another machine.
"""

from __future__ import annotations

import ipaddress
import os
import re
from typing import TYPE_CHECKING, Any

from omron_miner.doctor.check import Check, Status, check_that, unseen
from omron_miner.doctor.packet_filter import (
    ACCEPT,
    DROP,
    comes_from,
    comes_in_by,
    evaluate_iptables,
    evaluate_nftables,
    port_in,
)
from omron_miner.host import default_interfaces, read_line
from omron_miner.untrusted import NOT_OF_ITS_FORM, parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omron_miner.host import Machine

__all__ = ["check", "evaluate_iptables", "evaluate_nftables", "is_open"]

ALLOWLIST_TABLE = "sn2_lightning"
"""nft table with which sn2-miner drops all but the validators that it knows; checked separately."""
_ADVICE = "run the play with --tags firewall, or open the port yourself; a provider's firewall is not seen from here"
_UFW_ROW = re.compile(
    r"(?P<to>\S.*?)\s+(?P<action>ALLOW|DENY|REJECT|LIMIT)(?: (?P<way>IN|OUT|FWD))?\s+(?P<origin>\S.*)"
)


def check(ports: object, machine: Machine, protocol: str = "tcp") -> Iterator[Check]:
    """One check per port in host.toml; nothing for anything else."""
    if not isinstance(ports, list):
        return
    for port in ports:
        name, wanted = "firewall", f"{protocol.upper()} {port} open"
        answer = is_open(int(port), machine, protocol)
        is_well, live = answer or (None, "none of firewalld, ufw, nft and iptables responds")
        if is_well is None:
            asks = f"nc -vz THIS_HOST {port}" if protocol == "tcp" else f"omron-miner live probe THIS_HOST:{port}"
            advice = f"from another machine: {asks}"
            if answer is None and os.geteuid():
                advice = f"run this as root; or {advice}"
            yield unseen(name, wanted, live, advice)
        else:
            yield check_that(name, is_well, wanted, live, _ADVICE, Status.FAIL)


def is_open(port: int, machine: Machine, protocol: str = "tcp") -> tuple[bool | None, str] | None:
    """Whether `port` is accepted (None: the rules do not decide it), and by which program; None without one."""
    if machine.run_for_word("firewall-cmd", "--state") == "running":
        return _firewalld(port, machine, protocol), "firewalld"
    outside = default_interfaces(machine.proc)
    status = machine.run_command("ufw", "status", "verbose") or ""
    if "Status: active" in status:
        return _ufw(status, port, outside, machine, protocol), "ufw"
    answer = machine.run_command("nft", "--json", "list", "ruleset")
    found: tuple[bool | None, str] | None
    try:
        entries = [one for one in parse_json(answer or "")["nftables"] if not _is_allowlist(one)]
        found = evaluate_nftables(entries, port, outside, protocol)
        if found[0] is None and (saved := _iptables_by_nft(machine)):
            # nft cannot show the conditions of iptables' extensions; iptables can.
            others = (one for one in entries if not any(_is_iptables(body) for body in one.values()))
            found = _both(
                evaluate_nftables(others, port, outside, protocol), evaluate_iptables(saved, port, outside, protocol)
            )
    except NOT_OF_ITS_FORM:
        saved = _iptables_by_nft(machine)
        found = _both((True, ""), evaluate_iptables(saved, port, outside, protocol)) if saved else None
    # The older iptables has separate tables, which nft does not list. Listing them needlessly would create one.
    if "filter" in (read_line(machine.proc / "net/ip_tables_names") or "").split():
        saved = (
            machine.run_command("iptables-legacy-save", "-t", "filter")
            or machine.run_command("iptables-save", "-t", "filter")
            or ""
        )
        found = _both(found or (True, ""), evaluate_iptables(saved, port, outside, protocol) if saved else None)
    return found


def _iptables_by_nft(machine: Machine) -> str | None:
    """The filter table of an iptables that writes nftables' rules; None where there is no such iptables."""
    if "nf_tables" not in (machine.run_command("iptables", "-V") or ""):
        return None
    return machine.run_command("iptables-save", "-t", "filter")


def has_allowlist(machine: Machine) -> bool | None:
    """Whether sn2-miner's own allowlist is in force; None when nft does not answer."""
    try:
        entries = parse_json(machine.run_command("nft", "--json", "list", "ruleset") or "")["nftables"]
        return any(_is_allowlist(one) for one in entries)
    except (*NOT_OF_ITS_FORM, AttributeError):
        return None


def _is_allowlist(entry: dict[str, Any]) -> bool:
    return isinstance(entry, dict) and any(
        ALLOWLIST_TABLE in (body.get("table"), body.get("name") if kind == "table" else None)
        for kind, body in entry.items()
        if isinstance(body, dict)
    )


def _is_iptables(body: dict[str, Any]) -> bool:
    return body.get("family") == "ip" and "filter" in (body.get("table"), body.get("name"))


def _both(found: tuple[bool | None, str], by_iptables: bool | None) -> tuple[bool | None, str]:
    """The outcome for a packet that must pass both."""
    if found[0] is False or by_iptables:
        return found if found[1] else (True, "iptables lets it in")
    if by_iptables is None:
        return None, "iptables has rules that this check cannot follow"
    return False, "iptables refuses it"


# --- firewalld ------------------------------------------------------------------------------------------------------


def _firewalld(port: int, machine: Machine, protocol: str) -> bool | None:
    """According to every active zone: the zone of a validator's packets is not always known."""
    if machine.run_command("firewall-cmd", "--direct", "--get-all-rules") or "HOST" in (
        machine.run_command("firewall-cmd", "--get-active-policies") or ""
    ):
        return None
    active = machine.run_command("firewall-cmd", "--get-active-zones") or ""
    zones = [line.split()[0] for line in active.splitlines() if line and not line[0].isspace()]
    options: list[tuple[str, ...]] = [(f"--zone={zone}",) for zone in zones] or [()]
    listed = [machine.run_command("firewall-cmd", *one, "--list-all") or "" for one in options]
    answers = {_zone(one, port, machine, protocol) for one in listed}
    return answers.pop() if len(answers) == 1 else None


def _zone(listed: str, port: int, machine: Machine, protocol: str) -> bool | None:
    values = dict(re.findall(r"^  ([a-z-]+): ?(.*)$", listed, re.MULTILINE))
    if "ports" not in values:
        return None
    rich = listed.partition("rich rules:")[2].strip()
    if rich or values.get("forward-ports", "").strip() or "forward-ports: \n\t" in listed:
        return None
    if values.get("target") == "ACCEPT" or _names(values["ports"], port, protocol):
        return True
    for service in values.get("services", "").split():
        info = machine.run_command("firewall-cmd", f"--info-service={service}")
        ports = re.search(r"^  ports: ?(.*)$", info or "", re.MULTILINE)
        if not ports:
            return None
        if _names(ports[1], port, protocol):
            return True
    return False


def _names(ports: str, port: int, protocol: str) -> bool:
    """Whether `port` of `protocol` is among ``8091/tcp 9000-9100/udp``."""
    cells = (one.partition("/") for one in ports.split())
    return any(of == protocol and port_in(number, port) for number, _, of in cells)


# --- ufw ------------------------------------------------------------------------------------------------------------


def _ufw(status: str, port: int, outside: frozenset[str], machine: Machine, protocol: str) -> bool | None:
    """According to the rows of ``ufw status verbose``, of which the first match decides (ufw(8))."""
    default = re.search(r"^Default: (\w+) \(incoming\)", status, re.MULTILINE)
    possible: set[bool] = set()
    for line in status.splitlines():
        row = _UFW_ROW.fullmatch(line.partition("#")[0].strip())
        if not row or row["way"] in ("OUT", "FWD") or "(v6)" in line:
            continue
        is_allowed = row["action"] in ("ALLOW", "LIMIT")
        verdict = ACCEPT if is_allowed else DROP
        fits = _ufw_fits(row["to"], row["origin"], verdict, port, outside, machine, protocol)
        if fits is not False:
            possible.add(is_allowed)
        if fits:
            break
    else:
        possible.add(default is not None and default[1] == "allow")
    return possible.pop() if len(possible) == 1 else None


def _ufw_fits(
    to: str, origin: str, verdict: str, port: int, outside: frozenset[str], machine: Machine, protocol: str
) -> bool | None:
    to, _, interface = to.partition(" on ")
    by_interface = comes_in_by(interface.strip(), outside) if interface else True
    by_origin = _ufw_origin(re.sub(r"\(log[a-z-]*\)", "", origin).strip(), verdict)
    found = (_ufw_to(to.strip(), port, machine, protocol), by_interface, by_origin)
    return False if False in found else None if None in found else True


def _ufw_to(to: str, port: int, machine: Machine, protocol: str) -> bool | None:
    """``8091``, ``8000:9000/tcp``, ``80,443/tcp``, ``Anywhere``, an address with or without them, an application."""
    words = to.split()
    if words and _is_address(words[0]):
        rest = _ufw_to(" ".join(words[1:]), port, machine, protocol) if words[1:] else None
        return False if rest is False else None  # it is not known whether validators connect to this address
    numbers, _, of = to.partition("/")
    if of not in ("", protocol):
        return False
    if numbers == "Anywhere":
        return True
    found = [port_in(one, port) for one in numbers.split(",")]
    if None not in found:
        return True in found
    listed = re.search(r"^Ports?:\n((?:\s+\S+\n?)+)", machine.run_command("ufw", "app", "info", to) or "", re.MULTILINE)
    if not listed:
        return None
    ports = [one for one in listed[1].split() if re.fullmatch(r"[\d:,]+(/\w+)?", one)]
    return any(_ufw_to(one, port, machine, protocol) for one in ports) if ports else None


def _ufw_origin(origin: str, verdict: str) -> bool | None:
    words = origin.split()
    if words == ["Anywhere"]:
        return True
    if len(words) == 1 and (words[0].count("/") <= 1) and _is_address(words[0]):
        return comes_from([ipaddress.IPv4Network(words[0], strict=False)], False, verdict)
    return None


def _is_address(text: str) -> bool:
    try:
        ipaddress.IPv4Network(text, strict=False)
    except ValueError:
        return False
    return not text.isdigit()
