"""Content in a researcher's hands: ``wb.storage``.

What is added gets its address here, in the notebook's own process, and what is read is verified
here: the hub is not trusted with either.  A file, a folder, a table, weights or a data set goes in;
bytes, a stream or files come out.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from neuronexus_kernel.content import CID
from neuronexus_kernel.display import bar_of_bytes, frame
from neuronexus_kernel.errors import ForbiddenError, InvalidInputError, NotFoundError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor

    from neuronexus_kernel.datasets import Dataset
    from neuronexus_kernel.hub import Hub, records
    from neuronexus_kernel.hub.records import Sight
    from neuronexus_kernel.storage.interface import BlockReader

    State: TypeAlias = Mapping[str, Tensor | np.ndarray]
    Storable: TypeAlias = str | os.PathLike[str] | bytes | pd.DataFrame | Dataset | State

_COLUMNS = ["name", "number", "kind", "size", "visibility", "owner", "license", "created", "cid"]


class Storage:
    """Content by address, on the hub.

    Parameters
    ----------
    hub
        The hub that keeps it.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    # -- in ---------------------------------------------------------------------------------

    def add(
        self,
        data: Storable,
        *,
        name: str = "",
        kind: str = "",
        license: str = "",
        visibility: Sight = "public",
    ) -> str:
        """Store something and return its CID.

        Parameters
        ----------
        data
            The path of a file or folder, as text or a path; bytes; a DataFrame, which becomes a
            Parquet file; a state dict (tensors or arrays by name), which becomes a safetensors
            file; or a `Dataset`.
        name
            By default the file's or data set's own.  Other content under the same name is a new
            version of it: see `history`.
        kind
            By default what it is: file, folder, table, weights or dataset.
        license
            Under which others may use it, such as ``"CC-BY-4.0"``.
        visibility
            ``"public"``, or ``"project"`` for signed-in accounts only.

        Raises
        ------
        NotFoundError
            If there is nothing at the path.
        InvalidInputError
            If it is something else than these.
        QuotaError
            If it is larger than the hub accepts.
        """
        if visibility == "sealed":
            raise InvalidInputError(
                "Sealed content cannot be read back by anybody; visibility is public or project."
            )
        found = _form(data)
        root = self._hub.put(
            found.data,
            name=name or found.name,
            kind=kind or found.kind,
            visibility=visibility,
            codec="car" if found.cid else "file",
            license=license,
        )
        if found.cid and root.cid != found.cid:
            raise InvalidInputError(f"The hub says {root.cid} where {found.cid} was sent.")
        return root.cid

    # -- out --------------------------------------------------------------------------------

    def get(self, address: str | CID) -> bytes:
        """Return the bytes of a CID, or of a path below it, verified.

        Raises
        ------
        NotFoundError
            If the hub has no such content that you may read.
        """
        if "/" not in str(address):
            return self._hub.get(str(address))
        with self.open(address) as stream:
            return stream.read()

    def open(self, address: str | CID) -> BinaryIO:
        """Return a stream of a file, with ``seek``; what is read is fetched and verified then.

        Parameters
        ----------
        address
            A CID, or a path below one: ``"bafy.../inner/rows.csv"``.
        """
        from neuronexus_kernel.storage import folders, unixfs

        fetch = self._hub.blocks().block
        cid = folders.resolve(fetch, address, follow=True)
        return io.BufferedReader(unixfs.FileReader(fetch, cid), 1 << 20)

    def download(self, address: str | CID, folder: str | os.PathLike[str] = ".") -> Path:
        """Write a file or a folder into a folder on this computer, and return where it is.

        It gets the name under which it was stored, or that at the end of the path.  Nothing that
        exists is overwritten, and a file appears whole or not at all.

        Raises
        ------
        ConflictError
            If there is something of that name already.
        """
        from neuronexus_kernel.storage import exporter, folders

        fetch = self._hub.blocks().block
        cid = folders.resolve(fetch, address, follow=True)
        into = Path(folder).expanduser()
        into.mkdir(parents=True, exist_ok=True)
        name = self._file_name(str(address), cid)
        with bar_of_bytes(f"getting {name}", folders.stat(fetch, cid).total) as told:
            return exporter.download(fetch, cid, into, name=name, progress=told)

    def ls(
        self,
        address: str | CID | None = None,
        *,
        kind: str | None = None,
        name: str | None = None,
        author: str | None = None,
        text: str | None = None,
    ) -> pd.DataFrame:
        """Return what is stored, one row each, newest first; or the entries of a folder.

        Parameters
        ----------
        address
            A folder; without it, all that is stored is searched.
        kind, name, author
            Only what is of this kind, name or author.
        text
            Only that in whose name, kind, author, license or CID it occurs.
        """
        if address is None:
            return _roots_frame(self._hub.roots(kind=kind, name=name, owner=author, text=text))
        from neuronexus_kernel.storage import folders

        fetch = self._hub.blocks().block
        rows = [
            {"name": each.name, "kind": str(each.kind), "size": each.size, "cid": str(each.cid)}
            for each in folders.entries(fetch, folders.resolve(fetch, address, follow=True))
        ]
        return frame(rows, ["name", "kind", "size", "cid"])

    def history(self, name: str, *, author: str | None = None) -> pd.DataFrame:
        """Return the versions that were stored under a name, oldest first.

        Parameters
        ----------
        name
            As given to `add`.
        author
            Whose; by default your own.
        """
        return _roots_frame(self._hub.history(name, owner=author))

    # -- keeping and sharing ----------------------------------------------------------------

    def pin(self, cid: str | CID, *, name: str = "") -> None:
        """Promise to keep content that is on the hub, whoever stored it."""
        self._hub.keep(str(cid), name=name)

    def unpin(self, cid: str | CID) -> None:
        """Take your promise back; what the hub's own records name stays all the same."""
        self._hub.release(str(cid))

    def pins(self) -> pd.DataFrame:
        """Return what you have promised to keep, one row each, oldest first."""
        rows = [
            {"name": each.name, "created": each.created, "cid": each.cid}
            for each in self._hub.keepings()
        ]
        return frame(rows, ["name", "created", "cid"])

    def share(self, address: str | CID) -> str:
        """Return a link at which anybody who reaches the hub can fetch public content.

        The hub is a trustless gateway: a single block comes as it is, anything else as a CAR file,
        which ``neuronexus import`` and every IPFS tool take in and verify.

        Raises
        ------
        NotFoundError
            If the hub has no such content.
        ForbiddenError
            If it is not public.
        """
        text = str(address)
        cid = str(CID.parse(text.partition("/")[0]))
        found = [root.visibility for root in self._hub.roots(text=cid) if root.cid == cid]
        if not found:
            raise NotFoundError(f"There is no content {cid} here that you may read.")
        if "public" not in found:
            raise ForbiddenError(f"{cid} is for signed-in accounts only, so it has no public link.")
        blocks = self._hub.blocks()
        whole = "raw" if _is_one_block(blocks, text) else "car"
        return f"{self._hub.address}/ipfs/{text}?format={whole}"

    def _file_name(self, address: str, cid: CID) -> str:
        """Return what a download is called."""
        _, slash, path = address.partition("/")
        if slash and path.strip("/"):
            return path.rstrip("/").rpartition("/")[2]
        known = [root.name for root in self._hub.roots(text=str(cid)) if root.cid == str(cid)]
        safe = Path(known[0]).name if known else ""
        return safe if safe not in ("", ".", "..") else str(cid)


