"""Public vectors of transparency-dev/merkle (testonly/constants.go, proof/verify_test.go)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.errors import LedgerError
from neuronexus_kernel.ledger import merkle

INPUTS = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    bytes.fromhex(text)
    for text in (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    )
]
A = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
B = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
C = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
D = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
E = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
F = "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"
G = "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
H = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
I = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"  # noqa: E741
J = "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f"
INCLUSION = [(0, 8, [A, B, C]), (5, 8, [D, E, F]), (2, 3, [G]), (1, 5, [H, B, D])]
CONSISTENCY = [
    (1, 1, []),
    (1, 8, [A, B, C]),
    (6, 8, [I, E, F]),
    (2, 5, [B, D]),
    (6, 7, [I, J, F]),
]
LEAVES = [merkle.leaf_hash(data) for data in INPUTS]
SOME_HASH = bytes.fromhex("abacaba000000000000000000000000000000000000000000060061e00123456")


def unhex(proof):
    return [bytes.fromhex(text) for text in proof]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_the_public_vectors(size):
    assert merkle.root(LEAVES[:size]) == ROOTS[size]


@pytest.mark.parametrize(("index", "size", "proof"), INCLUSION)
def test_inclusion_proofs_are_those_of_the_public_vectors(index, size, proof):
    assert merkle.inclusion_proof(LEAVES[:size], index) == unhex(proof)
    assert merkle.verify_inclusion(
        unhex(proof), LEAVES[index], index=index, size=size, root=ROOTS[size]
    )


@pytest.mark.parametrize(("first", "second", "proof"), CONSISTENCY)
def test_consistency_proofs_are_those_of_the_public_vectors(first, second, proof):
    assert merkle.consistency_proof(LEAVES[:second], first) == unhex(proof)
    assert merkle.verify_consistency(
        unhex(proof),
        first=first,
        first_root=ROOTS[first],
        second=second,
        second_root=ROOTS[second],
    )


def spoiled(proof, *extra):
    """Every way in which the public tests spoil a proof."""
    yield [*proof, b""]
    yield [b"", *proof]
    for value in extra:
        yield [*proof, value]
        yield [value, *proof]
    if proof:
        yield proof[:-1]
        yield proof[1:]
        yield [proof[0], SOME_HASH, *proof[1:]]
    for at, value in enumerate(proof):
        yield [*proof[:at], bytes([value[0] ^ 8]) + value[1:], *proof[at + 1 :]]


@pytest.mark.parametrize(("index", "size", "proof"), INCLUSION)
def test_a_spoiled_inclusion_proof_proves_nothing(index, size, proof):
    proof, leaf, root = unhex(proof), LEAVES[index], ROOTS[size]
    for bad in spoiled(proof, root):
        assert not merkle.verify_inclusion(bad, leaf, index=index, size=size, root=root)
    shifted = [(index - 1, size), (index + 1, size), (index ^ 2, size)]
    resized = [(index, size * 2), (index, size // 2), (index, 0)]
    for at, of in shifted + resized:
        assert not merkle.verify_inclusion(proof, leaf, index=at, size=of, root=root)
    for wrong_leaf, wrong_root in [(b"leaf", root), (SOME_HASH, root), (leaf, SOME_HASH)]:
        assert not merkle.verify_inclusion(
            proof, wrong_leaf, index=index, size=size, root=wrong_root
        )


@pytest.mark.parametrize(("first", "second", "proof"), CONSISTENCY[1:])
def test_a_spoiled_consistency_proof_proves_nothing(first, second, proof):
    proof, old, new = unhex(proof), ROOTS[first], ROOTS[second]

    def holds(proof, first=first, second=second, old=old, new=new):
        return merkle.verify_consistency(
            proof, first=first, first_root=old, second=second, second_root=new
        )

    for bad in [*spoiled(proof, old, new, proof[0]), []]:
        assert not holds(bad)
    for size in (first - 1, first + 1, first ^ 2, second + 1):
        assert not holds(proof, first=size)
    assert not holds(proof, second=second * 2)
    assert not holds(proof, second=second // 2)
    assert not holds(proof, old=new, new=old)
    assert not holds(proof, old=b"root")
    assert not holds(proof, new=SOME_HASH)


def test_the_empty_log_is_the_beginning_of_every_log_and_only_of_those():
    empty = merkle.EMPTY_ROOT
    for old, new, proof, expected in [
        (empty, ROOTS[3], [], True),
        (SOME_HASH, ROOTS[3], [], False),
        (empty, ROOTS[3], [SOME_HASH], False),
    ]:
        held = merkle.verify_consistency(proof, first=0, first_root=old, second=3, second_root=new)
        assert held is expected


def test_equal_sizes_with_different_roots_are_two_histories():
    assert not merkle.verify_consistency(
        [], first=3, first_root=ROOTS[3], second=3, second_root=ROOTS[4]
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 130), st.data())
def test_proofs_verify_at_every_size(size, data):
    leaves = [merkle.leaf_hash(str(i).encode()) for i in range(size)]
    root = merkle.root(leaves)
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(leaves, index)
    assert merkle.verify_inclusion(proof, leaves[index], index=index, size=size, root=root)
    assert len(proof) <= (size - 1).bit_length()
    first = data.draw(st.integers(0, size))
    assert merkle.verify_consistency(
        merkle.consistency_proof(leaves, first),
        first=first,
        first_root=merkle.root(leaves[:first]),
        second=size,
        second_root=root,
    )


def test_a_writer_goes_on_from_a_stored_frontier():
    frontier = merkle.Frontier.of(LEAVES[:5])
    again = merkle.Frontier(frontier.size, frontier.hashes)
    copied = frontier.copy()
    copied.append(LEAVES[5])
    for leaf in LEAVES[5:]:
        again.append(leaf)
    assert (frontier.size, frontier.root()) == (5, ROOTS[5])
    assert (copied.size, copied.root()) == (6, ROOTS[6])
    assert (again.size, again.root()) == (8, ROOTS[8])


@pytest.mark.parametrize(("size", "count"), [(5, 1), (0, 1), (-1, 0), (4, 2)])
def test_a_frontier_that_fits_no_tree_is_refused(size, count):
    with pytest.raises(LedgerError):
        merkle.Frontier(size, [SOME_HASH] * count)


def test_proofs_for_what_was_never_there_are_refused():
    with pytest.raises(LedgerError):
        merkle.inclusion_proof(LEAVES, 8)
    with pytest.raises(LedgerError):
        merkle.consistency_proof(LEAVES, 9)
    with pytest.raises(LedgerError):
        merkle.Frontier().append(b"short")
