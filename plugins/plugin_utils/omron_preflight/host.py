"""The machine: system, memory, governor, the axon's port, the service user."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from omron_preflight.values import whole_number

if TYPE_CHECKING:
    from collections.abc import Mapping

_LISTENS = {"tcp": "0A", "udp": "07"}
"""States in /proc/net: TCP_LISTEN, and TCP_CLOSE, which UDP has without a peer."""
_USER_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_OUR_COMMENT = "Omron miner"
"""Comment of the user that the role pm2 creates, also in releases that kept no record of it."""


def usable_memory_mb(facts: Mapping[str, Any], limits: str) -> int:
    """MiB of RAM that the miner may use: the host's, or what a control group leaves it, whichever is less.

    `limits` has a line for each control group's memory limit, with the file's name and a colon before it; ``max`` is
    none.
    """
    bytes_allowed = [int(limit) for line in limits.split() if (limit := line.rpartition(":")[2]).isdigit()]
    return min([int(facts.get("memtotal_mb", 0)), *(allowed // 2**20 for allowed in bytes_allowed)])


def own_memory_mb(facts: Mapping[str, Any], limits: str) -> int:
    """As `usable_memory_mb`, but of the whole container or host: without limits of units in it."""
    whole = [line for line in limits.split() if "/system.slice" not in line]
    return usable_memory_mb(facts, "\n".join(whole))


def system_problems(
    facts: Mapping[str, Any], supported: Mapping[str, list[str]], allow_untested: bool = False
) -> list[str]:
    """Operating system, init and architecture, from Ansible's `facts`; `supported` maps distribution to versions.

    With `allow_untested` any system with apt is accepted.
    """
    problems = []
    name, version = str(facts.get("distribution", "?")), str(facts.get("distribution_version", "?"))
    # Debian's version carries the point release ("12.9"), Ubuntu's does not.
    tested = any(version == wanted or version.startswith(f"{wanted}.") for wanted in supported.get(name, []))
    has_apt = facts.get("pkg_mgr", "apt") == "apt"
    if not tested and not (allow_untested and has_apt):
        wanted = ", ".join(f"{system} {' or '.join(versions)}" for system, versions in supported.items())
        instead = ", or try it with omron_allow_untested_os: true" if has_apt else ""
        problems.append(f"{name} {version} is not supported: use {wanted}{instead}")
    if facts.get("service_mgr") != "systemd":
        problems.append(
            f"PID 1 is {facts.get('service_mgr', 'unknown')}, not systemd, which runs the miner: use a machine, "
            "a VM or a container that boots systemd"
        )
    if facts.get("architecture") != "x86_64":
        problems.append(
            f"the architecture is {facts.get('architecture', 'unknown')}, EZKL and Node.js are shipped for x86_64: "
            "use an x86_64 host"
        )
    return problems


def program_problems(missing: list[str]) -> list[str]:
    """One problem for each program in `missing`, which tasks of this play need."""
    return [
        f"{program} is not installed; tasks need it to run as the service user: apt-get install {program}, or set "
        "ansible_become_method to a method that this host has"
        for program in missing
    ]


def become_problems(user_id: str, error: str) -> list[str]:
    """Tasks that do not run as root: `user_id` is whom they run as. `error` is why none can become another user."""
    problems = []
    if user_id != "0":
        problems.append(
            f"tasks run as the user with ID {user_id or 'unknown'}, not as root: remove ansible_become: false and "
            "ansible_become_user from the inventory"
        )
    if error:
        problems.append(
            f"tasks cannot become the service user (tried as nobody, which has no login shell either): {error}; allow "
            "the login user to become every user, or with ansible_become_method su set ansible_become_flags: -s /bin/sh"
        )
    return problems


def memory_problems(facts: Mapping[str, Any], limits: str, minimum_mb: int) -> list[str]:
    """Too little RAM; `facts` and `limits` are as `usable_memory_mb` takes them, `minimum_mb` is in MiB."""
    usable, total = usable_memory_mb(facts, limits), int(facts.get("memtotal_mb", 0))
    if usable >= minimum_mb:
        return []
    limited = f" (the host has {total} MiB, a control group's memory limit allows less)" if usable < total else ""
    raised = "raise the limit, use a larger host," if limited else "use a larger host,"
    return [
        f"{usable} MiB of RAM{limited}, at least {minimum_mb} MiB are needed: {raised} "
        "or lower preflight_minimum_memory_mb if your circuits need less"
    ]


def governor_problems(required: bool, policies: int, container: bool) -> list[str]:
    """A governor is `required` on a host that has none: `policies` is the number of cpufreq policies."""
    if not required or (policies and not container):
        return []
    why = "in a container the governor belongs to the host" if container else "no CPU of this host has cpufreq"
    return [f"cpu_governor_required is true, but {why}: use another host, or set cpu_governor_required to false"]


def clock(seen: Mapping[str, Any] | None) -> int:
    """The host's clock when its facts were read, seconds since 1970; 0 if not known."""
    epoch = str(((seen or {}).get("facts", {}).get("date_time") or {}).get("epoch", ""))
    return int(epoch) if epoch.isdigit() else 0


