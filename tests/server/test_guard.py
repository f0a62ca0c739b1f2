"""What a member cannot do: each test tries it."""

from __future__ import annotations

import json
import time
import uuid

import pytest
import websocket
from jupyter_client.session import Session
from jupyter_server.services.kernels.connection.base import (
    deserialize_msg_from_ws_v1,
    serialize_msg_to_ws_v1,
)
from neuronexus_server.guard import is_harmless

V1 = "v1.kernel.websocket.jupyter.org"
PROOF = "open({path!r}, 'w').write('executed')"


class Channel:
    """A page's WebSocket to its kernel, in either of Jupyter's two encodings."""

    def __init__(self, browser, kernel_id, protocol=None):
        address = browser.address.replace("http", "ws", 1)
        self.session = Session()
        self.protocol = protocol
        self.socket = websocket.create_connection(
            f"{address}/api/kernels/{kernel_id}/channels?session_id={uuid.uuid4().hex}",
            cookie=browser.cookies,
            subprotocols=[protocol] if protocol else None,
            timeout=20,
        )

    def send(self, kind, content, channel="shell"):
        message = self.session.msg(kind, content)
        if self.protocol == V1:
            data = serialize_msg_to_ws_v1(message, channel, self.session.pack)
            self.socket.send_binary(data)
        else:
            message["channel"] = channel
            self.socket.send(json.dumps(message, default=str))
        return message["header"]["msg_id"]

    def reply_to(self, message_id, kind):
        until = time.monotonic() + 20
        while time.monotonic() < until:
            header, parent, content = self._receive()
            if parent.get("msg_id") == message_id and header["msg_type"] == kind:
                return content
        raise AssertionError(f"no {kind}")

    def _receive(self):
        data = self.socket.recv()
        if self.protocol == V1:
            _, parts = deserialize_msg_from_ws_v1(data)
            return json.loads(parts[0]), json.loads(parts[1]), json.loads(parts[3])
        if isinstance(data, bytes):
            return {"msg_type": "binary"}, {}, {}
        message = json.loads(data)
        return message["header"], message["parent_header"], message["content"]

    def close(self):
        self.socket.close()


@pytest.fixture(scope="module")
def visit(member_browser):
    """A member with the dashboard open: the browser, and the kernel of its page."""
    kernel_id, _ = member_browser.open_dashboard()
    page = Channel(member_browser, kernel_id)
    yield member_browser, kernel_id
    page.close()
    member_browser.post(
        f"/voila/api/shutdown/{kernel_id}", headers={"X-XSRFToken": member_browser.xsrf}
    )


@pytest.fixture(scope="module")
def operator_browser(new_member, new_browser, owner):
    name, _ = new_member()
    owner.add_operator(name)
    browser = new_browser()
    browser.sign_in(name)
    return browser


@pytest.mark.parametrize("protocol", [None, V1])
def test_a_member_cannot_execute_code_on_their_own_kernel(visit, tmp_path, protocol):
    channel = Channel(*visit, protocol)
    proof = tmp_path / "proof"
    code = PROOF.format(path=str(proof))
    request = channel.send("execute_request", {"code": code, "silent": False})
    reply = channel.reply_to(request, "execute_reply")
    assert (reply["status"], reply["ename"]) == ("error", "ForbiddenError")
    answered = channel.send("kernel_info_request", {})
    assert channel.reply_to(answered, "kernel_info_reply")["status"] == "ok"
    assert not proof.exists()
    channel.close()


@pytest.mark.parametrize(
    "kind",
    [
        "execute_request",
        "complete_request",
        "inspect_request",
        "history_request",
        "is_complete_request",
        "debug_request",
        "shutdown_request",
        "interrupt_request",
        "create_subshell_request",
    ],
)
@pytest.mark.parametrize("channel", ["shell", "control"])
def test_only_questions_and_widget_messages_are_harmless(kind, channel):
    assert not is_harmless(channel, kind, {})


@pytest.mark.parametrize(
    ("channel", "kind", "content"),
    [
        ("stdin", "input_reply", {"value": "x"}),
        ("iopub", "comm_msg", {}),
        ("control", "comm_msg", {}),
        ("shell", "comm_open", {"target_name": "somebody.elses"}),
        ("shell", ["comm_msg"], {}),
        ("shell", None, {}),
    ],
)
def test_unusual_messages_are_not_harmless(channel, kind, content):
    assert not is_harmless(channel, kind, content)


def test_a_header_that_says_two_things_is_read_in_one_way(visit, tmp_path):
    channel = Channel(*visit)
    proof = tmp_path / "proof"
    header = channel.session.msg_header("comm_msg")
    text = json.dumps(
        {
            "channel": "shell",
            "header": "HEADER",
            "parent_header": {},
            "metadata": {},
            "content": {"code": PROOF.format(path=str(proof)), "silent": True},
        }
    )
    double = json.dumps(header, default=str)[:-1] + ', "msg_type": "execute_request"}'
    channel.socket.send(text.replace('"HEADER"', double))
    for nonsense in ("[]", '{"header": 5, "content": {}}', "{", '{"header": {}}'):
        channel.socket.send(nonsense)
    answered = channel.send("kernel_info_request", {})
    assert channel.reply_to(answered, "kernel_info_reply")["status"] == "ok"
    assert not proof.exists()
    channel.close()


