"""Reads the miner's hotkey, and refuses wallets with a coldkey.

A hotkey signs answers to the chain and can do little harm; a coldkey moves money and must never be on a host. So
every entry point here checks for one first. Key files are bittensor's own JSON, in bittensor's own folders
(``<path>/<name>/hotkeys/<hotkey>``). Nothing here prints or logs a secret.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omron_miner.errors import ConfigError, WalletError
from omron_miner.files import write_new
from omron_miner.untrusted import NOT_OF_ITS_FORM, parse_json

if TYPE_CHECKING:
    from omron_miner.constants import Constants, Wallet

_ENCRYPTED = (b"$NACL", b"$ANSIBLE_VAULT", b"gAAAAA")
"""Prefixes of bittensor's encrypted key files, old and new formats."""
_SECRETS = ("privateKey", "secretSeed", "secretPhrase")
"""Fields of a key file that can sign; the public half has none of them."""
_SR25519 = 1
"""bittensor's number for it in key files; older files have none."""
_LARGEST_KEY_FILE = 65_536
"""Bytes; they have some 300."""


def open_hotkey(wallet: Wallet) -> Any:
    """The bittensor wallet whose hotkey `wallet` names, its hotkey read and ready to sign.

    Raises WalletError when the wallet directory holds a coldkey, and as `read_address`.
    """
    refuse_coldkey(wallet.path)
    address = read_address(wallet)
    from bittensor_wallet import Wallet as BittensorWallet

    opened = BittensorWallet(name=wallet.name, hotkey=wallet.hotkey, path=str(wallet.path))
    try:
        found = opened.hotkey.ss58_address
    except Exception as error:  # any error of the library: its text may quote the file
        raise _unusable(wallet.hotkey_file, type(error).__name__) from None
    if found != address:
        raise _unusable(wallet.hotkey_file, "it was replaced while it was read")
    return opened


def check_hotkey(address: str) -> str:
    """The SS58 address. Raises ConfigError when it is invalid."""
    from bittensor_wallet import Keypair

    try:
        Keypair(ss58_address=address)
    except Exception as error:  # any error of the library
        message = f"{address!r} is not an SS58 address"
        raise ConfigError(message, "give the miner's hotkey as the chain has it") from error
    return address


def read_address(wallet: Wallet) -> str:
    """The SS58 address of the hotkey, which can sign for it.

    Raises WalletError when the key file is missing, readable by others, encrypted, only the public half of a key, or
    corrupt.
    """
    path = wallet.hotkey_file
    content = _read_key_file(path)
    if content.startswith(_ENCRYPTED):
        raise WalletError(f"{path} is encrypted; the miner cannot ask for a password", "use an unencrypted hotkey")
    try:
        fields = parse_json(content)
        address, public_key = str(fields["ss58Address"]), str(fields.get("publicKey", ""))
    except NOT_OF_ITS_FORM:
        raise WalletError(f"{path} is not a bittensor key file", "copy the hotkey file again") from None
    if not _holds_secret(fields):
        raise WalletError(
            f"{path} is the public half of a hotkey: it cannot sign",
            f"copy the hotkey itself, hotkeys/{wallet.hotkey} of the wallet, not the file with 'pub' in its name",
        )
    if fields.get("cryptoType", _SR25519) != _SR25519:
        raise WalletError(f"{path} is not an sr25519 key, the only kind that the subnet verifies", "use another hotkey")
    _check_that_it_signs(path, content, address, public_key)
    return address


def _read_key_file(path: Path) -> bytes:
    """Raises WalletError when it is unreadable, or readable by others."""
    try:
        status = path.stat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) and status.st_size <= _LARGEST_KEY_FILE else b""
    except OSError as error:
        raise WalletError(
            f"cannot read the hotkey {path}: {error.strerror}", "set omron_hotkey_file and run the play again"
        ) from error
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise WalletError(f"{path} can be read by others (mode {mode:04o})", f"chmod 0600 {path}")
    return content


def _holds_secret(fields: dict[str, Any]) -> bool:
    return any(fields.get(name) for name in _SECRETS)


def _check_that_it_signs(path: Path, content: bytes, address: str, public_key: str) -> None:
    """Raises WalletError unless a signature with the key in `content` verifies for `address`."""
    from bittensor_wallet import Keypair
    from bittensor_wallet.keyfile import deserialize_keypair_from_keyfile_data

    try:
        key = deserialize_keypair_from_keyfile_data(content)
        found, own_public_key = key.ss58_address, bytes(key.public_key or b"").hex()
        verified = Keypair(ss58_address=found).verify(b"omron-miner", key.sign(b"omron-miner"))
    except Exception as error:  # as above
        raise _unusable(path, type(error).__name__) from None
    if found != address or (public_key and public_key.lower().removeprefix("0x") != own_public_key):
        raise WalletError(f"{path}: its address does not match its key", "copy it again")
    if not verified:
        raise _unusable(path, "its signatures do not verify for its address")


def _unusable(path: Path, why: str) -> WalletError:
    return WalletError(f"{path} is not a usable hotkey ({why})", "copy the hotkey file again")


def find_coldkey(wallets: Path) -> Path | None:
    """A coldkey in the wallet directory `wallets`, encrypted or not; None when there is none.

    That is any file named ``coldkey…``, at any depth, except the public half ``coldkeypub…``; and a file of any
    name outside ``hotkeys/`` that holds a secret key or an encrypted one. Unreadable files are classified by
    name. Raises OSError when a folder is unreadable.
    """
    for folder, folders, files in os.walk(wallets, onerror=_raise_unless_missing):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = Path(folder, name)
            public = name.lower().startswith("coldkeypub")
            if name.lower().startswith("coldkey") and not public:
                return path
            if name in files and "hotkeys" not in path.relative_to(wallets).parts[:-1] and _is_secret_key(path):
                return path
    return None


def _is_secret_key(path: Path) -> bool:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_KEY_FILE:
            return False
        content = path.read_bytes()
        if content.startswith(_ENCRYPTED):
            return True
        fields = parse_json(content)
    except (OSError, ValueError):
        return False
    return isinstance(fields, dict) and _holds_secret(fields)


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def refuse_coldkey(wallets: Path) -> None:
    """Raises WalletError when the wallet directory `wallets` holds a coldkey, see `find_coldkey`, or is unreadable."""
    try:
        found = find_coldkey(wallets)
    except OSError as error:
        raise WalletError(
            f"cannot search for coldkeys in {error.filename}: {error.strerror}", "make the service user its owner"
        ) from error
    if found:
        raise WalletError(
            f"{found} is a coldkey: it must never be on a mining host",
            "move it to a safe place off this host; the miner only needs the hotkey",
        )


def create_throwaway_hotkey(constants: Constants) -> tuple[str, bool]:
    """Makes sure there is a hotkey for the local network: its SS58 address, and whether it was just created.

    A new key is random, has no mnemonic, and is in its file (0600, in folders 0700) completely or not at all.
    Raises WalletError on a real network, where the operator's own hotkey is needed, and as `read_address`.
    """
    wallet = constants.wallet
    if constants.network.name != "local":
        raise WalletError(
            f"throwaway hotkeys are for the local network only, not for {constants.network.name}",
            "copy the registered hotkey to the host: omron_hotkey_file",
        )
    refuse_coldkey(wallet.path)
    if wallet.hotkey_file.exists():
        return read_address(wallet), False
    from bittensor_wallet import Keypair
    from bittensor_wallet.keyfile import serialized_keypair_to_keyfile_data

    create: Any = Keypair.create_from_seed  # the stub declares bytes, but it takes hex
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
    write_new(path, content)
