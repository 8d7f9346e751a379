"""The extension configures, installs and tests against the stand-in of Slicer's CMake; mistakes are caught."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
STUB = Path(__file__).resolve().parent / "stub"
MODULES = Path("lib/Slicer-5.12/qt-scripted-modules")


def tool(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if not found:
        pytest.fail(f"{name} is not here: pip install cmake")
    return found


def run(*command: object, folder: Path | None = None) -> tuple[int, str]:
    done = subprocess.run([str(c) for c in command], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def copy(folder: Path) -> Path:
    """A copy of what CMake reads, with the weights as stand-in files: they are large, and only their names matter."""
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "*.safetensors")
    shutil.copytree(ROOT / "RAUSlicer", source / "RAUSlicer", ignore=ignored)
    shutil.copy(ROOT / "CMakeLists.txt", source)
    for weights in (ROOT / "RAUSlicer").rglob("*.safetensors"):
        (source / weights.relative_to(ROOT)).write_bytes(b"weights")
    return source


def configure(source: Path, folder: Path, *options: str) -> tuple[int, str]:
    return run(
        tool("cmake"), "-S", source, "-B", folder / "build", f"-DSlicer_DIR={STUB}",
        f"-DCMAKE_INSTALL_PREFIX={folder / 'installed'}", *options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed tree, from the repository as it is."""
    folder = tmp_path_factory.mktemp("extension")
    runner = Path(__file__).resolve().parent / "run_self_test.py"
    options = (f"-DRAU_TEST_PYTHON={sys.executable}", f"-DRAU_TEST_RUNNER={runner}", "-DRAU_TEST_INSTALLED=1")
    code, text = configure(ROOT, folder, *options)
    assert code == 0, text
    code, text = run(tool("cmake"), "--install", folder / "build")
    assert code == 0, text
    return folder


def test_every_file_of_the_module_is_installed(installed: Path) -> None:
    there = {
        p.relative_to(installed / "installed" / MODULES) for p in (installed / "installed").rglob("*") if p.is_file()
    }
    here = {p.relative_to(ROOT / "RAUSlicer") for p in (ROOT / "RAUSlicer").rglob("*") if p.is_file()}
    here = {p for p in here if "__pycache__" not in p.parts and p.name != "CMakeLists.txt" and p.suffix != ".pyc"}
    assert there == here
    assert Path("Logic/rau/worker/__main__.py") in there
    assert Path("Resources/Models/rau-mini/model.json") in there
    assert Path("Resources/UI/RAUSlicer.ui") in there


def test_the_installed_engine_is_whole(installed: Path) -> None:
    """The worker answers from the installed tree, and finds the bundled model there."""
    logic = installed / "installed" / MODULES / "Logic"
    code = "import rau, rau.worker.process, rau.models.store as s; print(rau.__file__); print(s.find_model('auto'))"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**clean, "PYTHONPATH": str(logic)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    engine, model = done.stdout.split()
    assert Path(engine).is_relative_to(logic)
    assert Path(model).resolve() == (installed / "installed" / MODULES / "Resources/Models/rau-mini").resolve()