class _Form:
    """What is sent to the hub: a file's bytes, or a CAR file and the root that it has."""

    def __init__(self, kind: str, data: bytes, name: str = "", cid: str = "") -> None:
        self.kind, self.data, self.name, self.cid = kind, data, name, cid


def _form(data: Storable) -> _Form:
    """Return what is to be stored, as bytes."""
    if isinstance(data, bytes):
        return _Form("file", data)
    if isinstance(data, (str, os.PathLike)):
        return _of_path(Path(data).expanduser())
    if isinstance(data, Mapping):
        from neuronexus_kernel.models.weights import serialize

        return _Form("weights", serialize({name: _array(each) for name, each in data.items()}))
    from neuronexus_kernel.datasets import Dataset

    if isinstance(data, Dataset):
        return _Form("dataset", data.encode(), data.name)
    import pandas as pd

    if isinstance(data, pd.DataFrame):
        return _Form("table", _parquet(data))
    raise InvalidInputError(
        "The storage takes a path, bytes, a DataFrame, a state dict or a Dataset, not a "
        f"{type(data).__name__}."
    )


def _of_path(path: Path) -> _Form:
    if path.is_file():
        return _Form("file", path.read_bytes(), path.name)
    if not path.is_dir():
        raise NotFoundError(f"There is no file or folder {path}.")
    from neuronexus_kernel.storage.car import encode_car
    from neuronexus_kernel.storage.importer import add_tree

    blocks: dict[CID, bytes] = {}

    def put(block_cid: CID, block: bytes | memoryview) -> None:
        blocks.setdefault(block_cid, bytes(block))

    total = sum(each.lstat().st_size for each in path.rglob("*") if not each.is_dir())
    with bar_of_bytes(f"adding {path.name}", total) as told:
        cid = add_tree(path, put, progress=told)
    car = b"".join(encode_car([cid], reversed(blocks.items())))
    return _Form("folder", car, path.resolve().name, str(cid))


def _array(value: Tensor | np.ndarray) -> np.ndarray:
    import numpy as np

    detach = getattr(value, "detach", None)
    return np.asarray(value if detach is None else detach().cpu().numpy())


def _parquet(table: pd.DataFrame) -> bytes:
    """Return a table as a Parquet file, its index left out unless it says something."""
    import duckdb
    import pandas as pd

    columns = table if isinstance(table.index, pd.RangeIndex) else table.reset_index()
    if not len(columns.columns):
        raise InvalidInputError("The table has no columns.")
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as connection:
        path = Path(folder) / "table.parquet"
        connection.from_df(columns).write_parquet(str(path))
        return path.read_bytes()


def _is_one_block(blocks: BlockReader, address: str) -> bool:
    from neuronexus_kernel.storage import dag, folders

    cid = folders.resolve(blocks.block, address)
    return not dag.links_of(cid, blocks.block(cid))


def _roots_frame(roots: list[records.Root]) -> pd.DataFrame:
    return frame([{name: getattr(root, name) for name in _COLUMNS} for root in roots], _COLUMNS)
