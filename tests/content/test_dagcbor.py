import math

import dag_cbor
import multiformats
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.content import CID, dagcbor
from neuronexus_kernel.content.cid import DAG_CBOR
from neuronexus_kernel.errors import ContentError

# Block and CID, from the public conformance vectors https://github.com/ipld/codec-fixtures.
VECTORS = [
    ("f4", "bafyreibac77tiyjzkzzkucve6zejj7jpswslcihcnehisulfnv423qxo2i"),
    ("f5", "bafyreibhvppn37ufanewvxvwendgzksh3jpwhk6sxrx2dh3m7s3t5t7noa"),
    ("f6", "bafyreifqwkmiw256ojf2zws6tzjeonw6bpd5vza4i22ccpcq4hjv2ts7cm"),
    ("60", "bafyreiengp2sbi6ez34a2jctv34bwyjl7yoliteleaswgcwtqzrhmpyt2m"),
    ("6161", "bafyreiewdnw5h3pdzohmxkwl22g6aqgnpdvs5vmiseymz22mjeti5jgvay"),
    ("41a1", "bafyreidfn5bivgcww7slkgp7f5iiukoggxr542m4pzl3zn3oia7ozt7ffe"),
    ("80", "bafyreidwx2fvfdiaox32v2mnn6sxu3j4qoxeqcuenhtgrv5qv6litfnmoe"),
    ("a0", "bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua"),
    ("38ff", "bafyreigdjo5suzljxlmtuj4eoohou6vadwznc4kkdfd4xsarc5sycz76oy"),
    ("19ffff", "bafyreicft66te6utk6chakwkgyqxirmsh6dzjyi34c4kf2pzwpvjxaaose"),
    ("1bffffffffffffffff", "bafyreibnpsyje7iwfx3smzlnofkxqdyeqz3a4qzhwu33ktibq7sxeckrpq"),
    ("3ba5f702b3a5f702b3", "bafyreieir43khjzemsmgahaozab2vjvtdxavszixhhurvdqg2xkhrwinyi"),
    ("fbbff199999999999a", "bafyreibn43uo5yygsnzbdj6eey2mrcrmavhxgkzvgnmarkt3mo2efr4cfy"),
    ("fb0000000000000002", "bafyreib6bigeneyagim45hjjzzn3ggyuthejspqqccplri2pmmek5bz2uq"),
    (
        "8c1b0016db6db6db6db71a000100001901f40200202238ff3aa5f702b33b0016db6db6db6db74261316fc48c"
        "6175657320c39f76c49b746521",
        "bafyreidufmzzejc3p7gmh6ivp4fjvca5jfazk57nu6vdkvki4c4vpja724",
    ),
    (
        "a9616601626565026364646403646363636304656262626262056661616161616106666161616161620766616"
        "161616163086661616161626209",
        "bafyreifzcy56s5jog3scrc7c3rlaohrwu3recxgf5c7fddfjlnlhh6p6p4",
    ),
    (
        "d82a582300122031c3d57080d8463a3c63b2923df5a1d40ad7a73eae5a14af584213e5f504ac33",
        "bafyreidfkreyekhbpfbbau3o4aakvxk6ninfo7baileo7ezgjiunk66er4",
    ),
    (
        "d82a4a00015500050001020304",
        "bafyreihm764rs4lirtozq4d5d4pqext5b5akh6val7cyphu4aglvpha3xm",
    ),
]

LINKS = st.builds(CID, st.sampled_from([0x55, 0x70, 0x71]), st.binary(min_size=32, max_size=32))
NODES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | LINKS,
    lambda nodes: (
        st.lists(nodes, max_size=5) | st.dictionaries(st.text(max_size=8), nodes, max_size=5)
    ),
    max_leaves=15,
)


def for_library(node):
    """The same document with the links of the `multiformats` library."""
    if isinstance(node, CID):
        return multiformats.CID.decode(bytes(node))
    if isinstance(node, list):
        return [for_library(item) for item in node]
    if isinstance(node, dict):
        return {key: for_library(value) for key, value in node.items()}
    return node


@pytest.mark.parametrize(("block", "cid"), VECTORS)
def test_the_public_vectors_are_read_and_written(block, cid):
    data = bytes.fromhex(block)
    node = dagcbor.decode(data)
    assert dagcbor.encode(node) == data
    assert str(dagcbor.cid_of(node)) == cid


@settings(deadline=None)
@given(NODES)
def test_a_document_comes_back(node):
    assert dagcbor.decode(dagcbor.encode(node)) == node


@settings(max_examples=60, deadline=None)
@given(NODES)
def test_the_dag_cbor_library_writes_the_same_bytes(node):
    data = dagcbor.encode(node)
    assert dag_cbor.encode(for_library(node)) == data
    assert dag_cbor.decode(data) == for_library(node)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_refused_or_are_exactly_one_document(data):
    try:
        node = dagcbor.decode(data)
    except ContentError:
        return
    assert dagcbor.encode(node) == data


