"""`Process` of `worker_client` on QProcess, and `Later` on QTimer. Works with PythonQt on Qt 5 and 6."""

from __future__ import annotations

from typing import Any, Callable

import qt

from RAUSlicerLib.environment import Launch
from RAUSlicerLib.process_tree import kill_tree


def later(seconds: float, function: Callable[[], None]) -> None:
    """Run a function in the event loop after some time."""
    qt.QTimer.singleShot(int(1000 * seconds), function)


class QtProcess:
    def __init__(self) -> None:
        self.on_output: Callable[[bytes], None] = lambda data: None
        self.on_error_text: Callable[[bytes], None] = lambda data: None
        self.on_finished: Callable[[int | None], None] = lambda status: None
        self._over = False
        self._process: Any = qt.QProcess()
        self._process.setProcessChannelMode(qt.QProcess.SeparateChannels)
        self._process.connect("readyReadStandardOutput()", self._read_output)
        self._process.connect("readyReadStandardError()", self._read_error)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._finished)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._error)

    def start(self, launch: Launch) -> None:
        self._process.setEnvironment([f"{name}={value}" for name, value in launch.environment])
        self._process.start(launch.program, list(launch.arguments))

    def write(self, data: bytes) -> None:
        if not self._over:
            self._process.write(qt.QByteArray(data))

    def close_input(self) -> None:
        self._process.closeWriteChannel()

    def kill_tree(self) -> None:
        if not self._over:
            kill_tree(int(self._process.processId()))
            self._process.kill()

    def wait(self, seconds: float) -> bool:
        return self._over or bool(self._process.waitForFinished(int(1000 * seconds)))

    def pid(self) -> int:
        return int(self._process.processId())

    def _read_output(self) -> None:
        self.on_output(_bytes(self._process.readAllStandardOutput()))

    def _read_error(self) -> None:
        self.on_error_text(_bytes(self._process.readAllStandardError()))

    def _finished(self, status: int, how: Any = None) -> None:
        self._end(-max(1, int(status)) if how == qt.QProcess.CrashExit else int(status))

    def _error(self, error: Any) -> None:
        if error == qt.QProcess.FailedToStart:
            self._end(None)
        elif error == qt.QProcess.WriteError:  # it has closed its input: what is asked never arrives
            self.kill_tree()

    def _end(self, status: int | None) -> None:
        if not self._over:
            self._read_output()
            self._read_error()
            self._over = True
            self.on_finished(status)


def _bytes(data: Any) -> bytes:
    """What PythonQt or PySide give for a QByteArray."""
    content = data.data() if hasattr(data, "data") and not isinstance(data, bytes) else data
    return content.encode() if isinstance(content, str) else bytes(content)
