"""The Flower App Bundle (FAB) of the installed package: what a node agrees to run.

Flower sends an app as a zip file and names it by its SHA-256.  Ours holds no code: it names the
apps inside the installed package, and lists the SHA-256 of every source file of that package.
So equal hashes mean equal code on both sides, and a node that refuses other hashes runs nothing
but what is installed beside it.

The zip is written here, byte for byte the same on every machine: nothing is compressed (zlib's
output differs between builds), times and modes are fixed, names are sorted.
Source: https://flower.ai/docs/framework (Flower App Bundle), PKWARE APPNOTE 6.3.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import neuronexus_kernel
from neuronexus_kernel.errors import EvaluationError

APPS = "neuronexus_kernel.federation.deployment.apps"
MANIFEST = "neuronexus.json"

_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_FILE_MODE = 0o100644 << 16

_PYPROJECT = """\
[project]
name = "neuronexus"
version = "{version}"
dependencies = ["flwr=={flower}"]

[tool.flwr.app]
publisher = "neuronexus"

[tool.flwr.app.components]
serverapp = "{apps}:server_app"
clientapp = "{apps}:client_app"

[tool.flwr.app.config]
folder = ""
"""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A FAB.

    Attributes
    ----------
    data
        The zip file.
    sha256
        Its digest, hexadecimal: Flower's name for it.
    """

    data: bytes = field(repr=False)
    sha256: str


def build() -> Bundle:
    """Build the FAB of the package that is installed here.

    Raises
    ------
    EvaluationError
        If the package's files cannot be read.
    """
    from importlib.metadata import version

    files = {
        "pyproject.toml": _PYPROJECT.format(
            version=neuronexus_kernel.__version__, flower=version("flwr"), apps=APPS
        ).encode(),
        MANIFEST: _manifest(_package_folder()),
    }
    data = _zip(files)
    return Bundle(data, hashlib.sha256(data).hexdigest())


def _package_folder() -> Path:
    spec = find_spec("neuronexus_kernel")
    if spec is None or spec.origin is None:
        raise EvaluationError("The installed package has no files to tell its version by.")
    return Path(spec.origin).parent


def _manifest(folder: Path) -> bytes:
    """List the digest of every source file of the package."""
    sources = sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix())
    digests = {
        f"neuronexus_kernel/{path.relative_to(folder).as_posix()}": _digest(path.read_bytes())
        for path in sources
    }
    return json.dumps({"sources": digests}, sort_keys=True, indent=1).encode()


def _zip(files: dict[str, bytes]) -> bytes:
    content = "\n".join(f"{name},{_digest(data)},{len(data) * 8}" for name, data in files.items())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {**files, ".info/CONTENT": content.encode()}.items():
            entry = zipfile.ZipInfo(name, date_time=_EPOCH)
            entry.create_system = _UNIX
            entry.external_attr = _FILE_MODE
            archive.writestr(entry, data)
    return buffer.getvalue()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
