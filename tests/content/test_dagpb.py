import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.content import CID, dagpb
from neuronexus_kernel.content.cid import DAG_PB
from neuronexus_kernel.content.dagpb import Link, PBNode
from neuronexus_kernel.errors import ContentError

# Block and CID, from the public conformance vectors https://github.com/ipld/codec-fixtures.
VECTORS = [
    ("", "bafybeihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
    ("0a00", "bafybeiaqfni3s5s2k2r6rgpxz4hohdsskh44ka5tk6ztbjerqpvxwfkwaq"),
    ("0a050001020304", "bafybeibazl2z4vqp2tmwcfag6wirmtpnomxknqcgrauj7m2yisrz3qjbom"),
    (
        "12240a2212207521fe19c374a97759226dc5c0c8e674e73950e81b211f7dd3b6b30883a08a51",
        "bafybeihyivpglm6o6wrafbe36fp5l67abmewk7i2eob5wacdbhz7as5obe",
    ),
    (
        "120b0a09015500050001020304",
        "bafybeia53f5n75ituvc3yupuf7tdnxf6fqetrmo2alc6g6iljkmk7ys5mm",
    ),
    (
        "12160a090155000500010203041209736f6d65206e616d65",
        "bafybeifq4hcxma3kjljrpxtunnljtc6tvbkgsy3vldyfpfbx2lij76niyu",
    ),
    (
        "120d0a090155000500010203041200",
        "bafybeie7fstnkm4yshfwnmpp7d3mlh4f4okmk7a54d6c3ffr755q7qzk44",
    ),
    (
        "12140a0901550005000102030418ffffffffffffff0f",
        "bafybeiezymjvhwfuharanxmzxwuomzjjuzqjewjolr4phaiyp6l7qfwo64",
    ),
    (
        "120b0a0901550005000102030412100a09015500050001020304120362617212100a0901550005000102030412"
        "03666f6f",
        "bafybeiahfgovhod2uvww72vwdgatl5r6qkoeegg7at2bghiokupfphqcku",
    ),
]

LINKS = st.builds(
    Link,
    st.builds(CID, st.sampled_from([0x55, 0x70]), st.binary(min_size=32, max_size=32)),
    st.none() | st.integers(0, 2**63 - 1),
    st.none() | st.text(max_size=10),
)
NODES = st.builds(
    PBNode, st.lists(LINKS, max_size=4).map(tuple), st.none() | st.binary(max_size=20)
)


@pytest.mark.parametrize(("block", "cid"), VECTORS)
def test_the_public_vectors_are_read_and_written(block, cid):
    data = bytes.fromhex(block)
    assert dagpb.encode(dagpb.decode(data)) == data
    assert str(CID.of(data, DAG_PB)) == cid


@settings(deadline=None)
@given(NODES)
def test_a_node_comes_back(node):
    assert dagpb.decode(dagpb.encode(node)) == node


@settings(deadline=None)
@given(NODES, st.data())
def test_a_changed_byte_is_refused_or_is_another_node(node, data):
    block = bytearray(dagpb.encode(node) or b"\0")
    at = data.draw(st.integers(0, len(block) - 1))
    block[at] ^= data.draw(st.integers(1, 255))
    try:
        other = dagpb.decode(bytes(block))
    except ContentError:
        return
    assert dagpb.encode(other) == block


LINK = "0a09015500050001020304"
MALFORMED = {
    "link with no hash": "1200",
    "data and link with no hash": "12000a050001020304",
    "link with empty hash": "12020a00",
    "link with just an empty name": "12021200",
    "link with just a name": "120b1209736f6d65206e616d65",
    "link with just a size": "120318f207",
    "data between links": (
        "12240a221220cf92fdefcdc34cac009c8b05eb662be0618db9de55ecd42785e9ec6712f8df650a0408021806"
        "12240a221220cf92fdefcdc34cac009c8b05eb662be0618db9de55ecd42785e9ec6712f8df65"
    ),
    "data before links": "0a0100120b" + LINK,
    "data twice": "0a01000a0100",
    "name before hash": "120d1200" + LINK,
    "size before name": "120f" + LINK + "18001200",
    "name twice": "120f" + LINK + "12001200",
    "hash twice": "1216" + LINK + LINK,
    "unknown field in a link": "120d" + LINK + "2000",
    "unknown field": "1a00",
    "wrong wire type": "0801",
    "long length": "0a81000000",
    "long size": "120e" + LINK + "188000",
    "size of ten bytes": "1216" + LINK + "18ffffffffffffffffff01",
    "name not UTF-8": "120e" + LINK + "1201ff",
    "bytes behind the CID": "120c0a0a01550005000102030400",
    "link cut off": "120b0a0901550005",
    "data cut off": "0a050001",
    "length cut off": "0aff",
    "length of 2^62": "0affffffffffffffff3f",
    "tag alone": "12",
}


@pytest.mark.parametrize("block", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_blocks_are_refused(block):
    with pytest.raises(ContentError):
        dagpb.decode(bytes.fromhex(block))
