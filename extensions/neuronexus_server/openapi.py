"""The API's description for programs (OpenAPI 3.1), made from what the server itself is made of.

Paths come from the table of routes, parameters and answers from the type hints of `Hub`, words from
its docstrings and those of the records: nothing is said twice, so that nothing can differ.  Only
what carries bytes and streams, and has handlers of its own, is described here by hand.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import msgspec

from neuronexus_kernel import __version__, errors
from neuronexus_kernel.errors import NeuroNexusError
from neuronexus_kernel.hub.hub import Hub
from neuronexus_kernel.hub.records import Event, NewUpload, Root, Upload
from neuronexus_kernel.hub.routes import API, ROUTES
from neuronexus_server.listings import MOST, USUAL
from neuronexus_server.openapi_by_hand import KEY, PROBLEM, REF, JsonObject, by_hand
from neuronexus_server.openapi_words import words_of
from neuronexus_server.operations import Operation

_ABOUT = """\
The API of a NeuroNexus hub: projects, training runs, contributions, tokens and content.

**Signing in.** `POST /sessions` returns a token; send it as `Authorization: Bearer <token>`. \
Reading what is public needs none. A token never stands in an address.

**Errors** are problem details (RFC 9457); `code` names what went wrong.

**Listings** come page by page: follow the `Link` header with `rel="next"`.

**Repeating.** A request with an `Idempotency-Key` (16 characters or more, such as a random UUID) \
is carried out once within 24 hours; a repetition gets the first answer, marked \
`Idempotency-Replayed: true`. The same key for another request is refused (422). An answer that \
holds a credential is not kept: a repetition is then told that it was carried out (409).

**Not sent again.** Answers to `GET` have an `ETag`; send it as `If-None-Match` for a 304.

**Limits.** Records have 2 MiB at most, 16 KiB from strangers; `RateLimit` says how many requests \
are left, and 429 comes with `Retry-After`.
"""
_PROBLEM_SCHEMA: JsonObject = {
    "title": "Problem",
    "description": "What went wrong, after RFC 9457.",
    "type": "object",
    "properties": {
        "type": {"type": "string", "description": "A name for the kind of problem."},
        "title": {"type": "string", "description": "The HTTP status in words."},
        "status": {"type": "integer", "description": "The HTTP status."},
        "detail": {"type": "string", "description": "What was wrong and what to do about it."},
        "code": {"type": "string", "description": "Which error it is, for programs."},
    },
    "required": ["type", "title", "status", "detail", "code"],
}


@cache
def document() -> JsonObject:
    """Return the document."""
    operations = [Operation.of(route) for route in ROUTES]
    schemas, components = _schemas(operations)
    paths: dict[str, JsonObject] = {}
    for operation in operations:
        route = operation.route
        paths.setdefault(route.path, {})[route.verb.lower()] = _operation(operation, schemas)
    for path, verb, described in by_hand():
        paths.setdefault(path, {})[verb] = described
    told = {
        "openapi": "3.1.0",
        "info": {"title": "NeuroNexus hub", "version": __version__, "description": _ABOUT},
        "servers": [{"url": API}],
        "security": [{}, {"token": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {**components, "Problem": _PROBLEM_SCHEMA},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "parameters": {
                "IdempotencyKey": {
                    "name": "Idempotency-Key",
                    "in": "header",
                    "description": "Names this request, so that it is carried out once.",
                    "schema": {"type": "string", "pattern": "^[!-~]{16,255}$"},
                }
            },
        },
    }
    # As it travels: a default that is a tuple is an array.
    return cast("JsonObject", msgspec.json.decode(msgspec.json.encode(told)))


def _schemas(operations: list[Operation]) -> tuple[dict[Any, JsonObject], dict[str, Any]]:
    """Return the schema of every type in the interface, and those that they refer to."""
    kinds = {kind for each in operations for kind in (*each.parameters.values(), each.returns)}
    kinds = {kind for kind in kinds if kind is not type(None)} | {NewUpload, Upload, Root, Event}
    ordered = sorted(kinds, key=str)
    found, components = msgspec.json.schema_components(ordered, ref_template=REF)
    for name, schema in components.items():
        _describe(name, schema)
    return dict(zip(ordered, found, strict=True)), components


def _describe(name: str, schema: JsonObject) -> None:
    """Put the words of a record's docstring where they belong."""
    summary, rest, told = words_of(str(schema.get("description", "")))
    if summary:
        schema["description"] = f"{summary}\n\n{rest}".strip()
    for names, words in told.get("Attributes", {}).items():
        for each in names.split(", "):
            if each in schema.get("properties", {}):
                schema["properties"][each] = {**schema["properties"][each], "description": words}
    # Answers may have more fields in a later version: records are open.
    schema.setdefault("title", name)


