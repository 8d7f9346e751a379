"""What users of such extensions complain about, one test a complaint: its situation, and what the user sees instead.

They were gathered from public issue threads; the number in a test's name is that of the complaint in the list.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer_lazy as lazy
import wheel_folder
from acts import finish, press, run, said, settle
from odd_server import Server
from scene import add_segment, difference, mask_of, segmentation_node, segments, snapshot, volume_node

from host.pace import STALL_MS
from rau.volume.volume import Geometry, LabelMap, Structure, Volume

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def end(host: Any, panel: Any, seconds: float = 30) -> Any:
    assert host.spin(lambda: panel.logic.run.state.over, seconds), panel.logic.run.state
    settle(host)
    return panel.logic.run.state


def worker_of_tests(monkeypatch: pytest.MonkeyPatch, *command: str) -> None:
    """Another program in place of the worker."""
    from RAUSlicerLib import environment

    variables = tuple(sorted(environment.worker_environment(os.environ).items()))
    launch = environment.Launch(sys.executable, command, variables)
    monkeypatch.setattr(environment, "launch", lambda python, base, logic=None: launch)


def faulty(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    worker_of_tests(monkeypatch, str(HERE / "fault_worker.py"), fault)


# -- 1
def no_network(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in (("INDEX_URL", "http://127.0.0.1:9/simple"), ("RETRIES", "1"), ("TIMEOUT", "3")):
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return ""


def torch_not_found(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    next(wheels.glob("torch-*.whl")).unlink()
    return str(wheels)


@pytest.mark.parametrize(
    "spoil, words",
    [(no_network, "index cannot be reached"), (torch_not_found, "lacks torch==")],
    ids=["no network", "torch not found"],
)
def test_complaint_1_installing_fails_and_nobody_says_why(
    host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Any, words: str
) -> None:
    """One line says what failed and one what to do; the button goes on from there; nothing of it is in the scene."""
    monkeypatch.setenv("RAU_ENVIRONMENT", str(tmp_path / "environment"))
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    box = host.open_module(ROOT / "RAUSlicer" / "RAUSlicer.py").environment
    before = snapshot(None)
    assert box.installation.root == tmp_path / "environment"
    box.wheels_edit.currentPath = spoil(wheel_folder.make(tmp_path / "wheels"), monkeypatch)
    box.main_button.click()
    if host.spin(lambda: box.installation.state.phase in ("asking", "failed"), 60) and not box.message.notice:
        plan = replace(box.installation.state.plan, needed=0.0)
        box.installation.state = replace(box.installation.state, plan=plan)  # the test needs no gigabytes
        box.main_button.click()
    assert host.spin(lambda: box.installation.state.phase == "failed", 120), box.installation.state
    settle(host)
    notice = box.message.notice
    assert notice.kind == "error" and words in notice.title and len(notice.lines[0]) > 10, notice
    assert "Traceback" not in str(notice) and "\n" not in notice.title
    assert box.main_button.enabled and not difference(before, snapshot(None))


# -- 2
def test_complaint_2_packages_of_slicer_are_overwritten_or_in_the_way(
    host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker does not see what Slicer's Python has, be it broken, and Slicer's folder is not written to."""
    from RAUSlicerLib import environment
    from RAUSlicerLib.qt_process import QtProcess, later
    from RAUSlicerLib.worker_client import WorkerClient

    foreign = tmp_path / "Slicer"
    for package in ("torch", "numpy", "SimpleITK", "pydicom", "pydantic", "rau"):
        (foreign / package).mkdir(parents=True)
        (foreign / package / "__init__.py").write_text("raise SystemExit('of another version')\n")
    variables = {**os.environ, "PYTHONPATH": str(foreign), "PYTHONHOME": str(foreign), "RAU_PYTHON": sys.executable}
    before = sorted(foreign.rglob("*"))
    client, told = WorkerClient(QtProcess, later), []
    client.listener = told.append
    client.ensure(environment.launch("", variables))
    assert host.spin(lambda: bool(told), 60)
    client.stop(wait=2.0)
    assert told[0]["event"] == "ready" and told[0]["versions"]["torch"], told
    assert sorted(foreign.rglob("*")) == before


