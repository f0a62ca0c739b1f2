"""The part of the API's description that no type hints tell: what carries bytes and streams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import msgspec

from neuronexus_kernel.hub.hub import Hub
from neuronexus_kernel.hub.records import NewUpload
from neuronexus_kernel.hub.routes import API, ARCHIVE, ARCHIVES, CAR
from neuronexus_server.openapi_words import words_of

JsonObject = dict[str, Any]

REF = "#/components/schemas/{name}"
"""Where the schema of a record is."""

PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
"""What an error is."""

KEY = {"$ref": "#/components/parameters/IdempotencyKey"}
"""The parameter of what may be repeated."""

_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def by_hand() -> Iterator[tuple[str, str, JsonObject]]:
    """Give what carries bytes and streams: path, method and description."""
    fault = {"default": {"description": "What went wrong.", "content": PROBLEM}}
    root = {"application/json": {"schema": {"$ref": REF.format(name="Root")}}}
    upload = {"application/json": {"schema": {"$ref": REF.format(name="Upload")}}}
    cid = _path("cid", "The content's address.")
    part = _path("upload", "The upload's id.")
    summary, rest, told = words_of(Hub.put.__doc__ or "")
    words = told["Parameters"]
    put = [
        {"name": name, "in": "query", "schema": schema}
        | ({"description": words[name]} if name in words else {})
        for name, schema in _new_upload().items()
        if name != "size"
    ]
    yield (
        "/content",
        "post",
        {
            "operationId": "put",
            "tags": ["content"],
            "summary": summary,
            "description": f"{rest}\n\nLarge objects arrive in parts: see `begin_upload`.".strip(),
            "parameters": [*put, KEY],
            "requestBody": {"required": True, "content": _BYTES},
            "responses": {"200": {"description": "Its root.", "content": root}, **fault},
        },
    )
    summary, rest, _ = words_of(Hub.get.__doc__ or "")
    span = {"name": "Range", "in": "header", "schema": {"type": "string"}}
    yield (
        "/content/{cid}",
        "get",
        {
            "operationId": "get",
            "tags": ["content"],
            "summary": summary,
            "description": "One range of bytes may be asked for. The `ETag` is the CID.",
            "parameters": [cid, span],
            "responses": {
                "200": {"description": "The bytes.", "content": _BYTES},
                "206": {"description": "The range of bytes.", "content": _BYTES},
                **fault,
            },
        },
    )
    yield (
        "/uploads",
        "post",
        {
            "operationId": "begin_upload",
            "tags": ["content"],
            "summary": "Announce an object that will arrive in parts.",
            "description": "Add its bytes by `add_part`, at the address in `Location`.",
            "parameters": [KEY],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": REF.format(name="NewUpload")}}},
            },
            "responses": {"201": {"description": "The upload.", "content": upload}, **fault},
        },
    )
    yield (
        "/uploads/{upload}",
        "get",
        {
            "operationId": "upload",
            "tags": ["content"],
            "summary": "Tell how far an upload has come.",
            "description": "`HEAD` tells it in `Upload-Offset` alone.",
            "parameters": [part],
            "responses": {"200": {"description": "The upload.", "content": upload}, **fault},
        },
    )
    headers = [
        _header("Upload-Offset", "How many bytes come before these.", {"type": "integer"}, True),
        _header("Upload-Complete", "`?1` for the last part.", {"enum": ["?0", "?1"]}, False),
    ]
    binary = {"application/partial-upload": {"schema": {"type": "string", "format": "binary"}}}
    yield (
        "/uploads/{upload}",
        "patch",
        {
            "operationId": "add_part",
            "tags": ["content"],
            "summary": "Add bytes to an upload; the last part has it stored.",
            "description": "After draft-ietf-httpbis-resumable-upload. What a broken connection "
            "brought is kept: ask how far the upload is, and go on there.",
            "parameters": [part, *headers],
            "requestBody": {"required": False, "content": binary},
            "responses": {
                "200": {"description": "The root of what was stored.", "content": root},
                "204": {"description": "The part is here."},
                **fault,
            },
        },
    )
    yield (
        "/uploads/{upload}",
        "delete",
        {
            "operationId": "cancel_upload",
            "tags": ["content"],
            "summary": "End an upload that will not be finished.",
            "parameters": [part],
            "responses": {"204": {"description": "Done."}, **fault},
        },
    )
    yield from _archives(fault)
    summary, rest, _ = words_of(Hub.follow.__doc__ or "")
    yield (
        "/events/stream",
        "get",
        {
            "operationId": "follow",
            "tags": ["events"],
            "summary": summary,
            "description": "A WebSocket. Each message is a JSON array of `Event`; `previous` of "
            "an event is the number of the one sent before it, `since` for the first.",
            "parameters": [
                {"name": "since", "in": "query", "schema": {"type": "integer", "default": 0}},
                {"name": "project", "in": "query", "schema": {"type": "string"}},
            ],
            "responses": {"101": {"description": "The stream begins."}, **fault},
        },
    )
    yield (
        "/openapi.json",
        "get",
        {
            "operationId": "openapi",
            "tags": ["about"],
            "summary": "Return this document.",
            "responses": {
                "200": {
                    "description": "The document.",
                    "content": {"application/json": {"schema": {"type": "object"}}},
                },
                **fault,
            },
        },
    )


def _archives(fault: JsonObject) -> Iterator[tuple[str, str, JsonObject]]:
    car = {CAR: {"schema": {"type": "string", "format": "binary"}}}
    project = {"application/json": {"schema": {"$ref": REF.format(name="Project")}}}
    summary, rest, told = words_of(Hub.export_project.__doc__ or "")
    words = told["Parameters"]
    sealed = {"name": "sealed", "in": "query", "schema": {"type": "boolean", "default": False}}
    yield (
        ARCHIVE.removeprefix(API),
        "get",
        {
            "operationId": "export_project",
            "tags": ["projects"],
            "summary": summary,
            "description": rest,
            "parameters": [
                _path("project", words["project"]),
                {**sealed, "description": words["sealed"]},
            ],
            "responses": {"200": {"description": "The CAR file.", "content": car}, **fault},
        },
    )
    summary, rest, told = words_of(Hub.import_project.__doc__ or "")
    name = {"name": "name", "in": "query", "schema": {"type": "string", "default": ""}}
    yield (
        ARCHIVES.removeprefix(API),
        "post",
        {
            "operationId": "import_project",
            "tags": ["projects"],
            "summary": summary,
            "description": rest,
            "parameters": [{**name, "description": told["Parameters"]["name"]}, KEY],
            "requestBody": {"required": True, "content": car},
            "responses": {"200": {"description": "The project.", "content": project}, **fault},
        },
    )


def _path(name: str, words: str) -> JsonObject:
    schema = {"type": "string", "minLength": 1}
    return {"name": name, "in": "path", "required": True, "description": words, "schema": schema}


def _header(name: str, words: str, schema: JsonObject, required: bool) -> JsonObject:
    told = {"name": name, "in": "header", "description": words, "schema": schema}
    return {**told, "required": True} if required else told


def _new_upload() -> JsonObject:
    _, components = msgspec.json.schema_components([NewUpload], ref_template=REF)
    return cast("JsonObject", components["NewUpload"]["properties"])
