"""The SuperNode's process: a lab's data on one side, a SuperLink on the other.

It executes nothing that it receives.  Before the first message of a run is fetched, it fetches
the run's FAB and compares its bytes' SHA-256 with that of the FAB of the package installed here;
a run of any other app is refused and reported, and none of its messages is read.

A SuperLink that falls silent is looked for: another one may take its place and go on with the
run.  So that a node which was killed can go on too, what it keeps between rounds is written to its
folder before the update that led to it is sent.
"""

from __future__ import annotations

import hashlib
import logging
import signal
import threading
import time
from pathlib import Path
from types import FrameType

from neuronexus_kernel.errors import (
    AuthenticationError,
    EvaluationError,
    HubUnavailableError,
    NeuroNexusError,
)
from neuronexus_kernel.federation._flower import (
    Context,
    Error,
    ErrorCode,
    Message,
    RecordDict,
)
from neuronexus_kernel.federation.deployment.apps import make_client_app
from neuronexus_kernel.federation.deployment.child import Reporter, instructions
from neuronexus_kernel.federation.deployment.fab import build
from neuronexus_kernel.federation.deployment.fleet import Assignment, Fleet, RunOver
from neuronexus_kernel.federation.deployment.node import (
    MEMORY_FILE,
    Node,
    load_data,
    remember,
    remembered,
)
from neuronexus_kernel.federation.deployment.tls import load_node_key
from neuronexus_kernel.federation.durable import Folder

IDLE_SECONDS = 0.2
"""Pause between two looks for messages."""

LOST_SECONDS = 600.0
"""A SuperLink that does not answer for so long is given up."""

UNKNOWN_SECONDS = 5.0
"""A SuperLink that has just been started may not know this node's key yet, but soon will."""

_RETRY_SECONDS = 0.5

log = logging.getLogger("neuronexus.node")


class NodeLoop:
    """Answers messages until told to stop, or until the SuperLink sends the node away.

    Parameters
    ----------
    fleet
        The connection.
    node
        The lab.
    reporter
        Told of every change.
    folder
        Where what the node keeps between rounds is written.
    """

    def __init__(self, fleet: Fleet, node: Node, reporter: Reporter, *, folder: Path) -> None:
        self._fleet = fleet
        self._reporter = reporter
        self._folder = Folder(folder)
        self._app = make_client_app(lambda context: node)
        self._ours = build().sha256
        self._admitted: dict[int, Context] = {}
        self._state = RecordDict()
        if MEMORY_FILE in self._folder.names():
            remember(self._state, self._folder.read(MEMORY_FILE))
        self._answered = 0
        self.stop = threading.Event()

    def run(self) -> None:
        """Answer messages.

        Raises
        ------
        AuthenticationError
            When the SuperLink no longer knows the node: the federation is over.
        EvaluationError
            If it serves an app that is not installed here.
        HubUnavailableError
            If it has been silent for too long.
        """
        trouble = _Trouble()
        while not self.stop.is_set():
            try:
                if trouble.unknown:
                    self._fleet.sign_in()
                assignment = self._fleet.next()
                if trouble.over():
                    log.info("The SuperLink answers again.")
                    self._reporter.say(state="waiting", reason="", node=str(self._fleet.node_id))
                if assignment is None:
                    self.stop.wait(IDLE_SECONDS)
                else:
                    self._take(assignment)
            except RunOver:
                continue
            except (AuthenticationError, HubUnavailableError) as error:
                log.warning("%s", error)
                trouble.meet(error)
                self._reporter.say(state="connecting", reason=str(error))
                self.stop.wait(_RETRY_SECONDS)

    def _take(self, assignment: Assignment) -> None:
        run = assignment.run
        if run not in self._admitted:
            self._admit(assignment)
        message = self._fleet.fetch(assignment)
        round = message.metadata.group_id
        self._reporter.say(state="training", round=round)
        before = remembered(self._state)
        reply = self._answer(message, self._admitted[run])
        if (kept := remembered(self._state)) != before:
            self._folder.replace(MEMORY_FILE, kept)
        self._fleet.send(reply)
        self._answered += 1
        self._reporter.say(state="waiting", answered=self._answered)
        log.info("Answered a %s message of round %s.", message.metadata.message_type, round)

    def _answer(self, message: Message, context: Context) -> Message:
        try:
            return self._app(message, context)
        except Exception as error:  # such as a message of a kind that nobody here knows
            reason = f"{type(error).__name__}: {error}"
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)

    def _admit(self, assignment: Assignment) -> None:
        """Let a run in if its app is the one installed here."""
        run = assignment.run
        theirs = hashlib.sha256(self._fleet.app(run)).hexdigest()
        if theirs != self._ours:
            reason = (
                f"The SuperLink serves an app with SHA-256 {theirs}, but the NeuroNexus installed "
                f"here is {self._ours}. Nothing of it was executed. Install the same version of "
                "NeuroNexus on both sides."
            )
            envelope = self._fleet.empty(assignment)
            self._fleet.send(Message(Error(ErrorCode.INVALID_FAB, reason), reply_to=envelope))
            raise EvaluationError(reason)
        self._admitted[run] = Context(
            run_id=run,
            node_id=self._fleet.node_id,
            node_config={},
            state=self._state,
            run_config={},
        )


