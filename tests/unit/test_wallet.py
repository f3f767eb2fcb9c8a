from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from omron_miner.cli import main
from omron_miner.constants import Axon, Constants, Network, Wallet
from omron_miner.errors import WalletError
from omron_miner.wallet import create_throwaway_hotkey, open_hotkey, read_address

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def local(tmp_path: Path) -> Constants:
    return Constants(wallet=Wallet(path=tmp_path / "wallets"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_throwaway_hotkey_can_sign_and_is_ours_alone(local: Constants) -> None:
    address, made = create_throwaway_hotkey(local)
    assert made
    key = open_hotkey(local.wallet).hotkey
    assert key.ss58_address == address
    assert key.verify(b"message", key.sign(b"message"))
    assert mode(local.wallet.hotkey_file) == 0o600
    assert {mode(folder) for folder in list(local.wallet.hotkey_file.parents)[:3]} == {0o700}
    assert [file.name for file in local.wallet.hotkey_file.parent.iterdir()] == ["default"], "something was left over"


def test_a_hotkey_that_exists_is_kept(local: Constants) -> None:
    address, _ = create_throwaway_hotkey(local)
    content = local.wallet.hotkey_file.read_bytes()
    assert create_throwaway_hotkey(local) == (address, False)
    assert local.wallet.hotkey_file.read_bytes() == content


def test_two_hotkeys_differ(local: Constants) -> None:
    other = local.model_copy(update={"wallet": local.wallet.model_copy(update={"hotkey": "other"})})
    assert create_throwaway_hotkey(local)[0] != create_throwaway_hotkey(other)[0]


def test_a_real_network_gets_no_throwaway_hotkey(local: Constants) -> None:
    real = local.model_copy(update={"network": Network(name="test", netuid=118), "axon": Axon(external_ip="192.0.2.1")})
    with pytest.raises(WalletError, match="local network"):
        create_throwaway_hotkey(real)
    assert not local.wallet.path.exists()


@pytest.mark.parametrize("name", ["coldkey", "coldkey.bak"])
def test_a_coldkey_is_refused_whatever_is_in_it(local: Constants, name: str) -> None:
    create_throwaway_hotkey(local)
    (local.wallet.directory / name).write_text("$NACL...")
    with pytest.raises(WalletError, match="coldkey"):
        open_hotkey(local.wallet)
    with pytest.raises(WalletError, match="coldkey"):
        create_throwaway_hotkey(local)


def test_the_public_half_of_a_coldkey_is_welcome(local: Constants) -> None:
    create_throwaway_hotkey(local)
    (local.wallet.directory / "coldkeypub.txt").write_text("{}")
    open_hotkey(local.wallet)


def test_a_key_others_can_read_is_refused(local: Constants) -> None:
    create_throwaway_hotkey(local)
    local.wallet.hotkey_file.chmod(0o640)
    with pytest.raises(WalletError, match="0640"):
        open_hotkey(local.wallet)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("$NACLxxxx", "encrypted"),
        ("not json", "not a bittensor key file"),
        ('{"ss58Address": "5secret"}', "not a usable hotkey"),
    ],
)
def test_a_broken_key_is_refused_without_being_shown(local: Constants, content: str, said: str) -> None:
    create_throwaway_hotkey(local)
    local.wallet.hotkey_file.write_text(content)
    with pytest.raises(WalletError, match=said) as error:
        open_hotkey(local.wallet)
    assert content not in str(error.value)


def test_an_address_of_another_key_is_refused(local: Constants) -> None:
    create_throwaway_hotkey(local)
    content = json.loads(local.wallet.hotkey_file.read_text())
    other = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
    local.wallet.hotkey_file.write_text(json.dumps({**content, "ss58Address": other}))
    with pytest.raises(WalletError, match="do not belong together"):
        open_hotkey(local.wallet)


def test_the_commands_print_the_address_and_nothing_secret(local: Constants, tmp_path: Path) -> None:
    config = tmp_path / "constants.toml"
    config.write_text(f'[wallet]\npath = "{local.wallet.path}"\n')

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(main, ["--config", str(config), "hotkey", *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    created = run("create", "--json")
    again, shown = run("create", "--json"), run("show", "--json")
    address = read_address(local.wallet)
    assert json.loads(created) == {"ss58": address, "changed": True}
    assert json.loads(again) == {"ss58": address, "changed": False}
    assert json.loads(shown) == {"ss58": address}
    assert run("show") == f"{address}\n"


def test_show_without_a_hotkey_fails_and_says_what_to_do(tmp_path: Path) -> None:
    config = tmp_path / "constants.toml"
    config.write_text(f'[wallet]\npath = "{tmp_path}"\n')
    result = CliRunner().invoke(main, ["--config", str(config), "hotkey", "show"])
    assert result.exit_code == 1
    assert "omron_hotkey_file" in result.output