@pytest.mark.slow
def test_the_installed_module_passes_its_self_test(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAU_PYTHON", sys.executable)
    code, text = run(tool("ctest"), "--output-on-failure", "--timeout", "300", folder=installed / "build")
    assert code == 0 and "100% tests passed" in text, text


def add_unlisted(source: Path) -> None:
    text = (source / "RAUSlicer/CMakeLists.txt").read_text()
    (source / "RAUSlicer/CMakeLists.txt").write_text(text.replace("Logic/*.py", "Logic/RAUSlicerLib/*.py"))


def list_missing(source: Path) -> None:
    text = (source / "RAUSlicer/CMakeLists.txt").read_text()
    changed = text.replace("${MODULE_NAME}.py ${MODULE", "${MODULE_NAME}.py Logic/gone.py ${MODULE", 1)
    (source / "RAUSlicer/CMakeLists.txt").write_text(changed)


def drop_homepage(source: Path) -> None:
    text = (source / "CMakeLists.txt").read_text()
    (source / "CMakeLists.txt").write_text(text.replace("set(EXTENSION_HOMEPAGE", "set(EXTENSION_HOMEPAGES"))


def split_screenshots(source: Path) -> None:
    text = (source / "CMakeLists.txt").read_text()
    (source / "CMakeLists.txt").write_text(re.sub(r"(SCREENSHOTURLS) \"(\S+) ", r'\1 "\2" "', text))


def drop_icon(source: Path) -> None:
    (source / "RAUSlicer/Resources/Icons/RAUSlicer.png").unlink()


@pytest.mark.parametrize(
    "mistake, told",
    [
        (add_unlisted, "file would not be packaged (not listed in CMakeLists.txt): Logic/rau/__init__.py"),
        (list_missing, "listed file does not exist: Logic/gone.py"),
        (drop_homepage, "EXTENSION_HOMEPAGE is not set"),
        (split_screenshots, "EXTENSION_SCREENSHOTURLS must be one quoted string"),
        (drop_icon, "would not be packaged (not listed in CMakeLists.txt): Resources/Icons/RAUSlicer.png"),
    ],
)
def test_mistakes_are_caught(tmp_path: Path, mistake: Callable[[Path], None], told: str) -> None:
    source = copy(tmp_path)
    mistake(source)
    code, text = configure(source, tmp_path)
    assert code != 0
    assert told in " ".join(text.split())


def test_the_untouched_copy_configures(tmp_path: Path) -> None:
    code, text = configure(copy(tmp_path), tmp_path)
    assert code == 0, text


def test_index_entry_agrees_with_cmake() -> None:
    entry = json.loads((ROOT / "RAUSlicer.json").read_text())
    cmake = (ROOT / "CMakeLists.txt").read_text()
    depends = re.search(r'EXTENSION_DEPENDS "(.*)"', cmake)
    homepage = re.search(r'EXTENSION_HOMEPAGE "(.*)"', cmake)
    assert depends and homepage
    assert " ".join(entry["build_dependencies"]) == depends[1].replace("NA", "")
    assert entry["scm_url"] == homepage[1] + ".git"
    assert re.search(r"/Slicer\w+$", homepage[1]), "the index asks for a repository name that starts with Slicer"
    allowed = {"$schema", "build_dependencies", "build_subdirectory", "category", "scm_revision", "scm_url", "tier"}
    assert set(entry) == allowed and entry["category"] == "Segmentation"
    assert "project(RAUSlicer " in cmake


def test_icon_and_screenshots_of_the_index_entry_are_files_of_the_repository() -> None:
    """Each in one quoted string; as pictures that a browser shows, the panel among them."""
    cmake = (ROOT / "CMakeLists.txt").read_text()
    found = {
        name: re.findall(rf'set\({name} "(.*)"\)', cmake) for name in ("EXTENSION_ICONURL", "EXTENSION_SCREENSHOTURLS")
    }
    (icon,), (screenshots,) = found.values()
    addresses = [icon, *screenshots.split()]
    assert len(addresses) >= 4 and any("panel" in one or "path" in one for one in addresses)
    for address in addresses:
        place = re.fullmatch(r"https://raw\.githubusercontent\.com/RAUSlicer/SlicerRAUSlicer/main/(\S+\.png)", address)
        assert place, address
        assert (ROOT / place[1]).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n", address


def test_the_index_finds_licence_description_and_contributors() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text()
    description, contributors = (
        re.search(rf'set\(EXTENSION_{name} "(.*)"\)', cmake) for name in ("DESCRIPTION", "CONTRIBUTORS")
    )
    assert description and contributors and contributors[1]
    assert 50 < len(description[1]) < 400 and "own computer" in description[1], "what it does, and where data goes"
    assert "Apache License" in (ROOT / "LICENSE.txt").read_text()[:400]


def test_the_workflow_runs_the_self_tests_in_real_slicer_on_three_systems() -> None:
    """As far as can be told without running it: it says that it has not been run."""
    text = (ROOT / ".github/workflows/slicer.yml").read_text()
    flow = yaml.safe_load(text)
    assert "never been run" in text and flow["permissions"] == {"contents": "read"}
    job = flow["jobs"]["self-test"]
    assert {one["os"] for one in job["strategy"]["matrix"]["include"]} == {"linux", "macosx", "win"}
    steps = job["steps"]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", one["uses"]) for one in steps if "uses" in one)
    script = re.search(r"--python-script \"\$PWD/(\S+)\"", steps[-1]["run"])
    assert script and "RAUSlicerTest" in (ROOT / script[1]).read_text()
    for one in steps:
        if one.get("shell", "bash") == "bash" and "run" in one:
            plain = re.sub(r"\$\{\{.*?\}\}", "linux", one["run"])
            assert subprocess.run(["bash", "-n", "-c", plain]).returncode == 0, one["name"]


def test_icon_is_a_png_of_128_pixels() -> None:
    for path in (ROOT / "RAUSlicer.png", ROOT / "RAUSlicer/Resources/Icons/RAUSlicer.png"):
        data = path.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[16:24] == (128).to_bytes(4, "big") * 2
