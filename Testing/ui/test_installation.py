"""Set-up of the worker's own environment from a folder of tiny wheels: whole, broken off, repaired, removed."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from wheel_folder import PACKAGE, pin

from host.pace import STALL_MS
from RAUSlicerLib import environment, installation_helper, installation_system
from RAUSlicerLib.installation_plan import Options
from RAUSlicerLib.problems import Problem

MODULE = Path(__file__).resolve().parents[2] / "RAUSlicer" / "RAUSlicer.py"
HERE = str(Path(sys.executable).parent)


class Setup:
    """An installation in a folder of the test, with what it told."""

    def __init__(self, host: Any, folder: Path, **variables: str) -> None:
        from RAUSlicerLib.installation import Installation
        from RAUSlicerLib.qt_process import QtProcess, later

        kept = {k: v for k, v in os.environ.items() if not k.startswith("PIP_") and k != "RAU_PYTHON"}
        self.variables = {**kept, "PATH": HERE, "RAU_ENVIRONMENT": str(folder / "environment"), **variables}
        self.host, self.told = host, []
        self.machine = Installation(QtProcess, later, lambda: self.variables, on_state=self.told.append)

    def look(self, wheels: Path | None = None, **options: str) -> Any:
        self.machine.look(Options(wheels=str(wheels or ""), **options))
        return self.settle()

    def settle(self, seconds: float = 120.0) -> Any:
        assert self.host.spin(lambda: not self.machine.state.busy, seconds), self.machine.state
        return self.machine.state

    def set_up(self, wheels: Path | None = None, **options: str) -> Any:
        assert self.look(wheels, **options).phase == "asking", self.machine.state.problem
        self.machine.start()
        return self.settle()


@pytest.fixture
def setup(host: Any, tmp_path: Path) -> Iterator[Setup]:
    made = Setup(host, tmp_path)
    yield made
    made.machine.close()


# -- the whole way
def test_an_environment_is_made_from_a_folder_without_a_download_and_the_worker_starts_in_it(
    host: Any, setup: Setup, wheels: Path
) -> None:
    state = setup.look(wheels)
    words = " ".join(state.plan.words())
    assert "Nothing is downloaded" in words and str(wheels) in words and "are free" in words
    assert not setup.machine.root.exists(), "to look makes nothing"
    setup.machine.start()
    with host.stalls() as gaps:
        state = setup.settle()
    assert state.phase == "made", state.problem
    assert gaps.worst < STALL_MS, str(gaps)
    phases = list(dict.fromkeys(one.phase for one in setup.told))
    assert phases == ["looking", "asking", "making", "torch", "packages", "checking", "made"]
    shares = [one.done for one in setup.told if one.phase in ("making", "torch", "packages", "checking")]
    assert shares == sorted(shares) and shares[-1] > 0.9
    root = setup.machine.root
    assert state.made["versions"]["torch"] and state.made["device"] in ("cpu", "cuda")
    assert sorted(one.name for one in root.iterdir() if one.is_dir()) == ["python"], "caches are gone"
    launch = environment.launch("", setup.variables)
    assert Path(launch.program) == root.joinpath("python", *environment.WITHIN)
    assert ready_of(host, launch)["versions"]["rau"]
    setup.machine.remove()
    assert setup.settle().phase == "none" and not root.exists()
    with pytest.raises(Problem, match="No Python"):
        environment.find_python("", {**setup.variables, "HOME": str(root)}, root / "Logic")


def ready_of(host: Any, launch: Any) -> Any:
    from RAUSlicerLib.qt_process import QtProcess, later
    from RAUSlicerLib.worker_client import WorkerClient

    client, told = WorkerClient(QtProcess, later), []
    client.listener = told.append
    client.ensure(launch)
    assert host.spin(lambda: bool(told), 60)
    client.stop(wait=2.0)
    assert told[0]["event"] == "ready", told
    return told[0]


def test_what_broke_off_is_gone_on_with(setup: Setup, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = (wheels / "requirements.txt").read_text()
    (wheels / "requirements.txt").write_text(good.rsplit("sha256:", 1)[0] + "sha256:" + "0" * 64 + "\n")
    state = setup.set_up(wheels)
    assert state.phase == "failed" and state.problem.kind == "Hash" and "stand" in state.problem.message
    site = next(setup.machine.root.glob("python/lib*/**/engine_packages.pth"))
    written = site.stat().st_mtime_ns
    assert environment.made_environment(setup.machine.root) is None, "half an environment is none"
    (wheels / "requirements.txt").write_text(good)
    no_check(monkeypatch)
    again = Setup(setup.host, setup.machine.root.parent)
    assert again.machine.state.phase == "half"
    assert again.set_up(wheels).phase == "made"
    assert site.stat().st_mtime_ns == written, "what was there was not made anew"
    assert again.set_up(wheels).phase == "made", "and a repair makes it anew"
    assert site.stat().st_mtime_ns != written


def no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the import of torch, where the test is about something else."""
    from RAUSlicerLib import installation_plan

    monkeypatch.setattr(installation_plan, "LOGIC_FOLDER", Path("/nowhere"))
    whole = installation_system.helper

    def helper(program: str, arguments: Any, variables: Any) -> Any:
        return whole(program, ("probe",) if arguments[0] == "check" else arguments, variables)

    monkeypatch.setattr(installation_plan.system, "helper", helper)