def port_problems(
    port: Any,
    listeners: str,
    users: Mapping[str, list[str]],
    own_user: str,
    protocol: str = "tcp",
    variable: str = "omron_axon_port",
) -> list[str]:
    """Whether `port`, by default the miner's, is in range and not in use by a process of another user.

    `listeners` is the text of /proc/net/tcp and tcp6, or of udp and udp6 if `protocol` is udp; `users` is getent's
    passwd database (name to the other fields, of which the second is the user id).
    """
    number = whole_number(port)
    if number is None or not 1025 <= number <= 65534:
        usual = ", 8091 is usual" if variable == "omron_axon_port" else ""
        return [f"{variable} {port!r} is not a port from 1025 to 65534: choose one{usual}"]
    names = {fields[1]: name for name, fields in users.items()}
    owners = set()
    for line in listeners.splitlines():
        fields = line.split()
        if len(fields) > 7 and fields[3] == _LISTENS[protocol] and int(fields[1].rpartition(":")[2], 16) == number:
            owners.add(names.get(fields[7], f"id {fields[7]}"))
    others = sorted(owners - {own_user})
    if not others:
        return []
    return [
        f"port {number} is taken by a process of user {' and '.join(others)}: stop it "
        f"(`ss -l{protocol[0]}np` names it), "
        f"or choose another {variable}"
    ]


def user_problems(
    values: Mapping[str, Any],
    users: Mapping[str, list[str]],
    groups: Mapping[str, list[str]],
    login_users: list[str],
    made_here: Mapping[str, list[str]],
) -> list[str]:
    """A service user or group that the play did not create.

    `users` and `groups` are getent's databases (name to the other fields), `login_users` whom Ansible logs in as,
    `made_here` the record of the ``users`` and ``groups`` that the role pm2 made on the host.
    """
    user, group = str(values["omron_user"]), str(values["omron_group"])
    wrong = [
        f"{variable} {name!r} is not a valid user name: use at most 32 lower-case letters, digits and dashes"
        for variable, name in (("omron_user", user), ("omron_group", group))
        if not _USER_NAME.fullmatch(name)
    ]
    if wrong:
        return wrong
    _, user_id, group_id, comment, home, *_ = [*users.get(user, []), *[""] * 5]
    other = "choose another omron_user; the play creates it"
    if user == "root" or user_id == "0":
        return [f"omron_user {user} is root, and the miner must not run as root: {other}"]
    if user in login_users:
        return [f"omron_user {user} is the user that Ansible logs in as, which the play would take over: {other}"]
    ours = user in made_here["users"] or (comment == _OUR_COMMENT and home == values["omron_state"])
    problems = []
    if user in users and not ours:
        problems.append(
            f"omron_user {user} already exists (id {user_id}, home {home}) and was not created by this play, "
            f"which would take it over: {other}"
        )
    _, found_id, *_ = [*groups.get(group, []), "", ""]
    if group in groups and group not in made_here["groups"] and not (ours and group_id == found_id):
        problems.append(
            f"omron_group {group} already exists (id {found_id}) and was not created by this play: "
            "choose another omron_group; the play creates it"
        )
    return problems
