"""Keys: the miner's hotkey, coldkeys that must not be there, and the competition's storage with its credentials."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omron_preflight.files import ABSOLUTE, VAULT, Reader, file_problem, json_object
from omron_preflight.settings import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Mapping

COMPETITION_FILES = ("model.compiled", "settings.json")

_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SECRETS = ("secretPhrase", "secretSeed", "privateKey")


def _plain_content(variable: str, value: Any, read: Reader) -> bytes:
    """The content of the readable file `value`, decrypted by `read` if it is vaulted.

    Raises ValueError, with the problem in words, if it cannot be decrypted.
    """
    path = Path(value).expanduser()
    content = path.read_bytes()
    if not content.startswith(VAULT):
        return content
    try:
        return read(path)
    except (OSError, ValueError):
        raise ValueError(
            f"{variable} {value} is encrypted and cannot be decrypted: pass --ask-vault-pass or "
            "--vault-password-file with the right password"
        ) from None


def _hotkey_problems(value: Any, read: Reader) -> list[str]:
    what = "the hotkey's file, hotkeys/NAME of a bittensor wallet"
    # Before anything is opened: a coldkey is not even read.
    if isinstance(value, str) and "coldkey" in value.lower():
        return [
            f"omron_hotkey_file {value} looks like a coldkey, which must never reach a miner: name {what}, "
            "and keep the coldkey off this machine too"
        ]
    if problem := file_problem("omron_hotkey_file", value, what):
        return [problem]
    try:
        plain = _plain_content("omron_hotkey_file", value, read)
    except ValueError as error:
        return [str(error)]
    if plain.startswith(b"$NACL"):
        return [
            f"omron_hotkey_file {value} is encrypted, but a service cannot prompt for a password: "
            "name an unencrypted hotkey"
        ]
    content = json_object(Path(value), lambda _: plain)
    if content is None or not {"ss58Address", *_SECRETS} & set(content):
        return [f"omron_hotkey_file {value} is not a bittensor key file (JSON with ss58Address): name {what}"]
    if not any(isinstance(content.get(name), str) and content[name] for name in _SECRETS):
        return [
            f"omron_hotkey_file {value} holds only the public half of a key, which cannot sign: name {what}, the file "
            "that also holds the secret, not the one that ends in pub.txt"
        ]
    return []


def hotkey_identity(value: Any, read: Reader = Path.read_bytes) -> str | None:
    """Identifies a hotkey without its secret: its address or, if the file has none, the file's path.

    `read` returns a file's content, decrypted if it is vaulted. None if the file cannot be read; `wallet_problems`
    reports the reason.
    """
    if not isinstance(value, str) or not value or "coldkey" in value.lower():
        return None
    path = Path(value).expanduser()
    content = json_object(path, read)
    if content is not None and isinstance(address := content.get("ss58Address"), str):
        return address
    return str(path.resolve()) if path.is_file() else None


def wallet_problems(
    settings: Mapping[str, Any], coldkeys_on_host: list[str], read: Reader = Path.read_bytes
) -> list[str]:
    """Problems of the configured hotkey, and coldkeys found in the host's wallets.

    `read` returns a file's content, decrypted if it is vaulted.
    """
    problems = [
        f"{path} on the host is a coldkey, which must never be on a miner: move it to a machine that is offline, "
        "and consider its funds exposed"
        for path in coldkeys_on_host
    ]
    hotkey, network = settings["omron_hotkey_file"], settings["omron_network"]
    if hotkey:
        problems += _hotkey_problems(hotkey, read)
    elif network in NETWORKS and network != "local":
        problems.append(
            f"omron_hotkey_file is empty, but {network} needs your registered hotkey: "
            "name its file (hotkeys/NAME of a wallet) on the control node"
        )
    return problems


def competition_problems(settings: Mapping[str, Any], read: Reader = Path.read_bytes) -> list[str]:
    """The configuration of a competition must be complete: storage, credentials, and the circuit if one is set.

    `read` returns a file's content, decrypted if it is vaulted.
    """
    if not settings["omron_competition_enabled"]:
        return []
    problems = _bucket_problems(settings) + _credentials_problems(settings["omron_competition_credentials_file"], read)
    if circuit := settings["omron_competition_circuit"]:
        folder = Path(str(circuit)).expanduser()
        if not folder.is_absolute():
            problems.append(f"omron_competition_circuit {circuit} is relative: {ABSOLUTE}")
        else:
            missing = [name for name in COMPETITION_FILES if not (folder / name).is_file()]
            if missing:
                problems.append(
                    f"omron_competition_circuit {circuit} lacks {' and '.join(missing)} on the control node: "
                    "name the folder of a compiled circuit"
                )
    return problems


def _bucket_problems(settings: Mapping[str, Any]) -> list[str]:
    endpoint, region = settings["omron_competition_endpoint"], settings["omron_competition_region"]
    bucket = settings["omron_competition_bucket"]
    problems = []
    if endpoint and not (isinstance(endpoint, str) and _ENDPOINT.fullmatch(endpoint)):
        problems.append(
            f"omron_competition_endpoint {endpoint!r} is not https://HOST: write its address, without the bucket"
        )
    if not endpoint and region == "auto":
        problems.append(
            "omron_competition_region is auto, which Amazon S3 does not have: write the bucket's region, "
            "or set omron_competition_endpoint"
        )
    if not bucket:
        problems.append("omron_competition_bucket is empty, but omron_competition_enabled is set: write its name")
    elif not isinstance(bucket, str) or not _BUCKET.fullmatch(bucket) or (not endpoint and "." in bucket):
        problems.append(
            f"omron_competition_bucket {bucket!r} is not a valid bucket name: 3 to 63 lower-case letters, digits and "
            "dashes; no dots on Amazon S3"
        )
    return problems


def _credentials_problems(value: Any, read: Reader) -> list[str]:
    if not value:
        return [
            "omron_competition_credentials_file is empty, but omron_competition_enabled is set: name the file with the "
            "storage's keys on the control node"
        ]
    what = "a file like ~/.aws/credentials"
    if problem := file_problem("omron_competition_credentials_file", value, what):
        return [problem]
    try:
        content = _plain_content("omron_competition_credentials_file", value, read)
    except ValueError as error:
        return [str(error)]
    missing = [name for name in (b"[default]", b"aws_access_key_id", b"aws_secret_access_key") if name not in content]
    if not missing:
        return []
    lacks = ", ".join(name.decode() for name in missing)
    return [f"omron_competition_credentials_file {value} lacks {lacks}: name {what}"]