# -- 3
BARE = """
import sys
for name in ("torch", "rau", "pydicom", "SimpleITK", "scipy", "pydantic", "highdicom", "PIL", "sklearn"):
    sys.modules[name] = None
from pathlib import Path
from host.session import start
host = start()
panel = host.open_module(Path(sys.argv[1]))
host.spin(lambda: False, 0.2)
print("button:", panel.ui.segmentButton.text, panel.ui.segmentButton.enabled)
print("set-up:", panel.environment.main_button.text, panel.ui.environmentSection.collapsed)
"""


def test_complaint_3_the_panel_does_not_appear_where_a_dependency_is_missing(host: Any, tmp_path: Path) -> None:
    """Where there is the extension and numpy alone, the panel opens, and its set-up is what one sees."""
    module = shutil.copytree(
        ROOT / "RAUSlicer", tmp_path / "RAUSlicer", ignore=shutil.ignore_patterns("rau", "Models", "__pycache__")
    )
    path = os.pathsep.join(str(one) for one in (ROOT / "Testing", module / "Logic"))
    variables = {**os.environ, "PYTHONPATH": path, "HOME": str(tmp_path), "RAU_ENVIRONMENT": str(tmp_path / "none")}
    for name in ("RAU_PYTHON", "XDG_DATA_HOME"):
        variables.pop(name, None)
    call = [sys.executable, "-c", BARE, str(module / "RAUSlicer.py")]
    ran = subprocess.run(call, capture_output=True, text=True, env=variables, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert "button: Segment from reference False" in ran.stdout
    assert "set-up: Set up RAUSlicer's Python environment False" in ran.stdout, "unfolded, as there is no Python"
    assert "Traceback" not in ran.stderr


# -- 4
@pytest.fixture
def connected(host: Any, chosen: Any) -> Iterator[Any]:
    """Connects the panel to an address, as the user does; what was entered goes with the test."""
    from RAUSlicerLib import remote_box

    names = (remote_box.ADDRESS_SETTING, remote_box.TOKEN_SETTING, remote_box.CONSENT_SETTING)
    settings, made = lazy.slicer().app.userSettings(), []

    def connect(answers: dict[str, tuple[int, bytes] | None]) -> None:
        made.append(Server(answers))
        made[0].start()
        box = chosen.remote
        box.use_box.click()
        box.address_edit.text, box.token_edit.text = made[0].url, "t" * 20
        box.consent_box.click()
        assert host.spin(lambda: chosen.ui.segmentButton.enabled, 5), chosen.ui.segmentButton.toolTip

    yield connect
    chosen.logic.close()
    for one in made:
        one.end()
    for name in names:
        settings.setValue(name, "")


@pytest.mark.parametrize("where", ["a run that hangs", "a server that is silent"])
def test_complaint_4_slicer_freezes_while_it_computes_or_waits_for_a_server(
    host: Any, chosen: Any, case: Any, monkeypatch: pytest.MonkeyPatch, connected: Any, where: str
) -> None:
    """The event loop goes on, the button says Cancel, and it does cancel."""
    before = snapshot(case.target)
    faulty(monkeypatch, "hang") if where == "a run that hangs" else connected({"": None})
    with host.stalls() as gaps:
        chosen.ui.segmentButton.click()
        host.spin(lambda: False, 1.0)
    assert not chosen.logic.run.state.over and gaps.worst < STALL_MS, str(gaps)
    assert chosen.ui.segmentButton.text == "Cancel" and chosen.ui.segmentButton.enabled
    asked = time.monotonic()
    chosen.ui.segmentButton.click()
    assert end(host, chosen).phase == "cancelled" and time.monotonic() - asked < 5
    assert not difference(before, snapshot(case.target))


# -- 5
@pytest.mark.parametrize(
    "fault, title, way_out",
    [
        ("nothing found", "None of the structures was found", "show the same region"),
        ("killed", "ended unexpectedly", "close other programs"),
        ("crash at start", "ended unexpectedly", "No module named 'torch'"),
        ("garbage", "not understood", "same version"),
        ("model missing", "No model X", "Get it"),
    ],
)
def test_complaint_5_no_result_and_no_reason(
    host: Any, chosen: Any, case: Any, monkeypatch: pytest.MonkeyPatch, fault: str, title: str, way_out: str
) -> None:
    """The message area says what happened and what to do, and stays."""
    before = snapshot(case.target)
    faulty(monkeypatch, fault)
    chosen.ui.segmentButton.click()
    assert end(host, chosen).phase == "failed"
    notice = chosen.message.notice
    assert notice.kind == "error" and title in notice.title and way_out in notice.lines[0], notice
    assert chosen.ui.messageFrame.isVisibleTo(chosen.parent)
    settle(host, 0.2)
    assert chosen.message.notice == notice, "nothing wipes it away"
    assert not difference(before, snapshot(case.target))


def test_complaint_5_a_result_says_what_is_missing_in_it(host: Any, chosen: Any, copying: Path) -> None:
    run(host, chosen)
    assert "Not found in the target" in said(chosen) and "Check first: liver" in said(chosen)


# -- 6
def test_complaint_6_memory_runs_out_or_is_never_given_back(
    host: Any, chosen: Any, case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told with what helps, the process stays useful, and one button ends it with all its memory."""
    before = snapshot(case.target)
    worker_of_tests(monkeypatch, str(HERE / "stage_worker.py"), str(tmp_path), "light")
    (tmp_path / "fault").write_text("segment memory")
    chosen.ui.segmentButton.click()
    assert end(host, chosen).phase == "failed"
    notice = chosen.message.notice
    assert "memory of this computer or its GPU does not suffice" in notice.title
    assert all(words in notice.lines[0] for words in ("device cpu", "acquisition plane", "smaller image")), notice
    assert not difference(before, snapshot(case.target))
    (tmp_path / "fault").write_text("none none")
    run(host, chosen)
    pid = chosen.logic.client._process.pid()
    chosen.ui.advancedSection.collapsed = False
    assert chosen.ui.releaseButton.enabled and os.path.exists(f"/proc/{pid}")
    chosen.ui.releaseButton.click()
    assert host.spin(lambda: not os.path.exists(f"/proc/{pid}"), 5)
    assert chosen.ui.workerLabel.text == "not running"


# -- 7
def turned(degrees: float) -> np.ndarray:
    """About an axis that is none of the patient's."""
    x, y, z = np.array([1.0, 0.3, 0.1]) / np.linalg.norm([1.0, 0.3, 0.1])
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


AXIAL = np.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])
DIRECTIONS = {
    "axial": AXIAL,
    "head to feet": AXIAL @ np.diag([-1.0, 1, 1]),
    "mirrored": AXIAL @ np.diag([1.0, -1, -1]),
    "sagittal": np.eye(3),
    "oblique": turned(23) @ AXIAL,
    "oblique, the other hand": turned(-37) @ AXIAL @ np.diag([1.0, 1, -1]),
}


