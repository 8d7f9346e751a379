"""The repository itself: what it must hold, what it must never hold, and what must stay equal in several places."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import rau

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[2]
LOGIC = ROOT / "RAUSlicer" / "Logic"
LARGEST = 2 << 20  # bytes; weights of the bundled models are allowed more
LARGEST_WEIGHTS = 40 << 20
TEXT = (".py", ".md", ".toml", ".yaml", ".yml", ".cff", ".txt", ".json", ".ui", ".cmake", ".in", ".sh", ".svg")
NAMES = ("Makefile", "run", ".gitignore")


def tracked() -> list[Path]:
    """Files under version control; without git (an unpacked archive) there is nothing to hold them against."""
    try:
        found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in found.split("\0") if name and (ROOT / name).is_file()]


def texts() -> dict[Path, str]:
    chosen = [path for path in tracked() if path.suffix in TEXT or path.name in NAMES]
    assert len(chosen) > 50
    return {path: path.read_text(encoding="utf-8") for path in chosen}


def test_no_large_files():
    for path in tracked():
        limit = LARGEST_WEIGHTS if path.suffix == ".safetensors" else LARGEST
        assert path.stat().st_size <= limit, f"{path.relative_to(ROOT)} is too large for the repository"


def test_no_private_keys_and_no_paths_of_one_machine():
    key = "PRIVATE" + " KEY-----"
    places = re.compile(r"(?<![\w.])/(?:wo" + r"rk|ro" + r"ot|Use" + r"rs)/")
    for path, text in texts().items():
        assert key not in text, path
        found = places.search(text)
        assert found is None, f"{path.relative_to(ROOT)} names {found and found.group()}"


def test_nothing_is_unpickled_and_no_code_is_fetched():
    forbidden = {"pickle", "cPickle", "dill", "shelve", "marshal", "joblib", "cloudpickle"}
    for path in [*(LOGIC.rglob("*.py")), *(ROOT / "Benchmarks").glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            assert not (set(imported(node)) & forbidden), f"{path.name} unpickles"
            if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "trust_remote_code"):
                assert ast.unparse(node.value) == "False", f"{path.name}: {node.arg}"
        for call in re.findall(r"torch\.load\([^\n]*", text):
            assert "weights_only=True" in call, f"{path.name}: {call}"


def imported(node: ast.AST) -> list[str]:
    """Top-level packages that an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module.split(".")[0]]
    return []


def test_engine_knows_nothing_of_slicer():
    for path in (LOGIC / "rau").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (set(imported(node)) & {"slicer", "qt", "ctk", "vtk", "RAUSlicerLib"}), path.name


def test_slicer_side_needs_nothing_but_numpy():
    """Python's own modules, Slicer's own, numpy; but for the script that the worker's own Python runs."""
    own = {"slicer", "qt", "ctk", "vtk", "mrml", "numpy", "RAUSlicerLib", "vtkmodules", "PythonQt", "SampleData"}
    allowed = set(sys.stdlib_module_names) | own
    files = [*(LOGIC / "RAUSlicerLib").rglob("*.py"), *(ROOT / "RAUSlicer").glob("*.py")]
    assert files
    for path in files:
        if path.name == "installation_helper.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert set(imported(node)) <= allowed, f"{path.name} imports {set(imported(node)) - allowed}"


def test_heavy_packages_are_imported_where_they_are_used():
    """`import rau...` stays fast: none of them at the top of a file of the engine, but in loops and networks."""
    heavy = {"torch", "torchvision", "transformers", "sam2", "peft", "SimpleITK", "pydicom", "matplotlib", "highdicom"}
    networks = {"vlm/heads.py", "vlm/model.py", "adaptation/closed_form.py", "adaptation/pixel_encoder.py"}
    networks.add("references/discrete.py")
    for path in (LOGIC / "rau").rglob("*.py"):
        if "training" in path.parts or "sam" in path.parts or path.relative_to(LOGIC / "rau").as_posix() in networks:
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            assert not (set(imported(node)) & heavy), f"{path.relative_to(LOGIC)} imports {imported(node)} at the top"


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == rau.__version__
    assert f"## {rau.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_licence_is_apache():
    text = (ROOT / "LICENSE.txt").read_text(encoding="utf-8")
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text and "APPENDIX" in text
    assert project()["license"] == "Apache-2.0"


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_required_packages_and_extras():
    names = {re.split(r"[<>=!~\[; ]", one)[0].lower() for one in project()["dependencies"]}
    needed = {"torch", "transformers", "sam2", "peft", "simpleitk", "numpy", "pydicom", "scikit-learn"}
    assert needed <= names
    assert {"train", "dicom", "batch", "serve", "dev"} <= set(project()["optional-dependencies"])


def test_make_offers_what_the_readme_promises():
    told = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    offered = set(re.findall(r"^  make ([a-z-]+)", told, re.MULTILINE))
    assert {"demo", "test", "lint", "types", "bench", "screenshots", "gpu-check", "clean", "help"} <= offered
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\bmake ([a-z]+(?:-[a-z]+)*)\b(?=[`\n])", readme)) <= offered


def test_readme_links_lead_somewhere():
    for path in [ROOT / "README.md", *(ROOT / "Docs").glob("*.md"), *(ROOT / "Benchmarks").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
            if "://" not in link:
                assert (path.parent / link).exists(), f"{path.name} links to {link}"


def test_files_stay_readable():
    for path in (LOGIC / "rau").rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, f"{path.name} wants to be two files"


@pytest.mark.slow
def test_the_wheel_holds_the_engine_and_its_model_and_nothing_else(tmp_path):
    """Built as `make wheel` does, without a build environment of its own; then used from where it was unpacked."""
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("rauslicer-*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        file.extractall(tmp_path / "site")
    sources = [path for path in (LOGIC / "rau").rglob("*") if path.suffix in (".py", ".json")]
    engine = {path.relative_to(LOGIC).as_posix() for path in sources}
    models = ROOT / "RAUSlicer" / "Resources" / "Models"
    shipped = {f"rau/_models/{p.relative_to(models).as_posix()}" for p in models.rglob("*") if p.is_file()}
    assert {name for name in names if ".dist-info/" not in name} == engine | shipped
    code = "import rau, rau.models.store as s; print(rau.__file__); print(*s.known_models())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "RAU_MODELS": str(tmp_path / "none")}
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert str(tmp_path / "site") in told
    assert set(told.splitlines()[1].split()) == {path.name for path in models.iterdir() if path.is_dir()}


def test_a_missing_system_library_is_named_by_its_package(monkeypatch, capsys):
    import system_packages

    monkeypatch.setattr(system_packages.sys, "platform", "linux")
    monkeypatch.setattr(system_packages, "LIBRARIES", {"libc.so.6": "libc6", "libnowhere.so.7": "libnowhere7"})
    assert "libnowhere7" in system_packages.missing() and "libc6" not in system_packages.missing()
    assert system_packages.main([]) == 1
    assert "apt-get install libnowhere7" in capsys.readouterr().err
    assert system_packages.main(["--missing"]) == 0
    assert "libnowhere7" in capsys.readouterr().out
