"""Fixtures of the tests that need Slicer's libraries: the host, the panel, a case, pictures."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import host as test_host

sys.path.insert(0, str(Path(__file__).parent))

with contextlib.suppress(ImportError):  # before Qt, VTK and what they load: see TorchFirst in the conftest above
    importlib.import_module("torch")

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "RAUSlicer" / "RAUSlicer.py"
SHAPE = (32, 96, 96)
PICTURES = ROOT / "Docs" / "screenshots"


@pytest.fixture(scope="session")
def booted() -> Any:
    reason = test_host.why_not()
    if reason:
        pytest.skip(reason)
    from host.session import start

    return start()


@pytest.fixture
def host(booted: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The host with an empty scene; panels that the test opened are closed after it."""
    monkeypatch.setenv("RAU_PYTHON", sys.executable)
    booted.clear()
    yield booted
    booted.close_modules()
    booted.clear()


@pytest.fixture
def panel(host: Any) -> Any:
    """The module's widget, as it stands after its panel was opened."""
    return host.open_module(MODULE)


@dataclass
class Case:
    """Two patients in the scene: an annotated one, and one without annotation, whose truth only the test knows."""

    reference: Any
    segmentation: Any
    target: Any
    truth: dict[str, np.ndarray]


@pytest.fixture(scope="session")
def patients() -> Any:
    """Two synthetic patients; the first organ of the reference is missing in the target."""
    from rau.training.patient import patient_pair

    return patient_pair(7, SHAPE)


@pytest.fixture
def case(host: Any, patients: Any) -> Case:
    from scene import segmentation_node, volume_node

    reference, (target, labels) = patients[0], patients[1]
    image = volume_node(reference.image, "Reference CT")
    segmentation = segmentation_node(reference.labels, image, "Reference segmentation")
    truth = {one.name: labels.array == one.value for one in labels.structures}
    return Case(image, segmentation, volume_node(target, "Target CT"), truth)


@pytest.fixture
def chosen(host: Any, panel: Any, case: Case) -> Any:
    """The panel with reference and target picked through its selectors."""
    panel.references.rows[0].segmentation.setCurrentNode(case.segmentation)
    panel.ui.targetSelector.setCurrentNode(case.target)
    host.spin(lambda: panel.ui.segmentButton.enabled, 2)
    return panel


@pytest.fixture
def picture(host: Any) -> Callable[[str, Any], None]:
    """Save a widget or pixels under Docs/screenshots; only with RAU_SCREENSHOTS=1."""

    def save(name: str, what: Any) -> None:
        if os.environ.get("RAU_SCREENSHOTS") != "1":
            return
        PICTURES.mkdir(parents=True, exist_ok=True)
        path = PICTURES / f"{name}.png"
        if isinstance(what, np.ndarray):
            from PIL import Image

            Image.fromarray(what).save(path)
        else:
            size = what.size
            what.resize(440, max(720, what.layout().heightForWidth(440)))  # as the scroll area of Slicer's panel does
            host.app.processEvents()
            assert what.grab().save(str(path))
            what.resize(size)

    return save


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder of the test; under a name that can be shown where pictures are taken."""
    if os.environ.get("RAU_SCREENSHOTS") != "1":
        yield tmp_path
        return
    folder = Path(tempfile.gettempdir()) / "rauslicer"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder of wheels for the set-up."""
    import wheel_folder

    return wheel_folder.make(tmp_path / "wheels")


@pytest.fixture
def copying(chosen: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let the panel's worker be `copying_worker.py`; the folder in which it keeps what it was asked."""
    from RAUSlicerLib import environment

    folder, program = tmp_path / "asked", Path(__file__).with_name("copying_worker.py")
    folder.mkdir()
    variables = tuple(sorted(environment.worker_environment(os.environ).items()))

    def launch(python: str, base: Any, logic: Any = None) -> Any:
        return environment.Launch(sys.executable, (str(program), str(folder)), variables)

    monkeypatch.setattr(environment, "launch", launch)
    return folder
