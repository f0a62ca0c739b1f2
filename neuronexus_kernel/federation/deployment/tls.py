"""Keys and certificates of a deployment.

A SuperLink shows a server certificate; its nodes prove who they are by signing with an elliptic
curve key whose public half was registered before.  Each SuperLink gets a certificate authority of
its own, made in memory: its key signs one server certificate and is forgotten, so that nobody can
ever sign a second one.  Labs are given the authority's certificate, by the hub or by hand.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from neuronexus_kernel.errors import InvalidInputError

LIFETIME = timedelta(days=365)

# Clocks differ: a certificate is valid a little before it was made.
_SKEW = timedelta(hours=1)
_LONG_ENOUGH = timedelta(days=90)
_NAME = "NeuroNexus federation"


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files that a SuperLink needs for TLS.

    Attributes
    ----------
    authority
        Certificate of the authority, PEM: what nodes trust.
    certificate, key
        The server's certificate and its private key, PEM; the key is readable by its owner only.
    """

    authority: Path
    certificate: Path
    key: Path


def ensure_certificates(folder: Path, hosts: Sequence[str]) -> Certificates:
    """Return the certificates in a folder; new ones if they do not fit, or not for long.

    Parameters
    ----------
    folder, hosts
        As for `make_certificates`.
    """
    paths = _paths(folder)
    return paths if _fit(paths, hosts) else make_certificates(folder, hosts)


def make_certificates(folder: Path, hosts: Sequence[str]) -> Certificates:
    """Make a certificate authority and a server certificate in a folder.

    Parameters
    ----------
    folder
        Where the files go; it exists.
    hosts
        Names and IP addresses under which nodes reach the server.  The loopback addresses are
        always among them.
    """
    authority_key = ec.generate_private_key(ec.SECP384R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{_NAME} authority")])
    authority = (
        _builder(authority_name, authority_name, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(authority_key, hashes.SHA384())
    )
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NAME)])
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    certificate = (
        _builder(name, authority_name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(x509.SubjectAlternativeName(_alternatives(hosts)), critical=False)
        .sign(authority_key, hashes.SHA384())
    )
    paths = _paths(folder)
    pem = serialization.Encoding.PEM
    write_private(paths.authority, authority.public_bytes(pem))
    write_private(paths.certificate, certificate.public_bytes(pem))
    write_private(paths.key, _private_bytes(key, serialization.PrivateFormat.PKCS8))
    return paths


def make_node_key(path: Path) -> bytes:
    """Return the public half of the node key in a file, making the key when there is none.

    Parameters
    ----------
    path
        An OpenSSH private key file (P-384), as ``ssh-keygen -t ecdsa -b 384`` makes it.

    Returns
    -------
    bytes
        The public key, PEM.

    Raises
    ------
    InvalidInputError
        If the file holds something else.
    """
    if not path.exists():
        key = ec.generate_private_key(ec.SECP384R1())
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(path, _private_bytes(key, serialization.PrivateFormat.OpenSSH))
    return public_pem(load_node_key(path))


def load_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the private key in an OpenSSH key file.

    Raises
    ------
    InvalidInputError
        If the file cannot be read, is locked by a password, or is no elliptic curve key.
    """
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInputError(f"The node key {path} cannot be read: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidInputError(
            f"The node key {path} is no elliptic curve key: make one with "
            "`ssh-keygen -t ecdsa -b 384`."
        )
    return key


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the public half of a key as PEM, the form in which it is registered."""
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def check_public_key(pem: bytes) -> bytes:
    """Return a public key in its one canonical PEM form.

    Raises
    ------
    InvalidInputError
        If it is no public key of a NIST curve.
    """
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(
        key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1
    ):
        raise InvalidInputError("A node's public key is a PEM of P-256, P-384 or P-521.")
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read, in one step."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    os.replace(draft, path)


def _paths(folder: Path) -> Certificates:
    return Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")


def _fit(paths: Certificates, hosts: Sequence[str]) -> bool:
    """Tell whether three files belong together, are for these hosts, and are valid for a while."""
    try:
        authority = x509.load_pem_x509_certificate(paths.authority.read_bytes())
        certificate = x509.load_pem_x509_certificate(paths.certificate.read_bytes())
        key = serialization.load_pem_private_key(paths.key.read_bytes(), None)
        certificate.verify_directly_issued_by(authority)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return (
        key.public_key() == certificate.public_key()
        and set(names) >= set(_alternatives(hosts))
        and certificate.not_valid_after_utc > datetime.now(UTC) + _LONG_ENOUGH
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternatives(hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys([*hosts, "localhost", "127.0.0.1", "::1"]):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _private_bytes(key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
