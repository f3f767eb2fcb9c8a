#!/usr/bin/python
"""Reads the ports of the releases kept on a host. Runs with the host's own Python, 3.10 or newer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DOCUMENTATION = r"""
module: omron_release_ports
short_description: Reads which ports the releases use that a host keeps
description:
  - Until its rollout a host runs a release that may use another port than the inventory asks for, and it can go back to
    each release that it keeps. So the ports of all of them stay open.
  - Ports that are bound to loopback, and releases that cannot be read, are left out. Changes nothing.
options:
  opt: {type: path, required: true, description: The folder of releases}
author: omron-miner
"""

EXAMPLES = r"""
- name: Read the ports
  omron_release_ports:
    opt: /opt/omron-miner
"""

RETURN = r"""
tcp:
  description: TCP ports, those between a miner and its prover hosts included.
  type: list
  returned: always
udp:
  description: UDP ports.
  type: list
  returned: always
fleet:
  description: TCP ports between a miner and its prover hosts.
  type: list
  returned: always
"""

LOOPBACK = re.compile(r"127[.]|::1$|localhost$")


def constants_of(text: str) -> dict[str, dict[str, Any]]:
    """The tables of a constants.toml that the play rendered, where each value is one line of JSON."""
    tables: dict[str, dict[str, Any]] = {}
    table: dict[str, Any] = {}
    for line in text.splitlines():
        if found := re.fullmatch(r"\[(\w+)\]", line.strip()):
            table = tables.setdefault(found[1], {})
        elif found := re.fullmatch(r"(\w+) = (.*)", line):
            try:
                table[found[1]] = json.loads(found[2])
            except ValueError:
                continue
    return tables


def ports_of(etc: Path) -> dict[str, set[int]]:
    """The ports of the release whose configuration is in `etc`, by kind."""
    tables = constants_of((etc / "constants.toml").read_text(encoding="utf-8"))
    axon, provers = tables.get("axon", {}), tables.get("provers", {})
    found: dict[str, set[Any]] = {"tcp": set(), "udp": set(), "fleet": set()}
    if provers.get("miner"):
        found["fleet"].add(provers.get("port"))
    elif (etc / "sn2.json").exists():
        is_loopback = tables.get("network", {}).get("name") == "local"
        found["udp"] |= set() if is_loopback else {json.loads((etc / "sn2.json").read_text()).get("port")}
    else:
        found["tcp"] |= set() if LOOPBACK.match(str(axon.get("bind_ip", ""))) else {axon.get("port")}
        found["fleet"] |= {provers.get("scheduler_port")} if tables.get("prover", {}).get("engine") == "dask" else set()
    if LOOPBACK.match(str(provers.get("bind_ip", ""))):
        found["fleet"].clear()
    found["tcp"] |= found["fleet"]
    return {kind: {port for port in ports if type(port) is int} for kind, ports in found.items()}


def kept_ports(opt: Path) -> dict[str, list[int]]:
    """The ports of all releases, by kind."""
    kept: dict[str, set[int]] = {"tcp": set(), "udp": set(), "fleet": set()}
    for etc in opt.glob("releases/*/etc"):
        try:
            found = ports_of(etc)
        except (OSError, ValueError, AttributeError):
            continue
        for kind, ports in found.items():
            kept[kind] |= ports
    return {kind: sorted(ports) for kind, ports in kept.items()}


def main() -> None:
    """Module entry point."""
    from ansible.module_utils.basic import AnsibleModule

    module = AnsibleModule(argument_spec={"opt": {"type": "path", "required": True}}, supports_check_mode=True)
    module.exit_json(changed=False, **kept_ports(Path(module.params["opt"])))


if __name__ == "__main__":
    main()
