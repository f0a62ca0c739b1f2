"""The whole API under requests made up from its own description: never a fault of the hub.

Schemathesis makes up requests that fit the description and some that do not; every answer must be
one that the description names.  Where a path or a body names something, half of the requests name
something that is there, so that they get past the door.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from neuronexus_server.openapi import document
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

import neuronexus_kernel as nx
from neuronexus_kernel.content import new_id
from neuronexus_kernel.hub.process import HubProcess, start_hub
from neuronexus_kernel.hub.records import NewRun, Round
from neuronexus_kernel.hub.remote import RemoteHub
from neuronexus_kernel.hub.routes import API
from neuronexus_kernel.workbench import Workbench

PASSWORD = "correct horse battery"
SHORT, LONG = 2, 40
# A WebSocket; its own tests try it.
NOT_ASKED = {"follow"}
# What ends a sign-in or passes it on gets one of its own.
ENDS_A_SIGN_IN = {"logout", "renew", "change_password", "revoke", "reset_password"}
# Whoever is asked to close accounts or roles would close those of this test.
NOT_FOR_OPERATORS = {"disable", "remove_operator"}

MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]

for media in ("application/partial-upload", "application/vnd.ipld.car"):
    schemathesis.serializer.alias(media, "application/octet-stream")
load_all_checks()
CONFORMS = [
    CHECKS.get_one(name)
    for name in (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
        "response_headers_conformance",
        "allow_header_conformance",
    )
]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, dashboard: Path) -> Iterator[HubProcess]:
    home = tmp_path_factory.mktemp("fuzzed")
    arguments = ("--dashboard", str(dashboard), "--no-warm-kernel")
    with start_hub(home, port=0, arguments=arguments) as process:
        yield process


@pytest.fixture(scope="module")
def there(hub: HubProcess) -> dict[str, list[str]]:
    """Names of things that are there, by the parameters that take them."""
    ada = Workbench(RemoteHub(hub.address)).register("ada", PASSWORD)
    task = nx.Task(nx.datasets.digits(), metric="accuracy")
    recipe = nx.Recipe(nx.models.mlp(64, (4,), 10))
    project = ada.create_project("digits", task=task, recipe=recipe)
    record = ada.hub.project("digits")
    run = ada.hub.start_run(
        NewRun(
            id=new_id(),
            project=record.id,
            recipe=record.recipe,
            rounds=3,
            clients=2,
            clients_per_round=2,
        )
    )
    ada.hub.record_round(
        run.id, Round(round=1, loss=0.5, accuracy=0.5, seconds=0.1, clients=("a", "b"))
    )
    cid = ada.storage.add(b"some bytes", name="bytes")
    ada.hub.keep(cid)
    assert project
    return {
        "name": ["digits", "bytes", "ada"],
        "project": ["digits", record.id],
        "account": ["ada"],
        "owner": ["ada"],
        "run": [run.id],
        "recipe": [record.recipe],
        "weights": [record.head.weights],
        "payload": [record.recipe, cid],
        "cid": [cid, record.public, record.recipe],
    }


@pytest.fixture(scope="module")
def tokens(hub: HubProcess, there: object) -> dict[str, list[str]]:
    """Sign-ins of a member and an operator, made before passwords are tried out on the hub."""
    RemoteHub(hub.address, hub.token).add_operator("olga", PASSWORD)
    people = {"member": "ada", "operator": "olga"}
    # One for each test that all share, and those that end.
    many = range(2 * (1 + len(ENDS_A_SIGN_IN)))
    return {
        role: [RemoteHub(hub.address).login(name, PASSWORD).token for _ in many]
        for role, name in people.items()
    }


@pytest.fixture(scope="module", params=["stranger", "member", "operator"])
def visitor(
    request: pytest.FixtureRequest, hub: HubProcess, tokens: dict[str, list[str]]
) -> tuple[str, Callable[[], str | None]]:
    """A role, and what gives a token of somebody who has it."""
    role: str = request.param
    return role, (lambda: None) if role == "stranger" else tokens[role].pop


def test_no_request_is_too_much_for_the_hub(
    hub: HubProcess, there: dict[str, list[str]], visitor: Any
) -> None:
    is_member = visitor[0] == "member"
    fuzz(hub, there, visitor, examples=SHORT, modes=MODES if is_member else MODES[:1])


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_request_is_too_much_for_the_hub_however_many_come(
    hub: HubProcess, there: dict[str, list[str]], visitor: Any
) -> None:
    fuzz(hub, there, visitor, examples=LONG, modes=MODES)


def fuzz(
    hub: HubProcess,
    there: dict[str, list[str]],
    visitor: Any,
    *,
    examples: int,
    modes: list[GenerationMode],
) -> None:
    role, sign_in = visitor
    schema = schemathesis.openapi.from_dict(document())
    schema.config.update(base_url=hub.address + API)
    shared = sign_in()
    for found in schema.get_all_operations():
        operation = found.ok()
        name = operation.definition.raw["operationId"]
        if name in NOT_ASKED or (role == "operator" and name in NOT_FOR_OPERATORS):
            continue
        token = sign_in() if name in ENDS_A_SIGN_IN else shared
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        for mode in modes:
            if mode == GenerationMode.NEGATIVE and fits_anything(operation.definition.raw):
                continue
            ask(operation.as_strategy(generation_mode=mode), headers, there, examples)
    assert requests.get(f"{hub.address}{API}/projects", timeout=30).status_code == 200


def ask(cases: Any, headers: dict[str, str], there: dict[str, list[str]], examples: int) -> None:
    """Send requests of one operation, and hold every answer against the description."""

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=cases, choose=st.randoms(use_true_random=False))
    def send(case: Any, choose: Any) -> None:
        for places in (case.path_parameters, case.query, case.body):
            name_what_is_there(places, there, choose)
        case.call_and_validate(headers=headers, checks=CONFORMS, timeout=60)

    send()


def fits_anything(told: dict[str, Any]) -> bool:
    """Tell whether there is no request of an operation that its description forbids."""
    places = {each.get("in") for each in told.get("parameters", [])}
    return "requestBody" not in told and "query" not in places


def name_what_is_there(places: Any, there: dict[str, list[str]], choose: Any) -> None:
    """Replace some of the values that name something, also inside records."""
    if not isinstance(places, dict):
        return
    for name, value in list(places.items()):
        if isinstance(value, dict):
            name_what_is_there(value, there, choose)
        elif name in there and choose.random() < 0.5:
            places[name] = choose.choice(there[name])
        elif name == "id" and choose.random() < 0.5:
            places[name] = new_id()


@settings(max_examples=25, deadline=None, database=None, derandomize=True)
@given(
    offset=st.integers(-2, 40).map(str) | st.text("0123456789-+.x", max_size=6),
    complete=st.sampled_from(["?0", "?1", "1", "", "?2"]),
    data=st.binary(max_size=20),
    kind=st.sampled_from(["application/partial-upload", "text/plain", ""]),
    begun=st.booleans(),
)
def test_no_part_is_too_much_for_the_hub(
    hub: HubProcess, there: object, offset: str, complete: str, data: bytes, kind: str, begun: bool
) -> None:
    headers = {"Authorization": f"Bearer {hub.token}"}
    url = f"{hub.address}{API}/uploads"
    upload = new_id()
    if begun:
        upload = requests.post(url, json={"size": 20}, headers=headers, timeout=30).json()["id"]
    told = {"Upload-Offset": offset, "Upload-Complete": complete, "Content-Type": kind}
    answer = requests.patch(f"{url}/{upload}", data=data, headers={**headers, **told}, timeout=30)
    assert answer.status_code < 500, answer.text
    assert begun or answer.status_code >= 400
    if begun:
        requests.delete(f"{url}/{upload}", headers=headers, timeout=30)
