"""The public vectors of IPIP-499, for both profiles, and those of the UnixFS specification.

The inputs are those of Kubo's test/cli/cid_profiles_test.go and of js-ipfs-unixfs: files are the
ChaCha20 stream under the SHA-256 of a seed, and folders have as many files of one byte, named with
characters that such a stream picks, as make them just large enough, or one byte too large.
"""

import hashlib

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from neuronexus_kernel.content import dagpb, unixfs
from neuronexus_kernel.content.directory import build_folder, symlink
from neuronexus_kernel.content.unixfs import (
    DIRECTORY_TYPE,
    SHARD_TYPE,
    V0,
    V1,
    build,
    build_file,
    build_leaf,
    chunks_of,
    decode_message,
)

KIB, MIB = 1024, 1024 * 1024
LETTERS = "abcdefghijklmnopqrstuvwxyz01234567890-_"


def stream_of(seed):
    key = hashlib.sha256(seed.encode()).digest()
    return Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor()


def chunks(size, seed, step):
    stream = stream_of(seed)
    while size:
        count = min(size, step)
        yield stream.update(bytes(count))
        size -= count


FILES = [
    (V0, 256 * KIB, "chunk-v0-seed", "QmWmRj3dFDZdb6ABvbmKhEL6TmPbAfBZ1t5BxsEyJrcZhE"),
    (V0, 256 * KIB + 1, "chunk-v0-seed", "QmYyLxtzZyW22zpoVAtKANLRHpDjZtNeDjQdJrcQNWoRkJ"),
    (V0, 174 * 256 * KIB, "v0-seed", "QmUbBALi174SnogsUzLpYbD4xPiBSFANF4iztWCsHbMKh2"),
    (V0, 174 * 256 * KIB + 1, "v0-seed", "QmV81WL765sC8DXsRhE5fJv2rwhS4icHRaf3J9Zk5FdRnW"),
    (V1, MIB, "chunk-v1-seed", "bafkreiacndfy443ter6qr2tmbbdhadvxxheowwf75s6zehscklu6ezxmta"),
    (V1, MIB + 1, "chunk-v1-seed", "bafybeigmix7t42i6jacydtquhet7srwvgpizfg7gjbq7627d35mjomtu64"),
]


@pytest.mark.parametrize(("profile", "size", "seed", "cid"), FILES)
def test_files_have_the_cids_of_the_vectors(profile, size, seed, cid):
    assert str(build(chunks(size, seed, profile.chunk), None, profile)) == cid


def test_files_of_as_many_chunks_as_a_node_has_links_and_of_one_more():
    """The larger file of the profile v1 contains the smaller one: one pass looks at both."""
    blocks = {}

    def put(cid, block):
        if len(block) < MIB:
            blocks[cid] = bytes(block)

    root = build(chunks(1024 * MIB + 1, "v1-2025-seed", MIB), put, V1)
    assert str(root) == "bafybeibdsi225ugbkmpbdohnxioyab6jsqrmkts3twhpvfnzp77xtzpyhe"
    first, rest = dagpb.decode(blocks[root]).links
    assert str(first.cid) == "bafybeihmf37wcuvtx4hpu7he5zl5qaf2ineo2lqlfrapokkm5zzw7zyhvm"
    assert len(dagpb.decode(blocks[rest.cid]).links) == 1


FOLDERS = [
    (V0, 4096, 30, 30, "QmX5GtRk3TSSEHtdrykgqm4eqMEn3n2XhfkFAis5fjyZmN"),
    (V0, 4033, 31, 31, "QmeMiJzmhpJAUgynAcxTQYek5PPKgdv3qEvFsdV3XpVnvP"),
    (V1, 4766, 11, 21, "bafybeic3h7rwruealwxkacabdy45jivq2crwz6bufb5ljwupn36gicplx4"),
    (V1, 4766, 11, 22, "bafybeiegvuterwurhdtkikfhbxcldohmxp566vpjdofhzmnhv6o4freidu"),
]


def names(count, length, last, seed):
    letters = iter(stream_of(seed).update(bytes(MIB)))
    for number in range(count):
        size = last if number == count - 1 else length
        yield "".join(LETTERS[next(letters) % len(LETTERS)] for _ in range(size))


@pytest.mark.parametrize(("profile", "count", "length", "last", "cid"), FOLDERS)
def test_folders_at_the_threshold_have_the_cids_of_the_vectors(profile, count, length, last, cid):
    file = build_leaf(b"x", None, profile)
    kept = {}
    built = build_folder(
        [file.link(name) for name in names(count, length, last, f"hamt-{profile.name}")],
        lambda cid, block: kept.update({cid: bytes(block)}),
        profile,
    )
    assert str(built.cid) == cid
    is_sharded = (length, last) in ((31, 31), (11, 22))
    message = decode_message(dagpb.decode(kept[built.cid]).data)
    assert message.kind == (SHARD_TYPE if is_sharded else DIRECTORY_TYPE)


@pytest.mark.parametrize(
    ("profile", "data", "cid"),
    [
        (V0, b"hello world", "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD"),
        (V1, b"hello world", "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"),
        (V1, b"hello world\n", "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4"),
        (V0, b"", "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"),
        (V1, b"", "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
    ],
)
def test_small_files(profile, data, cid):
    assert str(build(chunks_of(data, profile.chunk), None, profile)) == cid


def test_empty_folders():
    assert str(build_folder([], None, V0).cid) == "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"
    assert str(build_folder([], None, V1).cid) == (
        "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"
    )


def test_symlinks():
    """The folder of gateway-conformance's symlink.car."""
    link = symlink(b"foo", None, V0)
    assert str(link.cid) == "QmTB8BaCJdCH5H3k7GrxJsxgDNmNYGGR71C58ERkivXoj5"
    assert (link.size, link.total) == (3, 9)
    file = build_file([b"content\n"], None, V0)
    assert str(file.cid) == "Qme2y5HA5kvo2jAx13UsnV5bQJVijiAJCPvaW3JGQWhvJZ"
    folder = build_folder([file.link("foo"), link.link("bar")], None, V0)
    assert str(folder.cid) == "QmWvY6FaqFMS89YAQ9NAPjVP4WZKA1qbHbicc9HeSKQTgt"


def test_a_folder_of_small_and_large_files():
    """The folder of gateway-conformance's subdir-with-mixed-block-files.car, from its CIDs."""
    ascii_file = build_leaf(b"hello application/vnd.ipld.car\n")
    hello = build_leaf(b"hello world\n")
    assert (ascii_file.total, hello.total) == (31, 12)
    assert str(ascii_file.cid) == "bafkreifkam6ns4aoolg3wedr4uzrs3kvq66p4pecirz6y2vlrngla62mxm"
    many = unixfs.Built(
        unixfs.CID.parse("bafybeigcisqd7m5nf3qmuvjdbakl5bdnh4ocrmacaqkpuh77qjvggmt2sa"), 1026, 1271
    )
    inner = build_folder(
        [ascii_file.link("ascii.txt"), hello.link("hello.txt"), many.link("multiblock.txt")]
    )
    assert str(inner.cid) == "bafybeicnmple4ehlz3ostv2sbojz3zhh5q7tz5r2qkfdpqfilgggeen7xm"
    outer = build_folder([inner.link("subdir")])
    assert str(outer.cid) == "bafybeidh6k2vzukelqtrjsmd4p52cpmltd2ufqrdtdg6yigi73in672fwu"
