"""Whether the port is let in: by what each firewall prints, and, where nft is here, by what the kernel then does."""
# ruff: noqa: E501, S104  one rule set is one line; no socket is bound

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from omron_miner.doctor import Status, firewall
from omron_miner.doctor.packet_filter import evaluate_iptables, evaluate_nftables
from omron_miner.host import Machine

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PORT, OUTSIDE = 8091, frozenset({"eth0"})
ACCEPT: dict[str, Any] = {"accept": None}
DROP: dict[str, Any] = {"drop": None}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The files of a host whose default route is eth0."""
    (tmp_path / "proc/net").mkdir(parents=True)
    head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
    rows = (
        "eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\neth1\t0000000A\t0\t1\t0\t0\t0\t000000FF\t0\t0\t0\n"
    )
    (tmp_path / "proc/net/route").write_text(head + rows)
    return tmp_path


def machine(root: Path, answers: dict[str, str]) -> Machine:
    """A host on which commands, by their whole line, print `answers`; others are not installed."""
    return Machine(root, lambda *command: answers.get(" ".join(command)))


# --- ufw


def ufw(*rows: str, default: str = "deny") -> str:
    """As ``ufw status verbose`` prints it."""
    head = f"Status: active\nLogging: on (low)\nDefault: {default} (incoming), allow (outgoing), disabled (routed)\n"
    return head + "New profiles: skip\n\nTo                         Action      From\n--                         ------      ----\n" + "\n".join(rows)  # fmt: skip


def row(to: str, action: str = "ALLOW IN", origin: str = "Anywhere") -> str:
    return f"{to:26} {action:12}{origin}"


OPEN_TO = ["8091", "8091/tcp", "8000:9000/tcp", "80,443,8091/tcp", "22,8000:9000/tcp", "Anywhere", "Anywhere/tcp",
           "8091/tcp on eth0", "omron-axon"]  # fmt: skip
CLOSED_TO = ["8092/tcp", "8091/udp", "8000:8090/tcp", "80,443/tcp", "8091/tcp on lo", "18091", "8091/tcp (v6)",
             "Nginx Full", "Anywhere/udp"]  # fmt: skip
UNKNOWN_TO = ["203.0.113.7 8091/tcp", "8091/tcp on eth1", "Unheard Of", "203.0.113.7"]


@pytest.mark.parametrize("to", [*OPEN_TO, *CLOSED_TO, *UNKNOWN_TO])
@pytest.mark.parametrize("action", ["ALLOW IN", "LIMIT IN", "DENY IN", "REJECT IN", "ALLOW OUT", "ALLOW", "DENY FWD"])
@pytest.mark.parametrize("default", ["deny", "allow"])
def test_what_ufw_lists(root: Path, to: str, action: str, default: str) -> None:
    apps = {"omron-axon": "Ports:\n  8000:8100/tcp", "Nginx Full": "Ports:\n  80,443/tcp"}
    known = {f"ufw app info {name}": f"Profile: {name}\nTitle: x\n\n{ports}\n" for name, ports in apps.items()}
    host = machine(root, {"ufw status verbose": ufw(row("22/tcp"), row(to, action), default=default), **known})
    otherwise, does = default == "allow", action.startswith(("ALLOW", "LIMIT"))
    if to in CLOSED_TO or action.endswith(("OUT", "FWD")):
        expected: bool | None = otherwise
    elif to in OPEN_TO:
        expected = does
    else:
        expected = does if does == otherwise else None
    assert firewall.is_open(PORT, host) == (expected, "ufw")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row("8091/tcp", "DENY IN"), row("8091/tcp")], False),
        ([row("8091/tcp"), row("8091/tcp", "DENY IN")], True),
        ([row("8091/tcp", origin="10.0.0.0/8")], False),
        ([row("8091/tcp", origin="8.8.8.8")], None),
        ([row("Anywhere", "DENY IN", "8.8.8.8"), row("8091/tcp")], True),
        ([row("Anywhere", "DENY IN", "0.0.0.0/1"), row("8091/tcp")], None),
        ([row("8091/tcp", origin="Anywhere on eth1")], None),
        ([row("8091/tcp", origin="Anywhere                   # (ours) ALLOW IN")], True),
        ([row("8091/tcp", "ALLOW IN (log)")], True),
        ([row("8091/tcp (v6)", origin="Anywhere (v6)")], False),
        ([], False),
    ],
)
def test_ufws_first_row_that_fits_decides(root: Path, rows: list[str], expected: bool | None) -> None:
    host = machine(root, {"ufw status verbose": ufw(*rows)})
    assert firewall.is_open(PORT, host) == (expected, "ufw")


# --- firewalld


def zone(ports: str = "", services: str = "", target: str = "default", rich: str = "") -> str:
    return (
        f"public (active)\n  target: {target}\n  interfaces: eth0\n  sources: \n  services: {services}\n"
        f"  ports: {ports}\n  protocols: \n  forward: yes\n  forward-ports: \n  source-ports: \n  rich rules: \n{rich}"
    )


@pytest.mark.parametrize(
    ("listed", "more", "expected"),
    [
        (zone("8091/tcp"), {}, True),
        (zone("22/tcp 8000-9000/tcp"), {}, True),
        (zone("8091/udp"), {}, False),
        (zone(services="ssh omron"), {}, True),
        (zone(services="ssh"), {}, False),
        (zone(services="unheard-of"), {}, None),
        (zone(target="ACCEPT"), {}, True),
        (zone("8091/tcp", rich='\trule family="ipv4" source address="1.2.3.4" drop'), {}, None),
        (zone(), {"firewall-cmd --direct --get-all-rules": "ipv4 filter INPUT 0 -j ACCEPT"}, None),
        ("", {}, None),
    ],
)
def test_what_firewalld_lists(root: Path, listed: str, more: dict[str, str], expected: bool | None) -> None:
    answers = {
        "firewall-cmd --state": "running",
        "firewall-cmd --get-active-zones": "public\n  interfaces: eth0",
        "firewall-cmd --zone=public --list-all": listed,
        "firewall-cmd --info-service=ssh": "ssh\n  ports: 22/tcp\n  protocols: ",
        "firewall-cmd --info-service=omron": "omron\n  ports: 8091/tcp\n  protocols: ",
    }
    host = machine(root, {**answers, **more})
    assert firewall.is_open(PORT, host) == (expected, "firewalld")


def test_zones_that_differ_leave_it_open_which_applies(root: Path) -> None:
    answers = {
        "firewall-cmd --state": "running",
        "firewall-cmd --get-active-zones": "public\n  interfaces: eth0\nhome\n  interfaces: eth1",
        "firewall-cmd --zone=public --list-all": zone("8091/tcp"),
        "firewall-cmd --zone=home --list-all": zone(),
    }
    host = machine(root, answers)
    assert firewall.is_open(PORT, host) == (None, "firewalld")


# --- nftables


def chain(policy: str, *rules: list[dict[str, Any]], name: str = "input", hook: str | None = "input") -> list[Any]:
    at = {"family": "inet", "table": "filter"}
    hooked = {"hook": hook, "policy": policy} if hook else {}
    return [
        {"metainfo": {"json_schema_version": 1}},
        {"chain": {**at, "name": name, **hooked}},
        *({"rule": {**at, "chain": name, "expr": rule}} for rule in rules),
    ]


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def dport(right: Any, op: str = "==", protocol: str = "tcp") -> dict[str, Any]:
    return match({"payload": {"protocol": protocol, "field": "dport"}}, right, op)


def saddr(right: Any, op: str = "==") -> dict[str, Any]:
    return match({"payload": {"protocol": "ip", "field": "saddr"}}, right, op)


def prefix(address: str, length: int) -> dict[str, Any]:
    return {"prefix": {"addr": address, "len": length}}


def state(*words: str) -> dict[str, Any]:
    return match({"ct": {"key": "state"}}, list(words), "in")


def a_set(name: str, *elements: Any) -> dict[str, Any]:
    return {"set": {"family": "inet", "table": "filter", "name": name, "elem": list(elements)}}


IIF = {"meta": {"key": "iifname"}}


@pytest.mark.parametrize(
    ("entries", "is_open"),
    [
        ([], True),
        (chain("accept"), True),
        (chain("drop"), False),
        (chain("drop", [dport(22), ACCEPT]), False),
        (chain("drop", [dport(8091), ACCEPT]), True),
        (chain("drop", [dport(22, "!="), ACCEPT]), True),
        (chain("accept", [dport(22, "!="), DROP]), False),
        (chain("accept", [dport(8091), DROP]), False),
        (chain("drop", [dport(8091), DROP], [dport(8091), ACCEPT]), False),
        (chain("drop", [dport({"set": [22, {"range": [8000, 8100]}]}), ACCEPT]), True),
        (chain("drop", [dport({"range": [9000, 9100]}), ACCEPT]), False),
        (chain("drop", [dport(8091, protocol="udp"), ACCEPT]), False),
        (chain("drop", [dport(8091, protocol="th"), ACCEPT]), True),
        ([*chain("drop", [dport("@ports"), ACCEPT]), a_set("ports", 22, {"elem": {"val": 8091}})], True),
        ([*chain("drop", [dport("@ports"), ACCEPT]), a_set("ports", 22)], False),
        (chain("drop", [dport("@not-listed"), ACCEPT]), None),
        (chain("drop", [state("new"), ACCEPT]), True),
        (chain("drop", [state("established", "related"), ACCEPT]), False),
        (chain("accept", [state("invalid"), DROP]), True),
        (chain("drop", [match(IIF, "lo"), ACCEPT]), False),
        (chain("drop", [match(IIF, "lo", "!="), ACCEPT]), True),
        (chain("drop", [match(IIF, "eth0"), dport(8091), ACCEPT]), True),
        (chain("drop", [match(IIF, "eth1"), dport(8091), ACCEPT]), None),
        (chain("drop", [ACCEPT]), True),
        (chain("accept", [dport(22), ACCEPT], [DROP]), False),
        (chain("accept", [dport(8091), ACCEPT], [{"reject": None}]), True),
        (chain("drop", [saddr(prefix("10.0.0.0", 8)), dport(8091), ACCEPT]), False),
        (chain("drop", [saddr(prefix("0.0.0.0", 0)), dport(8091), ACCEPT]), True),
        (chain("drop", [saddr("8.8.8.8"), dport(8091), ACCEPT]), None),
        (chain("accept", [saddr({"set": ["8.8.8.8", prefix("9.9.9.0", 24)]}), DROP]), True),
        (chain("accept", [saddr({"set": ["8.8.8.8"]}, "!="), DROP]), None),
        (chain("accept", [saddr(prefix("0.0.0.0", 1)), DROP]), None),
        ([*chain("accept", [saddr("@f2b"), {"reject": None}]), a_set("f2b", "8.8.8.8")], True),
        (chain("drop", [{"vmap": {"key": {}, "data": {}}}]), None),
        (chain("drop", [{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["established", ACCEPT], ["new", {"jump": {"target": "ours"}}]]}}}])
         + chain("", [dport(8091), ACCEPT], name="ours", hook=None), True),
        (chain("drop", [{"jump": {"target": "not listed"}}]), None),
        (chain("drop", [{"jump": {"target": "ours"}}], [dport(8091), ACCEPT])
         + chain("", [{"return": None}], [DROP], name="ours", hook=None), True),
        (chain("drop", [{"goto": {"target": "ours"}}], [dport(8091), ACCEPT]) + chain("", name="ours", hook=None), False),
        (chain("drop", [{"jump": {"target": "input"}}]), None),
        (chain("drop", [{"xt": {"type": "match", "name": "conntrack"}}, ACCEPT]), None),
        (chain("accept", [{"xt": {"type": "target", "name": "REJECT"}}]), None),
        (chain("drop", [{"limit": {"rate": 5, "per": "minute"}}, dport(8091), ACCEPT]), True),
        (chain("accept", [dport(8091), {"limit": {"rate": 9, "per": "second", "inv": True}}, DROP]), True),
        (chain("drop", name="forward", hook="forward"), True),
        (chain("accept") + chain("drop", name="other"), False),
        (chain("accept") + chain("accept", [dport(8091), DROP], name="raw", hook="prerouting"), False),
        (chain("accept") + chain("accept", [dport(8091), {"redirect": {"port": 1}}], name="nat", hook="prerouting"), None),
        (chain("accept") + chain("accept", [dport(80), {"dnat": {"port": 1}}], name="nat", hook="prerouting"), True),
    ],
)  # fmt: skip
def test_what_nftables_lists(entries: list[Any], is_open: bool | None) -> None:
    assert evaluate_nftables(entries, PORT, OUTSIDE)[0] is is_open


# --- iptables


@pytest.mark.parametrize(
    ("policy", "rules", "is_open"),
    [
        ("ACCEPT", [], True),
        ("DROP", [], False),
        ("DROP", ["-p tcp -m tcp --dport 8091 -j ACCEPT"], True),
        ("DROP", ["-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "-i lo -j ACCEPT"], False),
        ("DROP", ["-p tcp -m multiport --dports 22,8000:9000 -j ACCEPT"], True),
        ("DROP", ["-p udp -m udp --dport 8091 -j ACCEPT"], False),
        ("DROP", ["-s 10.0.0.0/8 -p tcp -m tcp --dport 8091 -j ACCEPT"], False),
        ("DROP", ["-p tcp -m tcp ! --dport 22 -j ACCEPT"], True),
        ("ACCEPT", ["-p tcp -m tcp --dport 22 -j ACCEPT", "-j REJECT --reject-with icmp-port-unreachable"], False),
        ("ACCEPT", ["-p tcp -m recent --update --seconds 60 --name X --rsource -j DROP"], None),
        ("ACCEPT", ['-m comment --comment "-j DROP" -j LOG --log-prefix "a -j DROP"'], True),
        ("DROP", ["-j OURS"], True),
        ("DROP", ["-j NFQUEUE --queue-num 0"], None),
    ],
)
def test_what_iptables_saves(policy: str, rules: list[str], is_open: bool | None) -> None:
    ours = ["-A OURS -p tcp -m tcp --dport 22 -j RETURN", "-A OURS -p tcp -m tcp --dport 8091 -j ACCEPT"]
    lines = [
        "*filter",
        f":INPUT {policy} [0:0]",
        ":OURS - [0:0]",
        *(f"-A INPUT {one}" for one in rules),
        *ours,
        "COMMIT",
    ]
    assert evaluate_iptables("\n".join(lines), PORT, OUTSIDE) is is_open


OPAQUE = [{"xt": {"type": "match", "name": "conntrack"}}, ACCEPT]
SAVED = "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -m tcp --dport {} -j ACCEPT\nCOMMIT\n"


def nft(entries: Sequence[Any]) -> dict[str, str]:
    return {"nft --json list ruleset": json.dumps({"nftables": list(entries)})}


def of_iptables(*rules: list[dict[str, Any]]) -> list[Any]:
    entries = json.dumps(chain("drop", *rules, name="INPUT")).replace('"inet"', '"ip"')
    return list(json.loads(entries))


@pytest.mark.parametrize(
    ("answers", "legacy", "status"),
    [
        (nft(chain("drop")), "", Status.FAIL),
        (nft([]), "", Status.OK),
        ({}, "", Status.UNKNOWN),
        ({"nft --json list ruleset": "Operation not permitted"}, "", Status.UNKNOWN),
        (nft(of_iptables(OPAQUE)), "", Status.UNKNOWN),
        (nft(of_iptables(OPAQUE)) | {"iptables -V": "iptables v1.8.9 (nf_tables)", "iptables-save -t filter": SAVED.format(8091)}, "", Status.OK),
        (nft(of_iptables(OPAQUE)) | {"iptables -V": "iptables v1.8.9 (nf_tables)", "iptables-save -t filter": SAVED.format(22)}, "", Status.FAIL),
        (nft(of_iptables(OPAQUE) + chain("drop")) | {"iptables -V": "iptables v1.8.9 (nf_tables)", "iptables-save -t filter": SAVED.format(8091)}, "", Status.FAIL),
        (nft([]) | {"iptables-legacy-save -t filter": SAVED.format(22)}, "filter", Status.FAIL),
        (nft([]) | {"iptables-legacy-save -t filter": SAVED.format(8091)}, "filter", Status.OK),
        (nft([]), "filter", Status.UNKNOWN),
    ],
)  # fmt: skip
def test_the_firewall_that_is_active_is_asked(root: Path, answers: dict[str, str], legacy: str, status: Status) -> None:
    (root / "proc/net/ip_tables_names").write_text(f"{legacy}\n")
    host = machine(root, {"ufw status verbose": "Status: inactive", **answers})
    [check] = firewall.check([PORT], host)
    assert check.status is status
    assert ("nc -vz THIS_HOST 8091" in check.advice) is (status is Status.UNKNOWN)


# --- the kernel's own answer


CONDITIONS = ["", "tcp dport 8091", "tcp dport != 8091", "tcp dport 8000-8090", "tcp dport { 22, 8091 }", "udp dport 8091",
              "meta l4proto tcp", "ip protocol udp", "ct state new", "ct state established,related", "ct state != new",
              "iifname lo", 'iifname != "lo"', "iifname inside", "ip saddr 10.0.0.0/8", "ip saddr 8.8.8.8",
              "ip saddr { 8.8.4.4, 9.9.9.0/24 }", "ip saddr != 10.0.0.0/8", "meta nfproto ipv6", "meta nfproto ipv4",
              "tcp flags syn", "tcp flags & (fin|syn|rst|ack) == syn", "tcp flags & (syn|ack) != syn", "ip6 saddr ::/0",
              "fib daddr type local", "limit rate over 1000/second", "limit rate 1000/second", "tcp dport @ports",
              "meta mark 7", "tcp sport 1024-65535"]  # fmt: skip
VERDICTS = ["accept", "drop", "reject", "jump sub", "goto sub", "return", "counter", "continue",
            "ct state vmap { established : accept, new : drop }", "ct state vmap { invalid : drop, new : jump sub }",
            "tcp dport vmap { 22 : accept, 8091 : accept }"]  # fmt: skip


def random_rules(seed: int) -> str:
    pick = random.Random(seed)  # noqa: S311

    def rules(verdicts: list[str]) -> str:
        return "\n".join(
            f"{pick.choice(CONDITIONS)} {pick.choice(CONDITIONS[:14]) if pick.random() < 0.3 else ''} {pick.choice(verdicts)}"
            for _ in range(pick.randint(0, 4))
        )

    plain = [one for one in VERDICTS if "sub" not in one]
    return (
        f"table inet t {{ set ports {{ type inet_service; flags interval; elements = {{ 22, 8000-8100 }} }}\n"
        f"chain sub {{ {rules(plain)}\n }}\nchain input {{ type filter hook input priority 0; "
        f"policy {pick.choice(('accept', 'drop'))}; {rules(VERDICTS)}\n }}\n }}\n"
    )


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("nft"), reason="nft is not installed")
def test_the_verdict_on_random_rules_is_what_the_kernel_does_with_them() -> None:
    """Each rule set is loaded in its own network namespace, and a caller with a public address connects."""
    prepared = "\0".join(random_rules(seed) for seed in range(150))
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", KERNEL],
        input=prepared, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip(f"no network of our own here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    verdicts = {True: 0, False: 0, None: 0}
    for line in done.stdout.splitlines():
        rules, connected, listed = json.loads(line)
        verdict, _ = evaluate_nftables(listed["nftables"], PORT, frozenset({"inside"}))
        assert verdict in (None, connected), rules
        verdicts[verdict] += 1
    assert verdicts[None] < sum(verdicts.values()) / 3, verdicts
    assert min(verdicts[True], verdicts[False]) > 20, verdicts


KERNEL = """
import json, socket, subprocess, sys, threading, time
def run(*command, **more): return subprocess.run(command, capture_output=True, text=True, check=True, **more).stdout
prepared = sys.stdin.read().split("\\0")
host = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 300"], stdout=subprocess.PIPE)
server = None
try:
    host.stdout.readline()
    inside = ["nsenter", "--net", "--target", str(host.pid)]
    try:
        run("ip", "link", "add", "outside", "type", "veth", "peer", "name", "inside", "netns", str(host.pid))
        run("ip", "addr", "add", "11.0.0.1/24", "dev", "outside"); run("ip", "link", "set", "outside", "up")
        run(*inside, "ip", "addr", "add", "11.0.0.2/24", "dev", "inside")
        run(*inside, "ip", "link", "set", "inside", "up"); run(*inside, "nft", "list", "ruleset")
    except subprocess.CalledProcessError as error:
        print(error.stderr, file=sys.stderr); sys.exit(77)
    code = "import socket; s = socket.create_server(('11.0.0.2', 8091), backlog=500); print(flush=True)\\nwhile True: s.accept()"
    server = subprocess.Popen([*inside, sys.executable, "-c", code], stdout=subprocess.PIPE)
    server.stdout.readline()
    def connects(seconds):
        try: socket.create_connection(("11.0.0.2", 8091), seconds).close()
        except OSError: return False
        return True
    assert connects(5)
    for rules in prepared:
        try:
            run(*inside, "nft", "-f", "-", input="flush ruleset\\n" + rules)
        except subprocess.CalledProcessError:  # conditions that exclude each other
            continue
        listed = json.loads(run(*inside, "nft", "--json", "list", "ruleset"))
        print(json.dumps([rules, connects(0.15), listed]))