@pytest.mark.parametrize("protocol", [None, V1])
def test_a_frame_that_claims_to_hold_very_much_is_dropped(visit, protocol):
    channel = Channel(*visit, protocol)
    for claim in (b"\xff" * 8, b"\x7f" * 8, b"\xff\xff\xff\x7f", b"", b"\x01"):
        channel.socket.send_binary(claim + b"rest")
    answered = channel.send("kernel_info_request", {})
    assert channel.reply_to(answered, "kernel_info_reply")["status"] == "ok"
    channel.close()


def test_widgets_answer_their_page(visit):
    channel = Channel(*visit)
    request = channel.send("comm_info_request", {"target_name": "jupyter.widget"})
    comms = channel.reply_to(request, "comm_info_reply")["comms"]
    assert len(comms) >= 3
    channel.close()


def test_an_operator_may_execute_code(operator_browser, tmp_path):
    kernel_id, _ = operator_browser.open_dashboard()
    channel = Channel(operator_browser, kernel_id)
    proof = tmp_path / "proof"
    request = channel.send("execute_request", {"code": PROOF.format(path=str(proof))})
    assert channel.reply_to(request, "execute_reply")["status"] == "ok"
    assert proof.read_text() == "executed"
    channel.close()
    headers = {"X-XSRFToken": operator_browser.xsrf}
    assert operator_browser.post(f"/voila/api/shutdown/{kernel_id}", headers=headers).ok


def test_a_member_cannot_reach_the_kernel_of_another(visit, new_member, new_browser):
    _, kernel_id = visit
    name, _ = new_member()
    other = new_browser()
    other.sign_in(name)
    other.get("/neuronexus/auth")
    headers = {"X-XSRFToken": other.xsrf}
    assert other.get(f"/api/kernels/{kernel_id}").status_code == 403
    assert other.post(f"/voila/api/shutdown/{kernel_id}", headers=headers).status_code == 403
    for verb in ("interrupt", "restart"):
        assert other.post(f"/api/kernels/{kernel_id}/{verb}", headers=headers).status_code == 403
    assert (
        other.session.delete(
            f"{other.address}/api/kernels/{kernel_id}", headers=headers
        ).status_code
        == 403
    )
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        Channel(other, kernel_id)
    browser, _ = visit
    assert browser.get(f"/api/kernels/{kernel_id}").json()["id"] == kernel_id


def test_a_stranger_cannot_reach_a_kernel(visit, new_browser):
    _, kernel_id = visit
    stranger = new_browser()
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        Channel(stranger, kernel_id)
    stranger.get("/neuronexus/auth")
    headers = {"X-XSRFToken": stranger.xsrf}
    assert stranger.post(f"/voila/api/shutdown/{kernel_id}", headers=headers).status_code == 403


CLOSED = [
    "/api/kernels",
    "/api/sessions",
    "/api/contents",
    "/api/kernelspecs",
    "/api/config/common",
    "/api/status",
    "/api/terminals",
    "/files/x",
    "/nbconvert/html/x.ipynb",
    "/view/x",
    "/metrics",
    "/voila",
    "/voila/tree",
    "/voila/render/small.ipynb",
    "/voila/files/x.png",
    "/voila/api/contents",
    "/lab",
    "/tree",
    "/api/me",
]


@pytest.mark.parametrize("path", CLOSED)
def test_a_member_reaches_nothing_else_of_jupyter(member_browser, new_browser, path):
    assert member_browser.get(path).status_code in (403, 404)
    stranger = new_browser().get(path)
    assert stranger.status_code in (403, 404) or stranger.url.split("?")[0].endswith("/auth")


def test_a_member_cannot_start_or_change_anything_of_jupyter(member_browser):
    headers = {"X-XSRFToken": member_browser.xsrf}
    for path in ("/api/kernels", "/api/sessions", "/api/contents", "/api/shutdown"):
        assert member_browser.post(path, json={}, headers=headers).status_code == 403


def test_an_operator_sees_all_kernels(operator_browser, visit):
    _, kernel_id = visit
    kernels = operator_browser.get("/api/kernels").json()
    assert kernel_id in {kernel["id"] for kernel in kernels}


def test_a_member_may_not_end_their_kernel_without_an_xsrf_token(visit):
    browser, kernel_id = visit
    assert browser.post(f"/voila/api/shutdown/{kernel_id}").status_code == 403
    assert browser.get(f"/api/kernels/{kernel_id}").ok