class _Trouble:
    """How long a SuperLink has been silent, or has not known this node."""

    def __init__(self) -> None:
        self._silent_since: float | None = None
        self._unknown_since: float | None = None

    @property
    def unknown(self) -> bool:
        """Whether the SuperLink has said that it does not know the node."""
        return self._unknown_since is not None

    def meet(self, error: NeuroNexusError) -> None:
        """Take note of an error; raise it when there is nothing more to hope for."""
        now = time.monotonic()
        if isinstance(error, AuthenticationError):
            self._unknown_since = self._unknown_since or now
            if now - self._unknown_since > UNKNOWN_SECONDS:
                raise error
        elif self.unknown:
            raise AuthenticationError("The SuperLink has sent this node away, and is gone.")
        else:
            self._silent_since = self._silent_since or now
            if now - self._silent_since > LOST_SECONDS:
                raise HubUnavailableError(f"{error} If the federation is resumed, join it again.")

    def over(self) -> bool:
        """Forget what was; return whether there was anything."""
        met = self._silent_since is not None or self.unknown
        self._silent_since = self._unknown_since = None
        return met


def main() -> None:
    """Serve as a node until told to end."""
    told = instructions()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    report = Path(str(told["report"]))
    reporter = Reporter(report)
    reporter.say(state="connecting", node=told["previous"])
    try:
        node = Node(
            load_data(Path(str(told["data"]))),
            partition=None if told["partition"] is None else int(str(told["partition"])),
            executor=str(told["executor"]),
        )
        fleet = Fleet(
            str(told["address"]),
            str(told["authority"]).encode(),
            load_node_key(Path(str(told["key"]))),
            previous=None if told["previous"] is None else int(str(told["previous"])),
        )
    except NeuroNexusError as error:
        reporter.say(state="refused", reason=str(error))
        raise SystemExit(1) from None
    import torch  # noqa: F401  takes seconds: better now than in the first round

    loop = NodeLoop(fleet, node, reporter, folder=report.parent)

    def end(signum: int, frame: FrameType | None) -> None:
        loop.stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    reporter.say(state="waiting", node=str(fleet.node_id))
    state, reason = "stopped", ""
    try:
        loop.run()
    except AuthenticationError:
        state = "ended"
    except EvaluationError as error:
        state, reason = "refused", str(error)
    except NeuroNexusError as error:
        state, reason = "lost", str(error)
    finally:
        fleet.close(goodbye=state != "refused")  # why it refused is still to be read
        if reason:
            log.error("%s", reason)
        reporter.say(state=state, reason=reason)
    raise SystemExit(1 if reason else 0)


if __name__ == "__main__":
    main()
