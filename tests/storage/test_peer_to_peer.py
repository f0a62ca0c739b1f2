"""From us to one node of real Kubo, and from there to another: the CID stays the same.

Two nodes run on loopback, each in a process of its own.  What we made is given to the first one as
files, as the blocks of a CAR file, or by a `KuboStore`; the second one fetches it over bitswap from
its peer, and knows nothing but the CID.
"""

import importlib.util
import io
import random
import sys
from pathlib import Path

import pytest

from neuronexus_kernel.content import CID
from neuronexus_kernel.settings import StorageSettings
from neuronexus_kernel.storage import LocalStore, car, cid_of
from neuronexus_kernel.storage.kubo import KuboStore
from neuronexus_kernel.storage.outbox import Outbox
from neuronexus_kernel.storage.replicated import ReplicatedStore

_SPEC = importlib.util.spec_from_file_location(
    "loopback_rpc", Path(__file__).with_name("loopback_rpc.py")
)
rpc = sys.modules[_SPEC.name] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(rpc)

PROFILES = ["unixfs-v1-2025", "unixfs-v0-2015"]


@pytest.fixture
def peers(kubo, other_kubo):
    """Two nodes that know each other."""
    other_kubo.connect(kubo)
    return kubo, other_kubo


@pytest.fixture
def local(tmp_path):
    return LocalStore(tmp_path / "local", StorageSettings(fsync="never"))


def tree_in(folder, seed):
    """Make a folder with a file of several chunks, which no node has seen."""
    (folder / "below").mkdir(parents=True)
    (folder / "text").write_text(f"of {seed}")
    (folder / "below" / "big").write_bytes(random.Random(seed).randbytes(2_500_000))
    return folder


@pytest.mark.parametrize("profile", PROFILES)
def test_a_car_file_of_ours_reaches_the_other_peer(peers, local, tmp_path, profile):
    first, second = peers
    cid = local.add(tree_in(tmp_path / "source", f"car {profile}"), profile=profile)
    stream = io.BytesIO()
    local.export_car([cid], stream)
    stream.seek(0)
    _, blocks = car.read_car(stream)
    for one, block in blocks:
        first.put_block(one, block)
    second.download(cid, tmp_path / "target")
    assert cid_of(tmp_path / "target", profile=profile) == cid


def test_files_given_to_kubo_reach_the_other_peer_under_the_cid_that_we_know(peers, tmp_path):
    first, second = peers
    source = tree_in(tmp_path / "source", "files")
    cid = cid_of(source, profile="unixfs-v0-2015")
    assert first.add(source) == str(cid)
    second.download(cid, tmp_path / "target")
    assert cid_of(tmp_path / "target", profile="unixfs-v0-2015") == cid


def test_a_sharded_folder_reaches_the_other_peer(peers, local, tmp_path):
    first, second = peers
    source = tmp_path / "source"
    source.mkdir()
    for number in range(1100):
        (source / f"{number:0250d}").write_text("the same in each")
    cid = local.add(source)
    stream = io.BytesIO()
    local.export_car([cid], stream)
    stream.seek(0)
    for one, block in car.read_car(stream)[1]:
        first.put_block(one, block)
    second.download(cid, tmp_path / "target")
    assert cid_of(tmp_path / "target") == cid


def test_what_is_pushed_from_an_outbox_reaches_the_other_peer(peers, local, tmp_path):
    """Added while the node was down; its RPC is a stand-in, its repository and network are real."""
    first, second = peers
    stand_in = rpc.LoopbackNode(tmp_path / "node")
    keep = stand_in.put

    def put(blocks):
        taken = list(blocks)
        keep(iter(taken))
        for cid, block in taken:
            first.put_block(cid, block)

    stand_in.put = put
    stand_in.start()
    stand_in.stop()
    store = ReplicatedStore(local, KuboStore(stand_in.address), Outbox(tmp_path / "outbox"))
    cid = store.add(tree_in(tmp_path / "source", "outbox"))
    with stand_in:
        assert store.push().done == (cid,)
    second.download(cid, tmp_path / "target")
    assert cid_of(tmp_path / "target") == cid


def test_what_the_other_peer_fetched_is_block_by_block_what_we_made(peers, local, tmp_path):
    first, second = peers
    cid = local.add(random.Random("blocks").randbytes(3_000_000))
    blocks = dict(car.read_car(stream_of(local, cid))[1])
    for one, block in blocks.items():
        first.put_block(one, block)
    second.download(cid, tmp_path / "target")
    assert {one: second.block(one) for one in blocks} == blocks


def stream_of(store, cid: CID) -> io.BytesIO:
    stream = io.BytesIO()
    store.export_car([cid], stream)
    stream.seek(0)
    return stream