finally:
    if server: server.kill()
    host.kill()
"""


# --- UDP: sn2-miner's port


def as_udp(entries: Any) -> Any:
    """The same rules with both protocols exchanged."""
    text = json.dumps(entries).replace('"tcp"', '"?"').replace('"udp"', '"tcp"').replace('"?"', '"udp"')
    return json.loads(text)


@pytest.mark.parametrize(
    ("rules", "is_open"),
    [
        ([[dport(PORT), ACCEPT]], False),
        ([[dport(PORT, protocol="udp"), ACCEPT]], True),
        ([[dport(PORT, protocol="th"), ACCEPT]], True),
        ([[match({"meta": {"key": "l4proto"}}, "udp"), ACCEPT]], True),
        ([[match({"meta": {"key": "l4proto"}}, 6), ACCEPT]], False),
        ([[state("new"), dport(PORT, protocol="udp"), ACCEPT]], True),
        ([[state("established"), ACCEPT]], False),
        ([[match({"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, "syn"]}, "syn"), ACCEPT]], False),
        ([[saddr(prefix("8.8.8.0", 24)), dport(PORT, protocol="udp"), ACCEPT]], None),
    ],
)
def test_a_udp_port_in_nftables(rules: list[Any], is_open: bool | None) -> None:
    assert evaluate_nftables(chain("drop", *rules), PORT, OUTSIDE, "udp")[0] is is_open
    swapped = as_udp(chain("drop", *rules))
    if "flags" not in json.dumps(rules) and "l4proto" not in json.dumps(rules):
        assert evaluate_nftables(swapped, PORT, OUTSIDE)[0] is is_open


@pytest.mark.parametrize(
    ("rule", "is_open"),
    [
        (f"-A INPUT -p udp -m udp --dport {PORT} -j ACCEPT", True),
        (f"-A INPUT -p tcp -m tcp --dport {PORT} -j ACCEPT", False),
        ("-A INPUT -p 17 -j ACCEPT", True),
        ("-A INPUT ! -p tcp -j ACCEPT", True),
        ("-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN SYN -j ACCEPT", False),
    ],
)
def test_a_udp_port_in_iptables(rule: str, is_open: bool) -> None:
    saved = f"*filter\n:INPUT DROP [0:0]\n{rule}\nCOMMIT\n"
    assert evaluate_iptables(saved, PORT, OUTSIDE, "udp") is is_open


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        ({"ufw status verbose": ufw(row("8091/udp"))}, Status.OK),
        ({"ufw status verbose": ufw(row("8091/tcp"))}, Status.FAIL),
        ({"ufw status verbose": ufw(row("8091"))}, Status.OK),
        ({"firewall-cmd --state": "running", "firewall-cmd --get-active-zones": "public\n  interfaces: eth0",
          "firewall-cmd --zone=public --list-all": zone("8091/udp")}, Status.OK),
        ({"firewall-cmd --state": "running", "firewall-cmd --get-active-zones": "public\n  interfaces: eth0",
          "firewall-cmd --zone=public --list-all": zone("8091/tcp")}, Status.FAIL),
        ({}, Status.UNKNOWN),
    ],
)  # fmt: skip
def test_a_udp_port_in_ufw_and_firewalld(root: Path, answers: dict[str, str], status: Status) -> None:
    [check] = firewall.check([PORT], machine(root, answers), "udp")
    assert check.status is status
    assert check.wanted == "UDP 8091 open"
    assert ("live probe" in check.advice) is (status is Status.UNKNOWN)


def test_the_allowlist_of_sn2_miner_is_no_closed_firewall(root: Path) -> None:
    text = json.dumps(chain("accept", [dport(PORT, protocol="udp"), DROP])).replace(
        '"table": "filter"', '"table": "sn2_lightning"'
    )
    entries = json.loads(text)
    assert {one["table"] for entry in entries for one in entry.values() if "table" in one} == {"sn2_lightning"}
    answers = nft(entries)
    [check] = firewall.check([PORT], machine(root, answers), "udp")
    assert check.status is Status.OK
    assert firewall.has_allowlist(machine(root, answers)) is True
    assert firewall.has_allowlist(machine(root, nft([]))) is False
    assert firewall.has_allowlist(machine(root, {})) is None
