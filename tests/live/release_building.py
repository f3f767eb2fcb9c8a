"""Releases for tests: a program of 200 bytes, its sums, and a Sigstore of our own that signs them.

The trusted root, the certificate with its SCT, and the log entry with its proof and promise have the form of Sigstore's
public ones (Fulcio, RFC 6962, Rekor's hashedrekord 0.0.1), so the verifier takes the same way as with those.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import struct
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from omron_miner.live.release import BUNDLE, DEFAULT_IDENTITY, DEFAULT_ISSUER, SUMS

ASSET = "sn2-miner-linux-x86_64"
_DAY = datetime.timedelta(days=1)
_SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_new_key = partial(ec.generate_private_key, ec.SECP256R1())


def program(script: str = "/bin/true", machine: int = 62, comment: str = "") -> bytes:
    """An x86-64 program that becomes `script` (execve), with its own arguments and environment."""
    code = bytes.fromhex(
        "488d742408 488b0c24 488d54cc10"  # rsi, rdx = arguments, environment
        "488d3d00000000 b83b000000 0f05"  # execve(script)
        "bf7f000000 b83c000000 0f05"  # exit(127)
    )
    head, base = 64 + 56, 0x400000
    relative = len(code) - code.index(b"\x48\x8d\x3d") - 7
    at = code.index(b"\x48\x8d\x3d") + 3
    code = code[:at] + struct.pack("<i", relative) + code[at + 4 :]
    body = code + script.encode() + b"\0" + comment.encode()
    size = head + len(body)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, base + head, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return header + load + body


def _der(key: Any) -> bytes:
    public: bytes = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return public


def _sign(key: Any, data: bytes) -> bytes:
    signature: bytes = key.sign(data, ec.ECDSA(hashes.SHA256()))
    return signature


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass
class Sigstore:
    """An authority, a log of certificates and a log of signatures; `trusted_root` names all three."""

    now: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.timezone.utc))
    authority: Any = field(default_factory=_new_key)
    certificates: Any = field(default_factory=_new_key)
    signatures: Any = field(default_factory=_new_key)

    def __post_init__(self) -> None:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")])
        self.root = (
            self._builder(name, name, self.authority, 3650 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign=False, certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.authority.public_key()), critical=False)
            .sign(self.authority, hashes.SHA256())
        )

    def _builder(self, name: x509.Name, issuer: x509.Name, key: Any, lasts: datetime.timedelta) -> Any:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - datetime.timedelta(minutes=5))
            .not_valid_after(self.now + lasts)
        )

    def trusted_root(self) -> str:
        """As Sigstore publishes its own."""
        since = {"start": (self.now - _DAY).isoformat()}

        def log(key: Any, name: str) -> dict[str, Any]:
            return {
                "baseUrl": f"https://{name}.example",
                "hashAlgorithm": "SHA2_256",
                "publicKey": {"rawBytes": _b64(_der(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": since},
                "logId": {"keyId": _b64(hashlib.sha256(_der(key)).digest())},
            }

        root = _b64(self.root.public_bytes(serialization.Encoding.DER))
        return json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [log(self.signatures, "rekor")],
                "certificateAuthorities": [
                    {
                        "subject": {"organization": "a test", "commonName": "authority of a test"},
                        "uri": "https://fulcio.example",
                        "certChain": {"certificates": [{"rawBytes": root}]},
                        "validFor": since,
                    }
                ],
                "ctlogs": [log(self.certificates, "ctfe")],
                "timestampAuthorities": [],
            }
        )

    def _certificate(self, key: Any, identity: str, issuer: str) -> x509.Certificate:
        begun = self._builder(x509.Name([]), self.root.subject, key, datetime.timedelta(minutes=5))
        for extension, critical in (
            (_usage(sign=True, certificates=False), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self.authority.public_key()), False),
            (x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)]), True),
            (x509.UnrecognizedExtension(_ISSUER, issuer.encode()), False),
        ):
            begun = begun.add_extension(extension, critical)
        promise = self._sct(begun.sign(self.authority, hashes.SHA256()).tbs_certificate_bytes)
        listed = struct.pack(">H", len(promise) + 2) + struct.pack(">H", len(promise)) + promise
        octets = b"\x04" + bytes([len(listed)]) + listed
        done: x509.Certificate = begun.add_extension(
            x509.UnrecognizedExtension(_SCT_LIST, octets), critical=False
        ).sign(self.authority, hashes.SHA256())
        return done

    def _sct(self, precertificate: bytes) -> bytes:
        """RFC 6962, section 3.2: what the log of certificates promises."""
        milliseconds = int(self.now.timestamp()) * 1000
        issuer = hashlib.sha256(_der(self.authority)).digest()
        entry = issuer + len(precertificate).to_bytes(3, "big") + precertificate
        signed = struct.pack(">BBQH", 0, 0, milliseconds, 1) + entry + struct.pack(">H", 0)
        signature = _sign(self.certificates, signed)
        log = hashlib.sha256(_der(self.certificates)).digest()
        return (
            b"\0"
            + log
            + struct.pack(">QH", milliseconds, 0)
            + b"\x04\x03"
            + struct.pack(">H", len(signature))
            + signature
        )

    def bundle(self, data: bytes, identity: str, issuer: str = DEFAULT_ISSUER) -> dict[str, Any]:
        """A bundle that says: `identity` signed `data`."""
        key = _new_key()
        certificate = self._certificate(key, identity, issuer)
        signature, digest = _sign(key, data), hashlib.sha256(data).digest()
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        body = rfc8785.dumps(
            {
                "apiVersion": "0.0.1",
                "kind": "hashedrekord",
                "spec": {
                    "data": {"hash": {"algorithm": "sha256", "value": digest.hex()}},
                    "signature": {"content": _b64(signature), "publicKey": {"content": _b64(pem)}},
                },
            }
        )
        return {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": {"rawBytes": _b64(certificate.public_bytes(serialization.Encoding.DER))},
                "tlogEntries": [self._entry(body)],
            },
            "messageSignature": {
                "messageDigest": {"algorithm": "SHA2_256", "digest": _b64(digest)},
                "signature": _b64(signature),
            },
        }

    def _entry(self, body: bytes) -> dict[str, Any]:
        log, time = hashlib.sha256(_der(self.signatures)).digest(), int(self.now.timestamp())
        root = hashlib.sha256(b"\0" + body).digest()
        note = f"rekor.example - 1\n1\n{_b64(root)}\n"
        checkpoint = f"{note}\n\u2014 rekor.example {_b64(log[:4] + _sign(self.signatures, note.encode()))}\n"
        promised: Any = {"body": _b64(body), "integratedTime": time, "logID": log.hex(), "logIndex": 0}
        return {
            "logIndex": "0",
            "logId": {"keyId": _b64(log)},
            "kindVersion": {"kind": "hashedrekord", "version": "0.0.1"},
            "integratedTime": str(time),
            "inclusionPromise": {"signedEntryTimestamp": _b64(_sign(self.signatures, rfc8785.dumps(promised)))},
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": _b64(root),
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {"envelope": checkpoint},
            },
            "canonicalizedBody": _b64(body),
        }


def _usage(sign: bool, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=certificates, crl_sign=certificates, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip


def publish(
    sigstore: Sigstore, folder: Path, tag: str, content: bytes, identity: str = DEFAULT_IDENTITY, **signed: Any
) -> Path:
    """Writes release `tag` below `folder` as upstream publishes one; returns its folder."""
    place = folder / tag
    place.mkdir(parents=True)
    sums = f"{hashlib.sha256(content).hexdigest()}  {ASSET}\n{'0' * 64}  sn2-miner-linux-aarch64\n".encode()
    (place / ASSET).write_bytes(content)
    (place / SUMS).write_bytes(sums)
    (place / BUNDLE).write_text(json.dumps(sigstore.bundle(sums, identity.replace("{tag}", tag), **signed)))
    return place


def main(arguments: list[str]) -> None:
    """``FOLDER TAG=SCRIPT ...``: publishes releases whose program becomes SCRIPT, and their trusted_root.json."""
    folder, sigstore = Path(arguments[0]), Sigstore()
    for tag, script in (one.split("=", 1) for one in arguments[1:]):
        publish(sigstore, folder, tag, program(script, comment=tag))
    (folder / "trusted_root.json").write_text(sigstore.trusted_root())


if __name__ == "__main__":
    main(sys.argv[1:])
