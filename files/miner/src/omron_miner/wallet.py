"""The miner's hotkey, and the refusal of anything more.

A hotkey signs answers to the chain and can do little harm; a coldkey moves money and has no business on a host. So
every way in here first looks for one. Key files are bittensor's own JSON, in bittensor's own folders
(``<path>/<name>/hotkeys/<hotkey>``). Nothing here prints or logs a secret.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
import tempfile
from typing import TYPE_CHECKING, Any

from omron_miner.errors import WalletError

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.constants import Constants, Wallet


def open_hotkey(wallet: Wallet) -> Any:
    """The bittensor wallet whose hotkey `wallet` names, its hotkey read and ready to sign.

    Raises WalletError when a coldkey lies beside it, or the key file is missing, readable by others, encrypted or
    broken.
    """
    refuse_coldkey(wallet.directory)
    address = read_address(wallet)
    from bittensor_wallet import Wallet as BittensorWallet

    opened = BittensorWallet(name=wallet.name, hotkey=wallet.hotkey, path=str(wallet.path))
    try:
        found = opened.hotkey.ss58_address
    except Exception as error:  # whatever the library raises, its text may quote the file
        raise WalletError(
            f"{wallet.hotkey_file} is not a usable hotkey ({type(error).__name__})", "copy the hotkey file again"
        ) from None
    if found != address:
        raise WalletError(f"{wallet.hotkey_file}: its address and its key do not belong together", "copy it again")
    return opened


def read_address(wallet: Wallet) -> str:
    """The hotkey's SS58 address, from the key file alone. Raises WalletError as `open_hotkey`, but for a broken key."""
    path = wallet.hotkey_file
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except OSError as error:
        raise WalletError(
            f"cannot read the hotkey {path}: {error.strerror}", "set omron_hotkey_file and run the play again"
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise WalletError(f"{path} can be read by others (mode {stat.S_IMODE(mode):04o})", f"chmod 0600 {path}")
    if content.startswith((b"$NACL", b"$ANSIBLE_VAULT", b"gAAAAA")):
        raise WalletError(f"{path} is encrypted; the miner cannot ask for a password", "use an unencrypted hotkey")
    try:
        return str(json.loads(content)["ss58Address"])
    except (ValueError, KeyError, TypeError):
        raise WalletError(f"{path} is not a bittensor key file", "copy the hotkey file again") from None


def refuse_coldkey(directory: Path) -> None:
    """Raises WalletError when the wallet folder `directory` holds a coldkey, encrypted or not.

    ``coldkeypub.txt``, the public half, is welcome.
    """
    if not directory.is_dir():
        return
    for path in directory.iterdir():
        if path.name.startswith("coldkey") and not path.name.startswith("coldkeypub"):
            raise WalletError(
                f"{path} is a coldkey: it must never be on a mining host",
                "move it to a safe place off this host; the miner only needs the hotkey",
            )


def create_throwaway_hotkey(constants: Constants) -> tuple[str, bool]:
    """Makes sure there is a hotkey for the local network: its SS58 address, and whether it was made just now.

    A new key is random, has no mnemonic, and is in its file (0600, in folders 0700) completely or not at all.
    Raises WalletError on a real network, where the operator's own hotkey is needed, and as `read_address`.
    """
    wallet = constants.wallet
    if constants.network.name != "local":
        raise WalletError(
            f"a throwaway hotkey is for the local network, this is {constants.network.name}",
            "copy the registered hotkey to the host: omron_hotkey_file",
        )
    refuse_coldkey(wallet.directory)
    if wallet.hotkey_file.exists():
        return read_address(wallet), False
    from bittensor_wallet import Keypair
    from bittensor_wallet.keyfile import serialized_keypair_to_keyfile_data

    create: Any = Keypair.create_from_seed  # its stub says bytes, it takes hex
    keypair = create("0x" + secrets.token_hex(32))
    try:
        _write_privately(wallet.hotkey_file, serialized_keypair_to_keyfile_data(keypair), top=wallet.path)
    except OSError as error:
        raise WalletError(f"cannot write {wallet.hotkey_file}: {error.strerror}", "check its folder's owner") from error
    return read_address(wallet), True  # read back: another process may have been first


def _write_privately(path: Path, content: bytes, top: Path) -> None:
    """Writes a new file, 0600, complete or not at all; never over another. Folders below `top` are made 0700."""
    top.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in reversed(path.relative_to(top).parents[:-1]):
        (top / folder).mkdir(mode=0o700, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(name, path)
        except FileExistsError:
            return
    finally:
        os.unlink(name)
