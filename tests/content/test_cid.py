import hashlib

import multiformats
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.content import CID
from neuronexus_kernel.content.cid import (
    DAG_CBOR,
    DAG_PB,
    IDENTITY,
    RAW,
    SHA2_512,
    decode_varint,
    encode_varint,
)
from neuronexus_kernel.errors import ContentError

HELLO_RAW = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
EMPTY_FILE = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
V0 = "QmRgutAxd8t7oGkSm4wmeuByG6M51wcTso6cubDdQtuEfL"

CIDS = st.one_of(
    st.builds(
        CID, st.sampled_from([RAW, DAG_PB, DAG_CBOR, 0x85]), st.binary(min_size=32, max_size=32)
    ),
    st.builds(lambda digest: CID(RAW, digest, SHA2_512), st.binary(min_size=64, max_size=64)),
    st.builds(lambda digest: CID(RAW, digest, IDENTITY), st.binary(max_size=64)),
    st.builds(lambda digest: CID(DAG_PB, digest, version=0), st.binary(min_size=32, max_size=32)),
)


@pytest.mark.parametrize(("data", "text"), [(b"hello world", HELLO_RAW), (b"", EMPTY_FILE)])
def test_the_cid_of_bytes_is_the_known_one(data, text):
    assert str(CID.of(data)) == text
    assert CID.parse(text) == CID.of(data)


@settings(deadline=None)
@given(CIDS)
def test_text_and_bytes_lead_back_to_the_cid(cid):
    assert CID.parse(str(cid)) == cid
    assert CID.from_bytes(bytes(cid)) == cid


@settings(deadline=None)
@given(CIDS)
def test_the_multiformats_library_reads_and_writes_the_same(cid):
    other = multiformats.CID.decode(str(cid))
    assert bytes(other) == bytes(cid)
    assert str(other) == str(cid)
    assert other.version == cid.version


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_refused_or_are_exactly_one_cid(data):
    try:
        cid = CID.from_bytes(data)
    except ContentError:
        return
    assert bytes(cid) == data


@settings(deadline=None)
@given(st.text(max_size=70) | st.from_regex(r"\A[bz][a-z2-7]{1,60}\Z"))
def test_any_text_is_refused_or_is_exactly_one_cid(text):
    try:
        cid = CID.parse(text)
    except ContentError:
        return
    assert str(cid) == text or text.startswith("z")


def test_a_base58_text_of_version_1_is_read():
    cid = CID.parse("zdj7Wd8AMwqnhJGQCbFxBVodGSBG84TM7Hs1rcJuQMwTyfEDS")
    assert (cid.version, cid.codec) == (1, DAG_PB)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "z",
        "Qm",
        "hello",
        HELLO_RAW.upper(),
        HELLO_RAW[:-1],
        HELLO_RAW + "a",
        HELLO_RAW[:-1] + "f",  # bits behind the end
        HELLO_RAW + "======",
        "B" + HELLO_RAW[1:],
        "f0155" + "00" * 34,
        V0[:-1],
        V0 + "1",
        V0[:-1] + "0",  # 0 is no base58 digit
        "z" + V0,  # version 0 has no multibase prefix
        "b" + HELLO_RAW,
        " " + HELLO_RAW,
        "bäfkrei",
        "b" + "a" * 100_000,
        "z" + "2" * 100_000,
    ],
)
def test_malformed_text_is_refused(text):
    with pytest.raises(ContentError, match="is not a CID"):
        CID.parse(text)


def test_a_version_0_cid_in_base32_is_refused():
    import base64

    text = "b" + base64.b32encode(bytes(CID.parse(V0))).decode().rstrip("=").lower()
    with pytest.raises(ContentError, match="no multibase prefix"):
        CID.parse(text)


@pytest.mark.parametrize("value", [None, 7, b"bytes", ["list"]])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(ContentError, match="A CID is text"):
        CID.parse(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"\x01\x55",
        b"\x01\x55\x12",
        b"\x01\x55\x12\x20" + bytes(31),
        b"\x01\x55\x12\x20" + bytes(33),
        b"\x01\x55\x12\x1f" + bytes(31),  # sha2-256 of 31 bytes
        b"\x02\x55\x12\x20" + bytes(32),
        b"\x01\xd5\x00\x12\x20" + bytes(32),  # 0x55 written long
        b"\x01\x55\x00\x81\x01" + bytes(129),  # identity above the limit
        b"\x12\x20" + bytes(31),
        b"\x12\x20" + bytes(33),
        b"\xff" * 40,
    ],
)
def test_malformed_bytes_are_refused(data):
    with pytest.raises(ContentError):
        CID.from_bytes(data)


@pytest.mark.parametrize(
    "fields",
    [
        {"codec": RAW, "digest": bytes(31)},
        {"codec": RAW, "digest": bytes(32), "version": 0},
        {"codec": DAG_PB, "digest": bytes(32), "version": 2},
        {"codec": -1, "digest": bytes(32)},
        {"codec": 1 << 63, "digest": bytes(32)},
        {"codec": RAW, "digest": bytes(129), "hash_code": IDENTITY},
    ],
)
def test_an_impossible_cid_cannot_be_made(fields):
    with pytest.raises(ContentError):
        CID(**fields)


def test_a_cid_matches_its_bytes_and_no_others():
    data = b"some bytes"
    for cid in (
        CID.of(data),
        CID(RAW, hashlib.sha512(data).digest(), SHA2_512),
        CID(RAW, data, IDENTITY),
    ):
        assert cid.matches(data)
        assert not cid.matches(data + b"!")


def test_a_hash_function_that_we_do_not_know_is_named():
    with pytest.raises(ContentError, match="0x14"):
        CID(RAW, bytes(32), 0x14).matches(b"")


@settings(deadline=None)
@given(st.integers(0, 2**63 - 1))
def test_varints_lead_back_to_the_number(value):
    data = encode_varint(value)
    assert decode_varint(b"x" + data + b"y", 1) == (value, 1 + len(data))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x00", b"\xff\x00", b"\xff" * 9 + b"\x01"])
def test_malformed_varints_are_refused(data):
    with pytest.raises(ContentError):
        decode_varint(data)
