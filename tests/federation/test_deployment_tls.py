"""Keys and certificates of a deployment."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.federation.deployment.tls import (
    Certificates,
    check_public_key,
    ensure_certificates,
    load_node_key,
    make_certificates,
    make_node_key,
)

PEM = serialization.Encoding.PEM
PUBLIC = serialization.PublicFormat.SubjectPublicKeyInfo


def shake_hands(certificates: Certificates, authority: Path, host: str) -> str | None:
    """Let a client that trusts an authority connect under a name; return what it dislikes."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificates.certificate, certificates.key)
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except ssl.SSLError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client = ssl.create_default_context(cafile=str(authority))
        client.verify_flags |= ssl.VERIFY_X509_STRICT
        with client.wrap_socket(ours, server_hostname=host):
            return None
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    finally:
        thread.join(10)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "hub.example.org", "192.0.2.7"])
def test_a_client_that_trusts_the_authority_trusts_the_server(tmp_path: Path, host: str) -> None:
    made = make_certificates(tmp_path, ["hub.example.org", "192.0.2.7"])
    assert shake_hands(made, made.authority, host) is None


def test_another_name_and_another_authority_are_refused(tmp_path: Path) -> None:
    made = make_certificates(tmp_path, ["hub.example.org"])
    assert "mismatch" in str(shake_hands(made, made.authority, "evil.example.org"))
    (tmp_path / "other").mkdir()
    other = make_certificates(tmp_path / "other", ["hub.example.org"])
    assert shake_hands(made, other.authority, "hub.example.org") is not None


def test_nobody_can_sign_with_the_authority_again(tmp_path: Path) -> None:
    made = make_certificates(tmp_path, [])
    authority = x509.load_pem_x509_certificate(made.authority.read_bytes())
    for path in tmp_path.iterdir():
        text = path.read_bytes()
        if b"PRIVATE KEY" in text:
            key = serialization.load_pem_private_key(text, None)
            public = key.public_key().public_bytes(PEM, PUBLIC)
            assert public != authority.public_key().public_bytes(PEM, PUBLIC)


def test_private_files_are_their_owners_alone(tmp_path: Path) -> None:
    made = make_certificates(tmp_path, [])
    make_node_key(tmp_path / "node.key")
    for path in (made.key, tmp_path / "node.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_node_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "node.key"
    public = make_node_key(path)
    assert make_node_key(path) == public == check_public_key(public)
    assert isinstance(load_node_key(path).curve, ec.SECP384R1)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN OPENSSH PRIVATE KEY-----\n"])
def test_a_file_that_is_no_key_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "node.key").write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"node\.key"):
        load_node_key(tmp_path / "node.key")


def test_only_public_keys_of_the_usual_curves_are_taken() -> None:
    other = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(PEM, PUBLIC)
    odd = ec.generate_private_key(ec.SECP256K1()).public_key().public_bytes(PEM, PUBLIC)
    for given in (b"", b"-----BEGIN PUBLIC KEY-----", other, odd):
        with pytest.raises(InvalidInputError, match="P-256"):
            check_public_key(given)


def test_the_certificates_in_a_folder_are_kept_while_they_fit(tmp_path: Path) -> None:
    first = ensure_certificates(tmp_path, ["hub.example"]).authority.read_bytes()
    assert ensure_certificates(tmp_path, ["hub.example"]).authority.read_bytes() == first
    other = ensure_certificates(tmp_path, ["hub.example", "other.example"]).authority.read_bytes()
    assert other != first
    (tmp_path / "else").mkdir()
    stranger = make_certificates(tmp_path / "else", ["hub.example"])
    (tmp_path / "server.key").write_bytes(stranger.key.read_bytes())
    again = ensure_certificates(tmp_path, ["hub.example"])
    assert again.authority.read_bytes() != other, "the key was not the certificate's"
    assert shake_hands(again, again.authority, "localhost") is None
