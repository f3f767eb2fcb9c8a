"""The certificates that authenticate the miner and its prover hosts: one private CA, one certificate each.

The play makes them. Here they are only read and checked, so that an invalid one causes one clear message at start and
not endless attempts to connect.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from omron_miner.errors import ConfigError
from omron_miner.formatting import utc

if TYPE_CHECKING:
    from pathlib import Path

CA, CERTIFICATE, KEY = "ca.pem", "cert.pem", "key.pem"
_HINT = "run the play, which makes and renews them"


@dataclass(frozen=True)
class Certificates:
    """Matching files that are valid now."""

    ca: Path
    certificate: Path
    key: Path
    ends: datetime
    """When the first of the two certificates expires, UTC."""


def read_certificates(directory: Path, now: datetime | None = None) -> Certificates:
    """The files in `directory`, checked at `now` (this moment by default).

    Raises ConfigError when one is missing or malformed, others may read the key, key and certificate do not
    match, the certificate is of another CA, or one of them is not valid now.
    """
    now = now or datetime.now(timezone.utc)
    ca, certificate = _certificate(directory / CA), _certificate(directory / CERTIFICATE)
    _check_key(directory / KEY, certificate)
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature) as error:
        message = f"{directory / CERTIFICATE} is not of the CA in {directory / CA}"
        raise ConfigError(message, _HINT) from error
    for name, one in ((CA, ca), (CERTIFICATE, certificate)):
        if now >= one.not_valid_after_utc:
            raise ConfigError(f"{directory / name} expired at {utc(one.not_valid_after_utc.timestamp())}", _HINT)
        if now < one.not_valid_before_utc:
            message = f"{directory / name} is not valid before {utc(one.not_valid_before_utc.timestamp())}"
            raise ConfigError(message, "set the host's clock")
    ends = min(ca.not_valid_after_utc, certificate.not_valid_after_utc)
    return Certificates(directory / CA, directory / CERTIFICATE, directory / KEY, ends)


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", _HINT) from error
    except ValueError as error:
        raise ConfigError(f"{path} is not a certificate", _HINT) from error


def _check_key(path: Path, certificate: x509.Certificate) -> None:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", _HINT) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is not a private key without a password", _HINT) from error
    if mode & 0o077:
        raise ConfigError(f"others may read {path} (mode {mode:04o})", f"chmod 0600 {path}")
    if key.public_key() != certificate.public_key():
        raise ConfigError(f"{path} is not the key of {path.parent / CERTIFICATE}", _HINT)
