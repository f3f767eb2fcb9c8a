"""constants.toml: what is refused, and that the refusal names the key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from omron_miner.constants import Constants, parse_constants, read_constants
from omron_miner.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def test_an_empty_file_is_all_defaults() -> None:
    assert parse_constants("") == Constants()


@pytest.mark.parametrize("bound", ["localhost", "::1", "192.0.2.1"])
def test_the_axon_listens_on_an_address_or_on_localhost(bound: str) -> None:
    assert parse_constants(f'[axon]\nbind_ip = "{bound}"').axon.bind_ip == bound


def test_values_of_every_type_are_taken() -> None:
    constants = parse_constants(
        """
        [network]
        local_validator_hotkeys = ["5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"]
        [axon]
        port = 9000
        [deadlines]
        circuit_timeout_seconds = 50
        [sessions]
        directory = "/dev/shm/other"
        """
    )
    assert constants.network.local_validator_hotkeys[0].startswith("5FHneW")
    assert constants.axon.port == 9000
    assert constants.deadlines.circuit_timeout_seconds == 50.0
    assert constants.sessions.directory.name == "other"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[axon]\nprot = 8091", "axon.prot"),
        ("[axn]\nport = 8091", "axn"),
        ('[axon]\nport = "8091"', "axon.port"),
        ("[axon]\nport = true", "axon.port"),
        ("[axon]\nport = 1024", "axon.port"),
        ("[axon]\nport = 65535", "axon.port"),
        ('[access]\nblacklist = "yes"', "access.blacklist"),
        ("[deadlines]\ncircuit_timeout_seconds = 0", "deadlines.circuit_timeout_seconds"),
        ("[deadlines]\ncircuit_timeout_seconds = inf", "deadlines.circuit_timeout_seconds"),
        ("[deadlines]\ncircuit_timeout_seconds = nan", "deadlines.circuit_timeout_seconds"),
        ("[deadlines]\ncircuit_timeout_seconds = 5\nexternal_queue_seconds = 5", "external_queue_seconds"),
        ('[provers]\ntls = false\nbind_ip = "10.0.0.1"', "provers.tls must be true"),
        ('[provers]\ntls = false\nscheduler_host = "miner.example"', "provers.tls must be true"),
        ('[provers]\nbind_ip = "0.0.0.0"', "provers.bind_ip must be one address"),
        ('[axon]\nbind_ip = ""', "axon.bind_ip must be an IP address"),
        ('[axon]\nbind_ip = "nope"', "axon.bind_ip must be an IP address"),
        ('[axon]\nexternal_ip = "x"', "axon.external_ip must be an IP address"),
        ("[prover]\nstart_seconds = 1e308", "prover.start_seconds"),
        ("[network]\nearly_sync_seconds = inf", "network.early_sync_seconds"),
        ("[access]\nminimum_stake = nan", "access.minimum_stake"),
        (f"[access]\nrequests_per_minute = 1{'0' * 400}", "access.requests_per_minute"),
        ("[circuits]\ndownload_max_bytes = 10_000_000_000_000_000", "circuits.download_max_bytes"),
        ('[circuits]\ndirectory = "/srv\\u0000"', "circuits.directory must not contain a NUL"),
        ('[network]\nchain_endpoint = "ws://\\u0000"', "network.chain_endpoint must not contain a NUL"),
        ('[circuits]\ndownload_hosts = ["a\\u0000"]', "circuits.download_hosts must not contain a NUL"),
        ('[provers]\nbind_ip = "miner"', "provers.bind_ip must be an IP address"),
        ("[provers]\nlost_seconds = 0.5", "provers.heartbeat_seconds must be below provers.lost_seconds"),
        ("[prover]\nworkers = 1.5", "prover.workers"),
        ('[network]\nname = "main"', "network.name"),
        ('[network]\nlocal_validator_hotkeys = ["0x12"]', "network.local_validator_hotkeys.0"),
        ('[circuits]\nignored = ["ab"]', "circuits.ignored.0"),
        ('[wallet]\nname = "../other"', "wallet.name"),
        ("monitor = 3", "monitor"),
    ],
)
def test_an_unknown_or_ill_typed_key_is_refused_by_name(text: str, key: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_constants(text, "/etc/constants.toml")
    assert key in refused.value.message
    assert "/etc/constants.toml" in refused.value.message


def test_every_wrong_key_is_named_in_one_error() -> None:
    with pytest.raises(ConfigError) as refused:
        parse_constants('[axon]\nport = "x"\n[prover]\nworker = 1')
    assert "axon.port" in refused.value.message
    assert "prover.worker" in refused.value.message


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ("[access]\nblacklist = false", "access.blacklist"),
        ("", "axon.external_ip"),
        (
            '[axon]\nexternal_ip = "203.0.113.7"\n[network]\n'
            'local_validator_hotkeys = ["5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"]\nname = "finney"',
            "local_validator_hotkeys",
        ),
    ],
)
def test_a_real_network_is_guarded(extra: str, why: str) -> None:
    text = extra if "[network]" in extra else f'[network]\nname = "finney"\n{extra}'
    with pytest.raises(ConfigError, match=why.replace(".", r"\.")):
        parse_constants(text)


def test_a_toml_error_gives_its_position() -> None:
    with pytest.raises(ConfigError, match=r"not valid TOML.*line 2"):
        parse_constants("[axon]\nport = x\n")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_missing_or_binary_file_is_an_error_that_names_it(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "constants.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=str(file)):
        read_constants(file)


def test_constants_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Constants().axon.port = 1  # type: ignore[misc]


REAL = '[network]\nname = "finney"\n[axon]\nexternal_ip = "203.0.113.7"\n'
STORAGE = '[competition]\nenabled = true\nendpoint = "https://s3.example"\nbucket = "circuits"\n'
A = "a" * 64


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[deadlines]\nstop_seconds = 3.0", "stop_seconds must be below deadlines.kill_seconds"),
        ("[deadlines]\nkill_seconds = 2.0", "stop_seconds must be below deadlines.kill_seconds"),
        ("[circuits]\ndownload_seconds = 20", "download_seconds must be at least 30"),
        ("[network]\nmetagraph_sync_seconds = 700_000", "every copy would be too old"),
        ("[monitor]\nwindow_seconds = 300_000", "monitor.window_seconds must not be longer"),
        ("[monitor]\nalert_window_seconds = 300_000", "monitor.alert_window_seconds must not be longer"),
        ("[monitor]\nkeep_minutes_days = 31\nkeep_hours_days = 8", "keep_minutes_days must not be longer"),
        ('[sessions]\ndirectory = "/x"\nfallback_directory = "/x"', "are both /x"),
        ('[circuits]\ndirectory = "/x"\nsrs_directory = "/x"', "circuits.directory and circuits.srs_directory"),
        ('[wallet]\npath = "/x"\n[circuits]\nezkl_directory = "/x"', "circuits.ezkl_directory and wallet.path"),
        ('[competition]\nstatus_file = "/x"\n[network]\ncopy_file = "/x"', "competition.status_file are both /x"),
        ('[sessions]\ndirectory = "/var/lib/omron-miner"', "circuits.directory /var/lib/omron-miner/circuits is in"),
        ('[log]\ndirectory = "/dev/shm/omron-miner"', "log.directory /dev/shm/omron-miner is in sessions.directory"),
    ],
)
def test_settings_that_cannot_both_hold_are_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_constants(text)
    assert why in refused.value.message


def test_each_of_them_alone_is_accepted_and_all_errors_are_reported_together() -> None:
    assert parse_constants(REAL + STORAGE).competition.enabled
    assert parse_constants("[deadlines]\nstop_seconds = 8\nkill_seconds = 10").deadlines.stop_seconds == 8
    with pytest.raises(ConfigError, match=r"external_ip.*stop_seconds"):
        parse_constants('[network]\nname = "test"\n[deadlines]\nstop_seconds = 5')
