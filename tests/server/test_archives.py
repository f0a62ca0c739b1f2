"""Archives of projects over HTTP: how they are sent, and what happens when that breaks off."""

from __future__ import annotations

import io

import numpy as np
import pytest
import requests

import neuronexus_kernel as nx
from neuronexus_kernel.content import CID, dagcbor
from neuronexus_kernel.content.cid import DAG_CBOR
from neuronexus_kernel.errors import HubUnavailableError, InvalidInputError
from neuronexus_kernel.hub.routes import API
from neuronexus_kernel.storage.car import encode_car, read_car
from neuronexus_kernel.workbench import Workbench


@pytest.fixture(scope="module")
def project(new_member):
    """A project whose rows fill several blocks."""
    name, hub = new_member()
    rng = np.random.default_rng(0)
    rows = nx.Dataset(rng.random((1200, 500)), np.arange(1200) % 2, classes=2)
    recipe = nx.Recipe(nx.models.mlp(500, (), 2))
    return Workbench(hub).create_project(f"of-{name}", task=nx.Task(rows), recipe=recipe)


def test_an_archive_is_a_download_and_nothing_that_a_browser_shows(server, project):
    token = project.hub.create_token("test", ("maintain",)).token
    url = f"{server.address}{API}/projects/{project.name}/archive"
    bearer = {"Authorization": f"Bearer {token}"}
    answer = requests.get(url, headers=bearer, timeout=30)
    assert answer.headers["Content-Type"] == "application/vnd.ipld.car"
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert answer.headers["Cache-Control"] == "no-store"
    assert len(list(read_car(io.BytesIO(answer.content))[1])) > 5
    assert requests.get(url, timeout=30).status_code == 401
    assert requests.get(f"{url}?sealed=true", headers=bearer, timeout=30).status_code == 403
    assert requests.get(f"{url}?sealed=perhaps", headers=bearer, timeout=30).status_code == 422
    assert requests.get(f"{url}?all=true", headers=bearer, timeout=30).status_code == 422


def test_who_is_not_signed_in_uploads_nothing(server):
    url = f"{server.address}{API}/archives"
    answer = requests.post(url, data=b"x" * 2_000_000, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (401, "authentication")
    answer = requests.post(url, data=b"x", headers={"Origin": "https://evil.example"}, timeout=30)
    assert answer.status_code in (401, 403)


def test_a_parameter_that_is_none_is_refused(server, project):
    token = project.hub.create_token("test", ("maintain",)).token
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{server.address}{API}/archives?stream=x"
    answer = requests.post(url, data=b"x", headers=headers, timeout=30)
    assert answer.status_code == 422


def test_what_is_no_archive_is_refused_with_the_reason(server, project):
    headers = {"Authorization": f"Bearer {project.hub.create_token('test', ('maintain',)).token}"}
    answer = requests.post(f"{server.address}{API}/archives", b"x", headers=headers, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (422, "store")
    with pytest.raises(InvalidInputError, match="no archive of a project"):
        project.hub.import_project(io.BytesIO(_car_of_one_block()))


def _car_of_one_block() -> bytes:
    block = dagcbor.encode({"format": "something else"})
    cid = CID.of(block, DAG_CBOR)
    return b"".join(encode_car([cid], [(cid, block)]))


def test_an_archive_that_breaks_off_leaves_no_file(home, project, tmp_path):
    """The hub finds a block missing when most of the archive has been sent."""
    stream = io.BytesIO()
    project.hub.export_project(project.name, stream)
    stream.seek(0)
    sizes = [len(block) for _, block in read_car(stream)[1]]
    assert max(sizes) > 300_000, "the public split is sent before the validation split"
    (path,) = (home / "content" / "blocks").rglob(project.record.validation)
    moved = path.rename(tmp_path / "aside")
    try:
        with pytest.raises(HubUnavailableError):
            project.export(tmp_path / "project.car")
        assert [each.name for each in tmp_path.iterdir()] == ["aside"]
    finally:
        moved.rename(path)
    assert project.export(tmp_path / "project.car").read_bytes() == stream.getvalue()
