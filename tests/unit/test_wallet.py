from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from omron_miner.chain.wallet import create_throwaway_hotkey, open_hotkey, read_address
from omron_miner.cli import main
from omron_miner.constants import Axon, Constants, Network, Wallet
from omron_miner.errors import WalletError

if TYPE_CHECKING:
    from collections.abc import Callable
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


ALICE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
SECRET = '{"secretPhrase": "twelve words", "ss58Address": "5..."}'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("miner/coldkey", ""),
        ("miner/coldkey.bak", "$NACL..."),
        ("miner/Coldkey-old", ""),
        ("miner/coldkeys/2024", ""),
        ("miner/hotkeys/coldkey", ""),
        ("other/coldkey", ""),
        ("coldkey", ""),
        ("miner/backup", "$NACL..."),
        ("miner/old/key.json", SECRET),
        ("miner/coldkeypub.txt", SECRET),
    ],
)
def test_a_coldkey_is_refused_wherever_it_lies_and_whatever_it_is_called(
    local: Constants, name: str, content: str
) -> None:
    create_throwaway_hotkey(local)
    path = local.wallet.path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    for enter in (lambda: open_hotkey(local.wallet), lambda: create_throwaway_hotkey(local)):
        with pytest.raises(WalletError, match="is a coldkey"):
            enter()


def test_the_public_half_of_a_coldkey_and_other_hotkeys_are_welcome(local: Constants) -> None:
    create_throwaway_hotkey(local)
    hotkeys = local.wallet.hotkey_file.parent
    (local.wallet.directory / "coldkeypub.txt").write_text('{"ss58Address": "5..."}')
    (hotkeys / "second").write_text("$NACL...")
    (hotkeys / "third").write_bytes(local.wallet.hotkey_file.read_bytes())
    (local.wallet.directory / "notes").write_bytes(b"\xff" + b"[" * 100_000)
    open_hotkey(local.wallet)


def test_a_key_others_can_read_is_refused(local: Constants) -> None:
    create_throwaway_hotkey(local)
    local.wallet.hotkey_file.chmod(0o640)
    with pytest.raises(WalletError, match="0640"):
        open_hotkey(local.wallet)


def altered(content: dict[str, object], **fields: object) -> str:
    """A key file with other fields; those that are None are omitted."""
    return json.dumps({name: value for name, value in {**content, **fields}.items() if value is not None})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda _: b"$NACLxxxx", "encrypted"),
        (lambda _: b"not json", "not a bittensor key file"),
        (lambda _: b"", "not a bittensor key file"),
        (lambda _: b"\xff\xfe", "not a bittensor key file"),
        (lambda _: b"[" * 100_000, "not a bittensor key file"),
        (lambda _: b'"5secret"', "not a bittensor key file"),
        (lambda key: altered(key, ss58Address=None), "not a bittensor key file"),
        (lambda key: altered(key, privateKey=None, secretSeed=None), "public half of a hotkey: it cannot sign"),
        (lambda key: altered(key, privateKey="", secretSeed=""), "public half of a hotkey: it cannot sign"),
        (lambda _: b'{"ss58Address": "5secret"}', "public half of a hotkey: it cannot sign"),
        (lambda key: altered(key, privateKey="0x1234", secretSeed=None), "not a usable hotkey"),
        (lambda key: altered(key, privateKey=7, secretSeed=None), "not a usable hotkey"),
        (lambda key: altered(key, cryptoType=0), "is not an sr25519 key"),
        (lambda key: altered(key, cryptoType=2), "is not an sr25519 key"),
        (lambda key: altered(key, ss58Address=ALICE), "does not match its key"),
        (lambda key: altered(key, publicKey="0x" + "11" * 32), "does not match its key"),
    ],
)
def test_a_key_that_cannot_sign_is_refused_at_the_first_check_and_never_shown(
    local: Constants, tmp_path: Path, spoil: Callable[[dict[str, object]], bytes | str], said: str
) -> None:
    create_throwaway_hotkey(local)
    file = local.wallet.hotkey_file
    spoilt = spoil(json.loads(file.read_text()))
    file.write_bytes(spoilt if isinstance(spoilt, bytes) else spoilt.encode())
    with pytest.raises(WalletError, match=said) as error:
        open_hotkey(local.wallet)
    assert "secret" not in str(error.value)
    assert "0x" not in str(error.value)
    with pytest.raises(WalletError, match=said):
        read_address(local.wallet)


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


def test_show_without_a_hotkey_fails_with_a_hint(tmp_path: Path) -> None:
    config = tmp_path / "constants.toml"
    config.write_text(f'[wallet]\npath = "{tmp_path}"\n')
    result = CliRunner().invoke(main, ["--config", str(config), "hotkey", "show"])
    assert result.exit_code == 1
    assert "omron_hotkey_file" in result.output


def test_show_refuses_what_serve_refuses(local: Constants, tmp_path: Path) -> None:
    create_throwaway_hotkey(local)
    config = tmp_path / "constants.toml"
    config.write_text(f'[wallet]\npath = "{local.wallet.path}"\n')
    (local.wallet.path / "coldkey.old").touch()
    result = CliRunner().invoke(main, ["--config", str(config), "hotkey", "show"])
    assert (result.exit_code, "is a coldkey" in result.output) == (1, True)
