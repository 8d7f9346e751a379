"""The panel's end of the worker process: start, handshake, jobs, cancel, crash. Knows neither Qt nor Slicer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from RAUSlicerLib import protocol
from RAUSlicerLib.environment import Launch
from RAUSlicerLib.exchange import private_folder, remove_folder
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.problems import Problem
from RAUSlicerLib.protocol import Message

START_SECONDS = 180.0  # importing torch from a slow disk takes its time
CANCEL_SECONDS = 2.0
LEAVE_SECONDS = 3.0
KILLED = -9  # exit status of a process that somebody, or the system for want of memory, has ended by force

Later = Callable[[float, Callable[[], None]], None]  # run a function in so many seconds, in the GUI's thread


class Process(Protocol):
    """One child process. The callbacks are set before `start`; all of them come in the GUI's thread."""

    on_output: Callable[[bytes], None]
    on_error_text: Callable[[bytes], None]
    on_finished: Callable[[int | None], None]  # exit status, below 0 when it crashed; None: it could not be started

    def start(self, launch: Launch) -> None: ...
    def write(self, data: bytes) -> None: ...
    def close_input(self) -> None: ...
    def kill_tree(self) -> None: ...
    def wait(self, seconds: float) -> bool: ...


class WorkerClient:
    """One worker at a time, kept between jobs.

    listener: gets the worker's events of the current job, and an `error` event of kind "WorkerEnded" or
    "BrokenProtocol" when the worker is lost. on_state: gets "stopped", "starting", "ready", "busy" or "cancelling".
    """

    def __init__(self, make_process: Callable[[], Process], later: Later, folder_base: str = "") -> None:
        self.make_process, self.later, self.folder_base = make_process, later, folder_base
        self.listener: Callable[[Message], None] = lambda message: None
        self.on_state: Callable[[str], None] = lambda state: None
        self.state = "stopped"
        self.ready: Message = {}
        self.folder: Path | None = None
        self.log: deque[str] = deque(maxlen=200)
        self._process: Process | None = None
        self._launch: Launch | None = None
        self._jobs, self._job = 0, 0

    # -- life
    def ensure(self, launch: Launch) -> None:
        """Start the worker unless the same one is there already, with its folder. A failure comes as an event."""
        if self._process is not None and launch == self._launch and self.folder is not None and self.folder.is_dir():
            return
        self.stop()
        self._launch = launch
        try:
            self.folder = private_folder(self.folder_base)
        except Problem as problem:
            self._fail(problem.kind, problem.message, problem.hint)
            return
        self.log.clear()
        process, lines = self.make_process(), protocol.Lines()
        process.on_output = lambda data: self._on_output(process, lines, data)
        process.on_error_text = self._on_error_text
        process.on_finished = lambda status: self._on_finished(process, status)
        self._process, self.ready = process, {}
        self._enter("starting")
        process.start(launch)
        if self._process is process:
            process.write(protocol.encoded(protocol.hello(str(self.folder))))
            self.later(START_SECONDS, lambda: self._on_start_timeout(process))

    def stop(self, wait: float = 0.0) -> None:
        """End the worker: it is asked to leave, its input closed, and it is killed when it does not go.

        wait: seconds to wait here for its end (when the application quits); 0 to look after it later.
        """
        process, self._process, self._job = self._process, None, 0
        folder, self.folder = self.folder, None
        self._enter("stopped")
        if process is None:
            remove_folder(folder)
            return
        process.on_output = process.on_error_text = lambda data: None
        process.on_finished = lambda status: remove_folder(folder)
        process.write(protocol.encoded(protocol.leave()))
        process.close_input()
        if wait:
            if not process.wait(wait):
                process.kill_tree()
                process.wait(1.0)
            remove_folder(folder)
        else:
            self.later(LEAVE_SECONDS, process.kill_tree)

    # -- jobs
    def next_job(self) -> int:
        """The number of the job to come: the names of its files are made from it."""
        self._jobs += 1
        return self._jobs

    def submit(self, job: int, message: Message) -> None:
        """Send a segment message (without op and job), or another one with its op, to a worker that is ready."""
        assert self._process is not None and self.state == "ready"
        self._job = job
        self._enter("busy")
        self._process.write(protocol.encoded({"op": "segment", **message, "job": job}))

    def cancel(self) -> None:
        """Ask the worker to stop the job; kill it when it does not within two seconds. Ends in a `cancelled` event."""
        if self.state != "busy" or self._process is None:
            return
        process, job = self._process, self._job
        self._enter("cancelling")
        process.write(protocol.encoded(protocol.cancel(job)))

        def too_late() -> None:
            if self._process is process and self._job == job:
                self._lose()
                self.listener({"event": "cancelled", "job": job})

        self.later(CANCEL_SECONDS, too_late)

    # -- what the process does
    def _enter(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self.on_state(state)

    def _lose(self) -> None:
        """Kill the worker and forget it."""
        process, self._process, self._job = self._process, None, 0
        folder, self.folder = self.folder, None
        if process is not None:
            process.on_output = process.on_error_text = lambda data: None
            process.on_finished = lambda status: None
            process.kill_tree()
        remove_folder(folder)
        self._enter("stopped")

    def _fail(self, kind: str, message: str, hint: str) -> None:
        self._lose()
        self.listener({"event": "error", "kind": kind, "message": message, "hint": hint, "trace": self.last_lines()})

    def _on_output(self, process: Process, lines: protocol.Lines, data: bytes) -> None:
        if self._process is not process:
            return
        try:
            messages = lines.feed(data)
        except protocol.BrokenProtocol as problem:
            self._fail(
                "BrokenProtocol",
                _("The model process sent something that is not understood") + f" ({problem})",
                _("Choose a Python with the same version of RAUSlicer under Advanced"),
            )
            return
        for message in messages:
            if self._process is process:
                self._on_message(message)

    def _on_message(self, message: Message) -> None:
        if message["event"] == "ready":
            self._on_ready(message)
        elif message["event"] == "error" and message.get("job") is None:
            self._lose()
            self.listener(message)
        elif message.get("job") == self._job and self.state in ("busy", "cancelling"):
            if message["event"] in protocol.LAST:
                self._job = 0
                self._enter("ready")
            self.listener(message)

    def _on_ready(self, message: Message) -> None:
        if message.get("protocol") != protocol.VERSION:
            self._fail(
                "BrokenProtocol",
                _("The model process speaks another version of the protocol"),
                _("Bring the engine and the extension to the same version"),
            )
        elif self.state == "starting":
            self.ready = message
            self._enter("ready")
            self.listener(message)

    def _on_error_text(self, data: bytes) -> None:
        self.log.extend(line for line in data.decode("utf-8", "replace").splitlines() if line.strip())

    def _on_finished(self, process: Process, status: int | None) -> None:
        if self._process is not process:
            return
        if status is None:
            message = _("The Python of the model could not be started")
            hint = _("Choose another under Advanced")
        else:
            message = _("The model process ended unexpectedly")
            again = _("Run again; when it happens again, choose the device CPU or a smaller image")
            if status == KILLED:
                again = _("It was killed, often for want of memory: close other programs, then run again")
            hint = again if status < 0 else self._reason() or again  # who was killed has said nothing of it
        self._process = None
        remove_folder(self.folder)
        self.folder, self._job = None, 0
        self._enter("stopped")
        self.listener(
            {"event": "error", "kind": "WorkerEnded", "message": message, "hint": hint, "trace": self.last_lines()}
        )

    def _on_start_timeout(self, process: Process) -> None:
        if self._process is process and self.state == "starting":
            self._fail("WorkerEnded", _("The model process did not answer"), _("Choose another Python under Advanced"))

    def _reason(self) -> str:
        """What Python said last when it ended with an exception."""
        if any(line.startswith("Traceback") or "rror: " in line for line in self.log):  # not the kind of an error told
            return self.log[-1].strip()[:200]
        if self.log and "No module named" in self.log[-1]:
            return self.log[-1].rpartition(": ")[2][:200]
        return ""

    def last_lines(self, count: int = 12) -> str:
        return "\n".join(list(self.log)[-count:])