def test_complaint_7_masks_lie_in_the_wrong_place_or_in_half_of_the_slices(
    host: Any, chosen: Any, copying: Path
) -> None:
    """Voxel for voxel where they belong, in every slice, however the image lies and wherever its origin is."""
    shape = (9, 14, 11)
    array = np.zeros(shape, np.uint8)
    array[:, 2:6, 1:5], array[1:8, 8:12, 6:9], array[0, 0, 0], array[-1, -1, -1] = 1, 2, 2, 1
    values = np.random.default_rng(0).normal(0, 50, shape).astype(np.float32)
    structures = (Structure(1, "one"), Structure(2, "two"))
    for name, direction in DIRECTIONS.items():
        grid = Geometry(shape, (2.7, 0.61, 0.83), (-111.3, 57.7, -943.1), direction)
        image = volume_node(Volume(values, grid, "CT"), f"Reference {name}")
        reference = segmentation_node(LabelMap(array, grid, structures), image, f"Segmentation {name}")
        target = volume_node(Volume(values[:, ::-1].copy(), grid, "CT"), f"Target {name}")
        chosen.references.rows[0].segmentation.setCurrentNode(reference)
        chosen.references.rows[0].volume.setCurrentNode(image)
        chosen.ui.targetSelector.setCurrentNode(target)
        chosen.ui.outputSelector.setCurrentNode(None)
        settle(host)
        run(host, chosen)
        output = chosen._parameterNode.outputSegmentation
        for value, segment in ((1, "one"), (2, "two")):
            ids = output.GetSegmentation().GetSegmentIdBySegmentName(segment)
            assert np.array_equal(mask_of(output, ids, target), array == value), (name, segment)


