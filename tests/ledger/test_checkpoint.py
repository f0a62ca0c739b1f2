"""The note vectors are those of golang.org/x/mod/sumdb/note, the reference implementation."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from neuronexus_kernel.errors import LedgerError
from neuronexus_kernel.ledger import merkle
from neuronexus_kernel.ledger.checkpoint import (
    Checkpoint,
    CheckpointSigner,
    VerifierKey,
    open_checkpoint,
    open_note,
    sign_note,
)

VERIFIER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
SIGNER = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
PETER = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXg"
    "KvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWL"
    "ox33WWd1RvMc+QQ=\n"
)
NOTE = TEXT + "\n" + PETER
ORIGIN = "hub.example/ledger"


@pytest.fixture
def key():
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def leaves():
    return [merkle.leaf_hash(bytes([number])) for number in range(12)]


def test_the_public_note_is_reproduced_byte_for_byte():
    seed = base64.b64decode(SIGNER.split("+", 4)[4])[1:]
    key = Ed25519PrivateKey.from_private_bytes(seed)
    assert sign_note(TEXT, key, name="PeterNeumann") == NOTE
    assert str(VerifierKey.of(key, "PeterNeumann")) == VERIFIER


def test_a_signed_note_opens_and_signatures_of_strangers_are_ignored():
    peter = VerifierKey.parse(VERIFIER)
    assert open_note(NOTE, peter) == TEXT
    assert open_note(TEXT + "\n" + ENOCH + PETER, peter) == TEXT


@pytest.mark.parametrize(
    "note",
    [
        TEXT,
        TEXT + "\n",
        TEXT + PETER,
        NOTE[:-1],
        NOTE + "\n",
        NOTE.replace("cryptography", "cryptographY"),
        NOTE.replace("— ", "- "),
        NOTE.replace("PeterNeumann", "PeterNewmann"),
        NOTE.replace("x08go", "x08gp"),
        TEXT + "\n" + ENOCH,
        TEXT.replace(" ", "\t") + "\n" + PETER,
        TEXT + "\n" + PETER * 65,
        TEXT + "\n" + PETER + PETER.replace("nAM=", "nAA="),
        TEXT + "\n— PeterNeumann x08g\n",
        TEXT + "\n— PeterNeumann x08go/ZJkuA=\n",
        "",
    ],
)
def test_a_note_that_is_not_truly_signed_stays_shut(note):
    with pytest.raises(LedgerError):
        open_note(note, VerifierKey.parse(VERIFIER))


def test_no_part_of_a_verifier_key_is_a_verifier_key():
    for start in range(len(VERIFIER)):
        for end in range(start + 1, len(VERIFIER) + 1):
            if (start, end) != (0, len(VERIFIER)):
                with pytest.raises(LedgerError):
                    VerifierKey.parse(VERIFIER[start:end])


@pytest.mark.parametrize(
    "text",
    [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        VERIFIER.replace("c74f20a3", "C74F20A3"),
    ],
)
def test_a_verifier_key_of_wrong_length_or_algorithm_is_refused(text):
    with pytest.raises(LedgerError):
        VerifierKey.parse(text)


def test_a_checkpoint_is_written_as_the_specification_shows():
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    checkpoint = Checkpoint.parse(text)
    assert checkpoint.origin == "example.com/behind-the-sofa"
    assert checkpoint.size == 20852163
    assert checkpoint.text == text


ROOT = base64.b64encode(merkle.EMPTY_ROOT).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"{ORIGIN}\n0\n{ROOT}",
        f"{ORIGIN}\n00\n{ROOT}\n",
        f"{ORIGIN}\n-1\n{ROOT}\n",
        f"{ORIGIN}\n+1\n{ROOT}\n",
        f"{ORIGIN}\n1.0\n{ROOT}\n",
        f"{ORIGIN}\n0x1\n{ROOT}\n",
        f"\n0\n{ROOT}\n",
        f"a b\n0\n{ROOT}\n",
        f"{ORIGIN}\n0\n{ROOT[:-1]}\n",
        f"{ORIGIN}\n0\n{ROOT[:-4]}\n",
        f"{ORIGIN}\n0\n{ROOT}\nextension\n",
        f"{ORIGIN}\n0\n{ROOT}\n\n",
    ],
)
def test_a_malformed_checkpoint_is_refused(text):
    with pytest.raises(LedgerError):
        Checkpoint.parse(text)


def test_a_log_signs_as_it_grows_and_anyone_can_verify(key, leaves):
    signer = CheckpointSigner(key, ORIGIN)
    first = signer.sign(5, merkle.root(leaves[:5]))
    proof = merkle.consistency_proof(leaves, 5)
    second = signer.sign(12, merkle.root(leaves), proof=proof)
    again = signer.sign(12, merkle.root(leaves))
    assert again == second
    verifier = VerifierKey.parse(str(signer.verifier))
    assert open_checkpoint(first, verifier).size == 5
    assert open_checkpoint(second, verifier) == signer.last


def test_a_checkpoint_that_contradicts_the_last_one_is_never_signed(key, leaves):
    signer = CheckpointSigner(key, ORIGIN)
    last = signer.sign(8, merkle.root(leaves[:8]))
    forged = [merkle.leaf_hash(b"forged"), *leaves[1:]]
    restarted = CheckpointSigner(key, ORIGIN, last=last)
    for careful in (signer, restarted):
        for size, log in ((12, forged), (8, forged), (5, leaves), (0, leaves)):
            with pytest.raises(LedgerError, match="Refused to sign"):
                careful.sign(
                    size,
                    merkle.root(log[:size]),
                    proof=merkle.consistency_proof(log[:size], min(8, size)),
                )
        with pytest.raises(LedgerError, match="Refused to sign"):
            careful.sign(12, merkle.root(leaves))
        assert careful.last.size == 8


def test_a_signer_does_not_go_on_from_another_log(key, leaves):
    note = CheckpointSigner(key, "other.example/ledger").sign(3, merkle.root(leaves[:3]))
    with pytest.raises(LedgerError):
        CheckpointSigner(key, ORIGIN, last=note)


def test_a_checkpoint_of_one_log_does_not_pass_for_another(key, leaves):
    checkpoint = Checkpoint("other.example/ledger", 3, merkle.root(leaves[:3]))
    note = sign_note(checkpoint.text, key, name=ORIGIN)
    with pytest.raises(LedgerError, match=r"not of hub\.example"):
        open_checkpoint(note, VerifierKey.of(key, ORIGIN))
