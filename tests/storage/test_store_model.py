"""A store against a model: whatever is done in whatever order, promises are kept."""

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from neuronexus_kernel.settings import StorageSettings
from neuronexus_kernel.storage import LocalStore

CHUNK = 256 * 1024  # of the older profile, whose leaves and roots are blocks with links
PIECES = [bytes([number]) * CHUNK for number in range(3)]
NAMES = st.sampled_from(["", "a", "b"])
CHOICES = st.lists(st.integers(0, 2), max_size=3)


class StoreMachine(RuleBasedStateMachine):
    """Adds, pins, unpins, reads and collects, and keeps in mind what must be there."""

    roots = Bundle("roots")

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = LocalStore(Path(self.folder.name), StorageSettings(fsync="never"))
        self.contents = {}  # bytes of a file, or the CIDs that a document names, by CID
        self.pins = {}  # whether all below is kept, by CID and name
        self.streams = []
        self.parted = set()  # roots that were kept alone, so that what is below may be gone

    def teardown(self):
        for _, stream in self.streams:
            stream.close()
        self.folder.cleanup()

    def needed(self):
        """What pins promise, all below it included."""
        todo = [cid for (cid, _), recursive in self.pins.items() if recursive]
        found = set()
        while todo:
            cid = todo.pop()
            if cid not in found:
                found.add(cid)
                if isinstance(self.contents[cid], list):
                    todo.extend(self.contents[cid])
        return found

    def is_whole(self, cid):
        """Whether a root that is here has all below it, too."""
        content = self.contents[cid]
        below = content if isinstance(content, list) else []
        return cid not in self.parted and all(map(self.is_whole, below))

    @rule(target=roots, chosen=CHOICES, name=NAMES, pin=st.booleans())
    def add(self, chosen, name, pin):
        data = b"".join(PIECES[number] for number in chosen)
        cid = self.store.add(data, profile="unixfs-v0-2015", name=name, pin=pin)
        self.contents[cid] = data
        self.parted.discard(cid)
        if pin:
            self.pins[cid, name] = True
        return cid

    @rule(target=roots, below=st.lists(roots, max_size=3), salt=st.integers(0, 3))
    def put_node(self, below, salt):
        kept = [cid for cid in below if self.store.has(cid) and self.is_whole(cid)]
        cid = self.store.put_node({"below": kept, "salt": salt})
        self.contents[cid] = kept
        self.parted.discard(cid)
        self.pins[cid, ""] = True
        return cid

    @rule(cid=roots, name=NAMES, recursive=st.booleans())
    def pin(self, cid, name, recursive):
        if self.store.has(cid) and self.is_whole(cid):
            self.store.pin(cid, name=name, recursive=recursive)
            self.pins[cid, name] = recursive or self.pins.get((cid, name), False)

    @rule(cid=roots)
    def unpin(self, cid):
        names = [name for pinned, name in self.pins if pinned == cid]
        if names:
            self.store.unpin(cid, name=names[0])
            del self.pins[cid, names[0]]

    @rule(cid=roots)
    def open(self, cid):
        if cid in self.needed() and isinstance(self.contents[cid], bytes):
            self.streams.append((cid, self.store.open(cid)))

    @rule()
    def close(self):
        if self.streams:
            cid, stream = self.streams.pop(0)
            assert stream.read() == self.contents[cid]
            stream.close()

    @rule()
    def open_the_store_again(self):
        self.store = LocalStore(self.store.root, StorageSettings(fsync="never"))

    @rule()
    def collect(self):
        before = self.store.collect(dry_run=True)
        after = self.store.collect()
        assert (before.removed, before.freed, before.kept) == (
            after.removed,
            after.freed,
            after.kept,
        )
        assert self.store.collect().removed == 0
        reading = {cid for cid, _ in self.streams}
        self.parted |= {cid for cid, _ in self.pins} - self.needed() - reading
        promised = self.needed() | {cid for cid, _ in self.pins}
        for cid in self.contents:
            if cid not in promised | reading:
                # Of what nobody needs only those remain that are a part of what is needed.
                assert not self.store.has(cid) or isinstance(self.contents[cid], bytes)

    @invariant()
    def all_that_is_promised_is_there(self):
        for cid in self.needed():
            content = self.contents[cid]
            if isinstance(content, bytes):
                assert self.store.get(cid) == content
            else:
                assert self.store.get_node(cid)["below"] == content
        found = {(pin.cid, pin.name): pin.recursive for pin in self.store.pins()}
        assert found == self.pins

    @invariant()
    def the_count_is_right(self):
        sizes = [path.stat().st_size for path in self.store.root.glob("blocks/*/*")]
        usage = self.store.usage()
        assert (usage.bytes, usage.blocks) == (sum(sizes), len(sizes))


StoreMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
test_a_store_keeps_its_promises = StoreMachine.TestCase
