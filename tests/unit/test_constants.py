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


def test_every_wrong_key_is_named_at_once() -> None:
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


def test_toml_that_cannot_be_parsed_says_where() -> None:
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