# -- 8
READY = b'{"event": "ready", "protocol": 1, "versions": {}, "device": "cuda", "limits": {"upload": 0}}'
GREETED = {"POST /v1/hello": (200, READY), "POST /v1/jobs": (200, b'{"job": "a"}')}
PAGE = b"<html><body><h1>504 Gateway Time-out</h1></body></html>"


@pytest.mark.parametrize(
    "answers, title, way_out",
    [
        ({"": (504, PAGE)}, "a proxy, gets no answer from it (status 504)", "rau serve runs there"),
        ({**GREETED, "": (500, b"")}, "answered with status 500", "rau serve"),
        ({**GREETED, "": (413, PAGE)}, "takes no images of this size", "limit raised"),
        ({"": (200, b"<html>It works!</html>")}, "is no RAUSlicer server", "address"),
    ],
    ids=["504 of a proxy", "500 on upload", "413 of a proxy", "another server"],
)
def test_complaint_8_the_connection_to_a_server_fails_with_a_number(
    host: Any, chosen: Any, case: Any, connected: Any, answers: Any, title: str, way_out: str
) -> None:
    """In words, at once, with the scene as it was."""
    before = snapshot(case.target)
    connected(answers)
    chosen.ui.segmentButton.click()
    assert end(host, chosen).phase == "failed"
    notice = chosen.message.notice
    assert title in notice.title and way_out in notice.lines[0] and "<" not in notice.title, notice
    assert not difference(before, snapshot(case.target))


def test_complaint_8_an_address_without_http_is_asked_for_before_the_run(host: Any, chosen: Any) -> None:
    chosen.remote.use_box.click()
    chosen.remote.address_edit.text = "gpu.clinic:8417"
    assert host.spin(lambda: not chosen.ui.segmentButton.enabled, 5)
    assert "Give one like http://127.0.0.1:8417" in said(chosen)
    chosen.remote.address_edit.text = ""


# -- 9
def test_complaint_9_a_new_run_damages_an_earlier_segmentation(
    host: Any, chosen: Any, case: Any, copying: Path
) -> None:
    """What was there stays voxel for voxel, hand-drawn and overlapping segments too; undo takes the new run alone."""
    slicer = lazy.slicer()
    run(host, chosen)
    output = chosen._parameterNode.outputSegmentation
    first = output.GetSegmentation().GetNthSegmentID(0)
    mine = mask_of(output, first, case.target)
    mine[3:6] = False
    mine[20, 5:30, 5:30] = True
    slicer.util.updateSegmentBinaryLabelmapFromArray(mine.astype(np.uint8), output, first, case.target)
    over = np.zeros(mine.shape, bool)
    over[8:24, 20:70, 20:70] = True
    add_segment(output, case.target, "drawn by hand", over)
    earlier = segments(output, case.target)
    chosen.ui.segmentButton.click()
    finish(host, chosen)
    assert segments(output, case.target)[: len(earlier)] == earlier
    names = [one.name for one in segments(output, case.target)]
    assert "liver (2)" in names and len(names) > len(earlier)
    press(host, chosen, "undoButton")
    assert segments(output, case.target) == earlier


# -- 10
def test_complaint_10_for_which_images_it_is_meant_is_not_said(host: Any, chosen: Any, case: Any) -> None:
    """The module's help says it, and the panel says before the run in what target and reference differ."""
    words = lazy.module("RAUSlicer").RAUSlicer
    parent = type("Parent", (), {})()
    words(parent)
    assert "not for clinical use" in parent.helpText and all(
        one in parent.helpText for one in ("CT", "MR", "same kind")
    )
    case.target.SetAttribute("DICOM.Modality", "MR")
    chosen._parameterNode.referencesPerSlice = 4  # whatever is changed, the panel looks again
    chosen.ui.preflightSection.collapsed = False
    assert host.spin(lambda: "to look at" in chosen.ui.preflightSection.text, 5), chosen.ui.preflightSection.text
    label = chosen.ui.preflightSection.findChild(host.qt.QLabel, "preflightLabel").text
    assert "target MR, reference CT" in label and "expect poor results" in label
