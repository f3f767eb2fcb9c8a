"""Certificates for tests: a CA, and what it issued."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from omron_miner.provers.certificates import CA, CERTIFICATE, KEY

if TYPE_CHECKING:
    from pathlib import Path

DAY = timedelta(days=1)


class Authority:
    """A CA that issues certificates into folders."""

    def __init__(self, name: str = "provers", days: float = 30.0) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self.certificate = _sign(self._name, self._key.public_key(), self._name, self._key, days, is_ca=True)

    def issue(self, directory: Path, days: float = 30.0, name: str = "host") -> Path:
        """Writes ca.pem, cert.pem and key.pem; a certificate of minus one `days` ended yesterday."""
        directory.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _sign(_name(name), key.public_key(), self._name, self._key, days)
        pem = serialization.Encoding.PEM
        (directory / CA).write_bytes(self.certificate.public_bytes(pem))
        (directory / CERTIFICATE).write_bytes(certificate.public_bytes(pem))
        (directory / KEY).touch(0o600)
        form, secret = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        (directory / KEY).write_bytes(key.private_bytes(pem, form, secret))
        return directory


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _sign(subject: x509.Name, key: Any, issuer: x509.Name, by: Any, days: float, is_ca: bool = False) -> Any:
    now = datetime.now(timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 10 * DAY)
        .not_valid_after(now + days * DAY)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None), critical=True)
    )
    return builder.sign(by, hashes.SHA256())
