"""Addresses of services, and secrets that are shown nowhere."""

import pickle
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronexus_kernel.errors import ForbiddenError, InvalidInputError, NeuroNexusError
from neuronexus_kernel.storage.endpoints import Credentials, Endpoint

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("http://127.0.0.1:5001", "http://127.0.0.1:5001"),
        ("http://127.0.0.1", "http://127.0.0.1:80"),
        ("https://ipfs.example.org", "https://ipfs.example.org:443"),
        ("https://example.org:8443/node/", "https://example.org:8443/node"),
        ("http://[::1]:5001", "http://[::1]:5001"),
        (" https://EXAMPLE.org\n", "https://example.org:443"),
        ("/ip4/127.0.0.1/tcp/5001", "http://127.0.0.1:5001"),
        ("/ip4/127.0.0.1/tcp/5001/http", "http://127.0.0.1:5001"),
        ("/ip6/::1/tcp/5001", "http://[::1]:5001"),
        ("/dns/ipfs.infura.io/tcp/5001/https", "https://ipfs.infura.io:5001"),
        ("/dns4/node/tcp/080", "http://node:80"),
    ],
)
def test_urls_and_multiaddrs_are_read(address, url):
    assert Endpoint.parse(address).url == url
    assert str(Endpoint.parse(url)) == url


@pytest.mark.parametrize(
    "address",
    [
        "",
        "127.0.0.1:5001",
        "ftp://example.org",
        "http://",
        "http://example.org:99999",
        "http://exa mple.org",
        "http://[::1",
        "/ip4/127.0.0.1",
        "/ip4/127.0.0.1/udp/5001",
        "/ip4/127.0.0.1/tcp/0",
        "/ip4/127.0.0.1/tcp/70000",
        "/ip4/127.0.0.1/tcp/5001/ftp",
        "/dns/a/b/tcp/5001",
        "/unix/run/ipfs.sock",
        None,
        7,
    ],
)
def test_what_is_no_address_is_told_so(address):
    with pytest.raises(InvalidInputError, match="is no address"):
        Endpoint.parse(address)


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_refused(text):
    with suppress(NeuroNexusError):
        assert Endpoint.parse(text).host


def test_a_password_in_an_address_is_taken_out_of_it():
    endpoint = Endpoint.parse(f"https://me:{SECRET}%2F@example.org")
    assert endpoint.url == "https://example.org:443"
    assert endpoint.credentials == Credentials(f"{SECRET}/", "me")
    assert SECRET not in repr(endpoint) + str(endpoint)


@pytest.mark.parametrize(
    "address",
    [
        f"ftp://me:{SECRET}@example.org",
        f"https://{SECRET}@example.org",
        f"https://example.org\\\\{SECRET}@evil.org",
        f"http://me:{SECRET}@exa mple.org",
        f"http://me:{SECRET}@example.org",
        f"https://me:{SECRET}@",
        f"https://a:{SECRET}@b:{SECRET}@",
    ],
)
def test_a_refused_address_does_not_show_what_may_be_a_password(address):
    with pytest.raises((InvalidInputError, ForbiddenError)) as refusal:
        Endpoint.parse(address)
    assert SECRET not in str(refusal.value)


def test_a_secret_is_sent_over_a_line_that_others_cannot_read_alone():
    credentials = Credentials(SECRET, "me")
    for address in (
        "https://example.org",
        "http://127.0.0.1:5001",
        "http://localhost",
        "/ip6/::1/tcp/1",
    ):
        assert Endpoint.parse(address, credentials).credentials is credentials
    for address in ("http://example.org", "/dns/localhost.evil.org/tcp/80", "/ip4/10.0.0.1/tcp/1"):
        with pytest.raises(ForbiddenError, match="https"):
            Endpoint.parse(address, credentials)


def test_credentials_sign_as_the_rfcs_say():
    # RFC 7617, section 2.
    basic = Credentials("open sesame", "Aladdin")
    assert basic.header == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    assert Credentials("token").header == "Bearer token"


@pytest.mark.parametrize("secret", ["", "two\nlines", "a\r\nHost: evil", "\0"])
def test_a_secret_that_would_break_the_header_is_refused(secret):
    with pytest.raises(InvalidInputError):
        Credentials(secret, "me")


def test_a_secret_is_hidden_in_every_form_in_which_it_may_be_repeated():
    endpoint = Endpoint.parse("https://example.org", Credentials(SECRET, "me"))
    header = endpoint.credentials.header
    shown = endpoint.hide(f"you sent {header} which is {SECRET}")
    assert SECRET not in shown
    assert header.partition(" ")[2] not in shown


def test_what_a_service_says_becomes_one_short_line():
    endpoint = Endpoint.parse("https://example.org")
    assert endpoint.hide("one\r\ntwo\x1b[31m") == "one  two [31m"
    assert len(endpoint.hide("x" * 10_000)) == 200


def test_a_secret_survives_no_representation():
    credentials = Credentials(SECRET, "me")
    endpoint = Endpoint.parse("https://example.org", credentials)
    assert SECRET not in f"{credentials!r} {credentials} {endpoint!r} {endpoint}"
    assert pickle.loads(pickle.dumps(endpoint)) == endpoint  # noqa: S301


# -- the environment -------------------------------------------------------------------------


def test_without_settings_there_is_no_node():
    assert Endpoint.of_node(environment={}) is None


def test_the_setting_names_the_node():
    environment = {"NEURONEXUS_IPFS": "/dns/node/tcp/5001/https"}
    assert Endpoint.of_node(environment=environment) == Endpoint("https://node:5001")


def test_infuras_key_alone_means_infura():
    endpoint = Endpoint.of_node(environment={"INFURA_IPFS_ID": "me", "INFURA_IPFS_SECRET": SECRET})
    assert endpoint.url == "https://ipfs.infura.io:5001"
    assert endpoint.credentials == Credentials(SECRET, "me")


def test_half_a_key_is_told_so():
    with pytest.raises(InvalidInputError, match="INFURA_IPFS_SECRET"):
        Endpoint.of_node(environment={"INFURA_IPFS_ID": "me"})
    with pytest.raises(InvalidInputError, match="INFURA_IPFS_ID"):
        Endpoint.of_node(environment={"INFURA_IPFS_SECRET": SECRET})
