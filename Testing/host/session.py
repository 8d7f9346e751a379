"""One host a process: boots once, opens modules, closes the scene, spins the event loop, takes pictures."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from host.pace import slowness

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("QT_LOGGING_RULES", "qt.qpa.*=false")

_host: Host | None = None


def waited() -> float:
    """Seconds that this thread was ready to run while other processes had the processor; 0 where that is not told."""
    try:
        with open("/proc/thread-self/schedstat") as file:
            return int(file.read().split()[1]) * 1e-9
    except (OSError, IndexError, ValueError):
        return 0.0


class Gaps(list[float]):
    """own: each gap without the time in which the machine was busy with other processes.
    slowness: how many times slower than usual the machine was."""

    def __init__(self) -> None:
        super().__init__()
        self.own: list[float] = []
        self.slowness = 1.0

    @property
    def worst(self) -> float:
        """The longest own gap in milliseconds, as it would be on a machine of the usual speed."""
        return max(self.own) / self.slowness

    def __str__(self) -> str:
        worst = max(range(len(self.own)), key=self.own.__getitem__)
        at = sum(self[: worst + 1]) / 1e3
        waiting = f"with waiting for a processor {max(self):.0f} ms"
        return f"{max(self.own):.0f} ms at {at:.2f} s ({waiting}; slowness {self.slowness:.2f}) over {len(self)} turns"


class Host:
    def __init__(self) -> None:
        import slicer

        from host import application, io_manager, qt_shim, sample_data, standins

        self.scene, self.application_logic = application.boot()
        self.qt = qt_shim.qt
        self.app = self.qt.QApplication.instance() or self.qt.QApplication(["host"])
        standins.install()
        sample_data.install()
        from host import mrml_widgets  # noqa: F401

        manager = io_manager.CoreIOManager(self.scene)
        slicer.app.coreIOManager = lambda: manager
        slicer.app.ioManager = lambda: manager
        slicer.app.processEvents = lambda *_: self.app.processEvents()
        slicer.app.aboutToQuit = lambda: slicer.app.emit("aboutToQuit()")
        self.opened: list[tuple[Any, Any]] = []

    def load(self, path: Path) -> Any:
        """The module file as Slicer imports it: under its own name, its folder on sys.path."""
        import slicer

        from host.application import LoadedModule

        folder, name = str(path.parent), path.stem
        if folder not in sys.path:
            sys.path.insert(0, folder)
        if name not in sys.modules or Path(sys.modules[name].__file__ or "") != path:
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec and spec.loader
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
        module = sys.modules[name]
        logic = getattr(module, name + "Logic", None)
        loaded = LoadedModule(_logic=logic() if logic else None, name=name, path=str(path))
        setattr(slicer.modules, name.lower(), loaded)
        return module

    def open_module(self, path: Path, size: tuple[int, int] = (440, 900)) -> Any:
        """The module's widget in a panel, set up and entered; `close_modules` cleans it up."""
        import slicer

        module = self.load(path)
        parent = slicer.qMRMLWidget()
        parent.setLayout(self.qt.QVBoxLayout())
        parent.setMRMLScene(self.scene)
        widget = getattr(module, path.stem + "Widget")(parent)
        widget.setup()
        self.opened.append((widget, parent))
        parent.resize(*size)
        parent.show()
        widget.enter()
        self.app.processEvents()
        return widget

    def close_modules(self) -> None:
        for widget, parent in self.opened:
            widget.exit()
            widget.cleanup()
            parent.hide()
            parent.deleteLater()
        self.opened.clear()
        self.app.processEvents()

    def clear(self) -> None:
        """An empty scene, as after File > Close scene."""
        import slicer

        self.scene.Clear(0)
        for name in ("vtkMRMLSelectionNode", "vtkMRMLInteractionNode"):
            if self.scene.GetFirstNodeByClass(name) is None:
                node = getattr(slicer, name)()
                node.SetSingletonTag("Singleton")
                self.scene.AddNode(node)
        self.app.processEvents()

    def spin(self, until: Callable[[], bool], seconds: float = 60.0) -> bool:
        """Run the event loop until the condition holds; False when the time is up first."""
        loop, end = self.qt.QEventLoop(), time.monotonic() + seconds
        timer = self.qt.QTimer()

        def look() -> None:
            if until() or time.monotonic() > end:
                loop.quit()

        timer.timeout.connect(look)
        timer.start(5)
        look_now = until()
        if not look_now:
            loop.exec()
        timer.stop()
        return until()

    @contextlib.contextmanager
    def stalls(self, every_ms: int = 5) -> Iterator[Gaps]:
        """How long the event loop was ever blocked: the gaps between the events of a timer, in milliseconds."""
        gaps = Gaps()
        last = [time.perf_counter(), waited()]

        def tick() -> None:
            now = [time.perf_counter(), waited()]
            gaps.append(1e3 * (now[0] - last[0]))
            gaps.own.append(1e3 * (now[0] - last[0] - (now[1] - last[1])))
            last[:] = now

        timer = self.qt.QTimer()
        timer.setTimerType(self.qt.Qt.TimerType.PreciseTimer)
        timer.timeout.connect(tick)
        gc.collect()
        gc.freeze()  # the garbage collector need not look at what other tests have left behind
        last[:] = [time.perf_counter(), waited()]
        timer.start(every_ms)
        try:
            yield gaps
        finally:
            timer.stop()
            gc.unfreeze()
            gaps.slowness = slowness()


def start() -> Host:
    """The host of this process."""
    global _host
    if _host is None:
        _host = Host()
    return _host
