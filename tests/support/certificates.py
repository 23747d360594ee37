"""Certificates for tests: an authority, and certificates of servers that it has signed."""

import ipaddress
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Authority = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def authority(path: Path, days: int = 30) -> Authority:
    """Return a new authority and write its certificate to `path`. With negative `days` it has expired."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Authority {path.name}")])
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    usage = x509.KeyUsage(
        key_cert_sign=True, crl_sign=True, digital_signature=False, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = _builder(name, name, key, days).add_extension(constraints, critical=True)
    certificate = builder.add_extension(usage, critical=True).sign(key, hashes.SHA256())
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return certificate, key


def issue(by: Authority, folder: Path, host: str, days: int = 30, *, alternative_name: bool = True) -> None:
    """Write server.crt and server.key for `host` into `folder`. With negative `days` the certificate has expired.

    Without `alternative_name`, the host is only the subject's common name.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])  # the maximum length of a common name
    try:
        names: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        names = x509.DNSName(host)
    builder = _builder(name, by[0].subject, key, days)
    if alternative_name:
        builder = builder.add_extension(x509.SubjectAlternativeName([names]), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(by[1].public_key())
    builder = builder.add_extension(identifier, critical=False)
    certificate = builder.sign(by[1], hashes.SHA256())
    (folder / "server.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.key").write_bytes(private)
    for file in ("server.crt", "server.key"):  # PostgreSQL requires that only its own user can read the key
        (folder / file).chmod(0o600)
        if os.geteuid() == 0:
            os.chown(folder / file, folder.stat().st_uid, -1)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return builder.not_valid_before(now - timedelta(days=60)).not_valid_after(now + timedelta(days=days))