def _operation(operation: Operation, schemas: dict[Any, JsonObject]) -> JsonObject:
    route = operation.route
    summary, rest, told = words_of(getattr(Hub, route.operation).__doc__ or "")
    words = {
        name: text
        for names, text in told.get("Parameters", {}).items()
        for name in names.split(", ")
    }
    parameters: list[JsonObject] = []
    members: JsonObject = {}
    for name, kind in operation.parameters.items():
        schema = schemas[kind]
        described = {"description": words[name]} if name in words else {}
        if f"{{{name}}}" in route.path:
            parameters.append(
                {"name": name, "in": "path", "required": True, "schema": {**schema, "minLength": 1}}
                | described
            )
        elif route.verb == "POST":
            members[name] = {**schema, **described}
        else:
            needed = {"required": True} if name in operation.required else {}
            given = {"name": name, "in": "query", "schema": _without_null(schema)}
            parameters.append(given | needed | described)
    if operation.is_listing:
        parameters += _paging()
    body: JsonObject = {}
    if route.verb == "POST":
        parameters.append(KEY)
        needed = sorted(operation.required & members.keys())
        whole: JsonObject = {"type": "object", "properties": members, "additionalProperties": False}
        if needed:
            whole["required"] = needed
        content = {"application/json": {"schema": whole}}
        body = {"requestBody": {"required": bool(needed), "content": content}}
    elif route.verb == "DELETE":
        parameters.append(KEY)
    return {
        "operationId": route.operation,
        "tags": [_tag(route.path)],
        "summary": summary,
        **({"description": rest} if rest else {}),
        **({"parameters": parameters} if parameters else {}),
        **body,
        "responses": _answers(operation, schemas, told.get("Raises", {})),
    }


def _answers(
    operation: Operation, schemas: dict[Any, JsonObject], raised: dict[str, str]
) -> JsonObject:
    answers: JsonObject = {}
    if operation.returns is type(None):
        answers["204"] = {"description": "Done."}
    else:
        answers["200"] = {
            "description": "A page of the listing." if operation.is_listing else "The answer.",
            "content": {"application/json": {"schema": schemas[operation.returns]}},
        }
        if operation.is_listing:
            answers["200"]["headers"] = {
                "Link": {
                    "description": 'The next page, with `rel="next"`, if there is one.',
                    "schema": {"type": "string"},
                }
            }
    told: dict[int, list[str]] = {}
    for names, words in raised.items():
        for name in names.split(", "):
            kind = getattr(errors, name, NeuroNexusError)
            told.setdefault(kind.status, []).append(f"`{kind.code}`: {words}")
    for status, words in sorted(told.items()):
        answers[str(status)] = {"description": "\n".join(words), "content": PROBLEM}
    answers["default"] = {"description": "What went wrong.", "content": PROBLEM}
    return answers


def _paging() -> list[JsonObject]:
    return [
        {
            "name": "limit",
            "in": "query",
            "description": "How many records a page has.",
            "schema": {"type": "integer", "minimum": 1, "maximum": MOST, "default": USUAL},
        },
        {
            "name": "cursor",
            "in": "query",
            "description": "Where the page begins; taken from the link to it.",
            "schema": {"type": "string"},
        },
    ]


def _without_null(schema: JsonObject) -> JsonObject:
    """Return a schema for a query, where what is missing is left out."""
    if "anyOf" not in schema:
        return schema
    rest = [each for each in schema["anyOf"] if each != {"type": "null"}]
    if len(rest) > 1:
        return {**schema, "anyOf": rest}
    return {**{k: v for k, v in schema.items() if k not in ("anyOf", "default")}, **rest[0]}


def _tag(path: str) -> str:
    return path.split("/")[1]