@settings(max_examples=200, deadline=None)
@given(NODES, st.data())
def test_a_changed_byte_is_refused_or_is_another_document(node, data):
    block = bytearray(dagcbor.encode(node))
    at = data.draw(st.integers(0, len(block) - 1))
    block[at] ^= data.draw(st.integers(1, 255))
    try:
        other = dagcbor.decode(bytes(block))
    except ContentError:
        return
    assert dagcbor.encode(other) == block


@settings(deadline=None)
@given(NODES, st.data())
def test_a_document_that_is_cut_off_is_refused(node, data):
    block = dagcbor.encode(node)
    with pytest.raises(ContentError):
        dagcbor.decode(block[: data.draw(st.integers(0, len(block) - 1))])


MALFORMED = {
    "nothing": "",
    "two documents": "f6f6",
    "long form of 1": "1801",
    "16-bit form of 255": "1900ff",
    "32-bit form of 65535": "1a0000ffff",
    "64-bit form of 2^32-1": "1b00000000ffffffff",
    "long form of -1": "3800",
    "long length of bytes": "580161",
    "long length of text": "780161",
    "long length of a list": "9800",
    "long length of a map": "b800",
    "long form of a tag": "d9002a5825000155122000",
    "half float": "f93c00",
    "single float": "fa3f800000",
    "NaN": "fb7ff8000000000000",
    "another NaN": "fb7ff8000000000001",
    "infinity": "fb7ff0000000000000",
    "minus infinity": "fbfff0000000000000",
    "undefined": "f7",
    "simple value 0": "e0",
    "simple value 255": "f8ff",
    "false in two bytes": "f814",
    "break": "ff",
    "indefinite bytes": "5f4161ff",
    "indefinite text": "7f6161ff",
    "indefinite list": "9f01ff",
    "indefinite map": "bf616101ff",
    "reserved head": "1c",
    "keys not sorted": "a2616202616101",
    "longer key first": "a262616101616202",
    "double key": "a2616101616102",
    "double key of the public vectors": "a3636261720363666f6f0163666f6f02",
    "number as key": "a10101",
    "bytes as key": "a1416101",
    "text that is not UTF-8": "61ff",
    "surrogate in text": "63eda080",
    "tag 1": "c101",
    "tag 43": "d82b4100",
    "link to text": "d82a6100",
    "link without its zero": "d82a412a",
    "empty link": "d82a40",
    "link of only a zero": "d82a4100",
    "link with bytes behind it": "d82a5826000155122000" + "00" * 31 + "0000",
    "link cut off": "d82a5825000155",
    "list of 2^64-1 items": "9bffffffffffffffff",
    "map of 2^64-1 items": "bbffffffffffffffff",
    "bytes of 2^64-1": "5bffffffffffffffff",
    "text of 2^64-1": "7bffffffffffffffff",
    "nested too deeply": "81" * 200 + "80",
    "maps nested too deeply": "a16161" * 200 + "a0",
    "tags upon tags": "d82a" * 100 + "4100",
}


@pytest.mark.parametrize("block", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_blocks_are_refused(block):
    with pytest.raises(ContentError):
        dagcbor.decode(bytes.fromhex(block))


@pytest.mark.parametrize(
    ("node", "path"),
    [
        ({"a": [1, math.nan]}, r"a\[1\]"),
        ({"a": {"b": math.inf}}, r"a\.b"),
        ([2**64], r"\[0\]"),
        ({"n": -(2**64) - 1}, "n"),
        ({"s": {1, 2}}, "s"),
        ({"t": "\ud800"}, "t"),
        ({"\ud800": 1}, "key"),
        ({"m": {1: 2}}, "m"),
        (object(), "document"),
        (np.int64(1), "document"),
    ],
)
def test_what_has_no_form_is_refused_and_its_place_named(node, path):
    with pytest.raises(ContentError, match=path):
        dagcbor.encode(node)


def test_a_document_that_holds_itself_is_refused():
    node = []
    node.append(node)
    with pytest.raises(ContentError, match="nested deeper"):
        dagcbor.encode(node)


def test_the_deepest_document_allowed_comes_back():
    node = []
    for _ in range(dagcbor.MAX_DEPTH):
        node = [node]
    assert dagcbor.decode(dagcbor.encode(node)) == node
    with pytest.raises(ContentError):
        dagcbor.encode([node])


def test_views_of_wider_numbers_are_kept_as_their_bytes():
    numbers = np.array([1, 2], dtype="<i4")
    assert dagcbor.decode(dagcbor.encode(numbers.data)) == numbers.tobytes()


def test_the_order_of_keys_does_not_change_the_cid():
    assert dagcbor.cid_of({"bb": 1, "a": 2}) == dagcbor.cid_of({"a": 2, "bb": 1})
    assert dagcbor.cid_of({}).codec == DAG_CBOR