def slow_package(folder: Path) -> None:
    """A source package that takes a minute to build."""
    backend = "import time\ndef build_wheel(*a, **k): time.sleep(60)\nprepare_metadata_for_build_wheel = build_wheel\n"
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "slow"\nbackend-path = ["."]\n',
        "slow.py": backend,
        "PKG-INFO": "Metadata-Version: 2.1\nName: slow\nVersion: 1.0\n",
    }
    with tarfile.open(folder / "slow-1.0.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"slow-1.0/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    with (folder / "requirements.txt").open("a") as file:
        file.write(pin(folder / "slow-1.0.tar.gz", "slow"))


def test_cancel_ends_the_processes_and_leaves_nothing(host: Any, setup: Setup, wheels: Path) -> None:
    slow_package(wheels)
    assert setup.look(wheels).phase == "asking"
    setup.machine.start()
    assert host.spin(lambda: setup.machine.state.phase == "packages" and "slow" in setup.machine.state.text, 60)
    process = setup.machine._process
    pid = process.pid()
    setup.machine.cancel()
    assert setup.settle(20).phase == "none"
    assert not setup.machine.root.exists() and not os.path.exists(f"/proc/{pid}")


def test_quitting_keeps_the_half_and_another_window_waits(host: Any, setup: Setup, wheels: Path) -> None:
    slow_package(wheels)
    setup.look(wheels)
    setup.machine.start()
    assert host.spin(lambda: setup.machine.state.phase == "packages", 60)
    note = setup.machine.root / "at-work.json"
    assert str(os.getpid()) in note.read_text()
    setup.machine.close()
    assert not note.exists() and (setup.machine.root / "python").is_dir()
    note.write_text(f'{{"process": {os.getppid()}}}')
    with pytest.raises(Problem, match="Another Slicer"):
        installation_system.claim(setup.machine.root)


# -- the box in the panel
def test_the_box_shows_what_would_be_done_does_it_and_removes_it_after_a_second_press(
    host: Any, tmp_path: Path, place: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch, picture: Any
) -> None:
    no_check(monkeypatch)
    monkeypatch.setenv("RAU_ENVIRONMENT", str(place / "environment"))
    monkeypatch.setenv("PATH", HERE)
    monkeypatch.delenv("RAU_PYTHON")
    panel = host.open_module(MODULE)
    box, said = panel.environment, lambda: box.message.notice
    panel.ui.environmentSection.collapsed = False
    assert box.main_button.text == "Set up RAUSlicer's Python environment"
    box.wheels_edit.currentPath = str(tmp_path / "nowhere")
    box.main_button.click()
    assert host.spin(lambda: said() is not None, 20) and "no wheels" in said().title
    box.wheels_edit.currentPath = ""
    box.main_button.click()
    assert host.spin(lambda: box.main_button.text == "Download and install", 20), said()
    assert "Downloads about" in box.plan_label.text and not (place / "environment").exists()
    panel.ui.structuresSection.collapsed = True
    host.spin(lambda: False, 0.05)
    assert "Disk: " in box.plan_label.text and box.plan_label.height >= box.plan_label.heightForWidth(
        box.plan_label.width
    )
    picture("panel-setup", panel.parent)
    box.wheels_edit.currentPath = str(wheels)
    assert not box.plan_label.text, "another choice makes another plan"
    box.main_button.click()
    assert host.spin(lambda: box.main_button.text == "Install", 20), said()
    box.main_button.click()
    assert host.spin(lambda: box.installation.state.phase == "made", 60), box.installation.state
    assert said().kind == "done" and box.main_button.text == "Repair" and box.status_label.text.startswith("Ready")
    python = environment.find_python("", os.environ)
    assert Path(python).is_relative_to(place / "environment"), "the panel uses it from now on"
    box.remove_button.click()
    assert box.remove_button.text == "Press again to remove" and Path(python).exists()
    box.remove_button.click()
    assert host.spin(lambda: box.installation.state.phase == "none", 20)
    assert not (place / "environment").exists()


# -- what goes wrong, in one line each
def test_a_damaged_wheel_is_told_by_name(setup: Setup, wheels: Path) -> None:
    broken = wheels / "stand_in-1.0-py3-none-any.whl"
    broken.write_bytes(broken.read_bytes()[:200])
    text = (wheels / "requirements.txt").read_text().splitlines(keepends=True)
    (wheels / "requirements.txt").write_text(text[0] + pin(broken, PACKAGE))
    problem = setup.set_up(wheels).problem
    assert problem.kind == "Damaged" and "stand_in" in problem.message and "\n" not in str(problem)


def test_a_wheel_that_the_folder_lacks_is_told_by_name(setup: Setup, wheels: Path) -> None:
    with (wheels / "requirements.txt").open("a") as file:
        file.write(f"elsewhere==2.0 --hash=sha256:{'1' * 64}\n")
    problem = setup.set_up(wheels).problem
    assert "lacks elsewhere==2.0" in problem.message and "folder" in problem.hint


@pytest.mark.parametrize(
    "variables, kind",
    [
        ({"PIP_INDEX_URL": "http://127.0.0.1:9/simple"}, "Network"),
        ({"PIP_INDEX_URL": "https://index.invalid/simple", "https_proxy": "http://127.0.0.1:9"}, "Proxy"),
    ],
)
def test_no_network_and_no_proxy_are_told(host: Any, tmp_path: Path, variables: dict[str, str], kind: str) -> None:
    quick = {"PIP_RETRIES": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_TIMEOUT": "5"}
    setup = Setup(host, tmp_path, **quick, **variables)
    state = setup.look(build="cpu")
    words = " ".join(state.plan.words())
    assert installation_system.host_of(variables["PIP_INDEX_URL"]) in words and "GB" in words
    assert ("proxy 127.0.0.1:9" in words) == (kind == "Proxy")
    with_room(setup)
    setup.machine.start()
    problem = setup.settle().problem
    assert problem.kind == kind and "button again" in problem.hint and "\n" not in str(problem)


def with_room(setup: Setup) -> None:
    """The test needs no gigabytes."""
    setup.machine.state = replace(setup.machine.state, plan=replace(setup.machine.state.plan, needed=0.0))


def test_a_disk_that_is_too_small_is_told_before_anything_is_made(setup: Setup, wheels: Path) -> None:
    plan = setup.look(wheels).plan
    setup.machine.state = replace(setup.machine.state, plan=replace(plan, free=1e9, needed=7e9))
    setup.machine.start()
    state = setup.machine.state
    assert state.phase == "failed" and state.problem.kind == "DiskFull"
    assert "7.0 GB" in state.problem.message and "1.0 GB are free" in state.problem.message
    assert not setup.machine.root.exists()


def test_a_folder_that_cannot_be_written_is_told(host: Any, tmp_path: Path, wheels: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    setup = Setup(host, tmp_path / "file")
    problem = setup.set_up(wheels).problem
    assert problem.kind == "PermissionError" and "cannot be written" in problem.message


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="shell scripts")
def test_pythons_that_will_not_do_are_passed_over(host: Any, tmp_path: Path, wheels: Path) -> None:
    old = '{"version": [3, 8, 2], "bits": 64, "pip": ["p"], "venv": true, "index": ""}'
    script(tmp_path / "bin" / "python3", f"echo '{old}'\n")
    script(tmp_path / "bin" / "python", "exit 9\n")
    setup = Setup(host, tmp_path, PATH=str(tmp_path / "bin"))
    state = setup.look(wheels)
    assert state.phase == "failed" and "No Python 3.10" in state.problem.message and "Advanced" in state.problem.hint
    home = script(tmp_path / "slicer" / "bin" / "PythonSlicer", f'exec "{sys.executable}" "$@"\n').parents[1]
    setup.machine.slicer_home = str(home)
    assert setup.look(wheels).plan.python.program == str(home / "bin" / "PythonSlicer"), "Slicer's own serves too"
    assert setup.look(tmp_path).problem.message.startswith("There are no wheels")


@pytest.mark.skipif(sys.platform == "win32", reason="shell scripts")
def test_an_environment_of_a_moved_python_keeps_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = script(tmp_path / "bin" / "python", f'[ -n "$PYTHONHOME" ] || exit 1\necho "{tmp_path}"\n')
    monkeypatch.setenv("PYTHONHOME", "/slicer/lib/Python")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/slicer/lib")
    assert installation_helper.needed_variables(str(python), str(tmp_path)) == {"PYTHONHOME": "/slicer/lib/Python"}
    script(python, f'echo "{tmp_path}"\n')
    assert installation_helper.needed_variables(str(python), str(tmp_path)) == {}
    script(python, "echo /elsewhere\n")
    with pytest.raises(SystemExit, match="does not run"):
        installation_helper.needed_variables(str(python), str(tmp_path))


# -- parts
