"""The API's description: whole, valid, and the same as what the server does."""

from __future__ import annotations

import re

import pytest
import requests
from neuronexus_server.contents import content_handlers
from neuronexus_server.openapi import document
from neuronexus_server.openapi_words import words_of
from openapi_spec_validator import validate

from neuronexus_kernel.errors import NeuroNexusError
from neuronexus_kernel.hub.hub import Hub
from neuronexus_kernel.hub.routes import API, ROUTES


def operations():
    return [
        (verb, path, told)
        for path, verbs in document()["paths"].items()
        for verb, told in verbs.items()
    ]


def test_it_is_valid_openapi_3_1():
    assert document()["openapi"].startswith("3.1")
    validate(document())


def test_every_route_is_in_it():
    named = {(verb, path, told["operationId"]) for verb, path, told in operations()}
    assert {(each.verb.lower(), each.path, each.operation) for each in ROUTES} <= named


def test_every_method_of_the_interface_is_in_it():
    methods = {name for name in dir(Hub) if not name.startswith("_")}
    named = {told["operationId"] for _, _, told in operations()}
    assert methods - {"address", "blocks", "close"} <= named


def test_content_that_has_handlers_of_its_own_is_in_it():
    patterns = {re.sub(r"\(\?P<(\w+)>[^)]*\)", r"{\1}", each[0]) for each in content_handlers()}
    assert {each.removeprefix(API) for each in patterns} <= document()["paths"].keys()


@pytest.mark.parametrize(("verb", "path", "told"), operations(), ids=lambda each: str(each)[:30])
def test_every_operation_says_what_it_is(verb, path, told):
    assert told["summary"].endswith(".")
    assert "``" not in str(told)
    named = {each["name"] for each in told.get("parameters", []) if each.get("in") == "path"}
    assert named == set(re.findall(r"{(\w+)}", path))
    assert "default" in told["responses"]
    if verb in ("post", "delete") and told["operationId"] != "cancel_upload":
        assert {"$ref": "#/components/parameters/IdempotencyKey"} in told["parameters"]


def test_errors_are_told_with_their_status():
    told = document()["paths"]["/contributions"]["post"]["responses"]
    assert "conflict" in told["409"]["description"]
    assert "quota" in told["429"]["description"]
    for _, _, each in operations():
        for status, answer in each["responses"].items():
            if status[0] in "45":
                assert "application/problem+json" in answer["content"]


def test_the_problem_is_what_the_server_sends(server):
    problem = requests.get(f"{server.address}{API}/projects/none", timeout=30).json()
    assert set(document()["components"]["schemas"]["Problem"]["required"]) == problem.keys()
    assert {each.code for each in NeuroNexusError.__subclasses__()} >= {problem["code"]}


def test_the_server_gives_it_to_everybody(server):
    answer = requests.get(f"{server.address}{API}/openapi.json", timeout=30)
    assert answer.json() == document()
    known = {"If-None-Match": answer.headers["ETag"]}
    again = requests.get(f"{server.address}{API}/openapi.json", headers=known, timeout=30)
    assert again.status_code == 304


def test_the_page_shows_every_operation_and_record(server):
    page = requests.get(f"{server.address}/neuronexus/api", timeout=30)
    assert page.headers["Content-Type"].startswith("text/html")
    for _, path, told in operations():
        assert f'id="{told["operationId"]}"' in page.text
        assert f"<code>{path}</code>" in page.text
    for name in document()["components"]["schemas"]:
        assert f'id="{name}"' in page.text


def test_every_link_of_the_page_leads_somewhere(server):
    page = requests.get(f"{server.address}/neuronexus/api", timeout=30).text
    ids = set(re.findall(r'id="([^"]+)"', page))
    for link in set(re.findall(r'(?:href|src)="([^"]+)"', page)):
        if link.startswith("#"):
            assert link[1:] in ids
        else:
            assert link.startswith("/"), "nothing comes from elsewhere"
            assert requests.get(server.address + link, timeout=30).status_code == 200
    assert "<script" not in page


def test_a_docstring_is_read_section_by_section():
    summary, rest, told = words_of(
        """Do it.

        More of
        it, as ``code``.

        Parameters
        ----------
        a, b
            What they
            are.
        c : int
            Another.

        Raises
        ------
        ConflictError
            If not.
        """
    )
    assert (summary, rest) == ("Do it.", "More of it, as `code`.")
    assert told == {
        "Parameters": {"a, b": "What they are.", "c": "Another."},
        "Raises": {"ConflictError": "If not."},
    }
