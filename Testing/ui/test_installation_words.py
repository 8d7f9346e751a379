"""Set-up: what pip and uv say, which build of PyTorch, proxies, GPUs, the pinned list, deleting."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from RAUSlicerLib import installation_files, installation_pins, installation_system
from RAUSlicerLib.installation_output import Output, problem_of
from RAUSlicerLib.installation_plan import Options, make_plan
from RAUSlicerLib.installation_system import Gpu, Python
from RAUSlicerLib.problems import Problem


@pytest.mark.parametrize(
    "said, offline, kind, words",
    [
        ("OSError: [Errno 28] No space left on device", False, "DiskFull", "disk is full"),
        (
            "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))",
            False,
            "Certificate",
            "not trusted",
        ),
        (
            "The repository located at x is not a trusted or secure host and is being ignored",
            False,
            "Untrusted",
            "https",
        ),
        ("ERROR: HTTP error 403 while getting it\n403 Client Error: Forbidden", False, "Refused", "refuses"),
        ("ERROR: Wheel 'scipy' located at /w/scipy-1.0-cp312.whl is invalid.", True, "Damaged", "scipy-1.0-cp312.whl"),
        ("ERROR: No matching distribution found for scipy==1.0", False, "Lacking", "lacks scipy==1.0"),
        ("ERROR: a.whl is not a supported wheel on this platform.", True, "Unsuitable", "another system"),
        ("PermissionError: [WinError 5] Access is denied: 'torch.dll'", False, "Permission", "cannot be written"),
        ("error: dns error: failed to lookup address information", False, "Network", "cannot be reached"),
        ("Traceback\nValueError: something of its own", False, "InputError", "something of its own"),
    ],
)
def test_what_the_tools_say_becomes_one_line_and_what_to_do(said: str, offline: bool, kind: str, words: str) -> None:
    problem = problem_of(said.splitlines(), offline, "packages")
    assert problem.kind == kind and words in str(problem)
    assert problem.hint and "\n" not in str(problem)


def test_progress_follows_what_is_downloaded_and_never_goes_back() -> None:
    output, shares, texts = Output(2), [], []
    said = "Collecting torch==2.0\n  Downloading torch-2.0-cp312.whl (800 MB)\n"
    said += "".join(f"Progress {n}00000000 of 800000000\n" for n in range(9))
    said += "Collecting scipy==1.0\nInstalling collected packages: torch, scipy\nSuccessfully installed\n"
    for start in range(0, len(said), 7):
        output.feed(said[start : start + 7].encode(), "out")
        shares.append(output.done)
        texts.append(output.text)
    assert shares == sorted(shares) and 0.8 < shares[-1] <= 1
    assert any("400 of 800 MB" in text and "torch" in text for text in texts)
    assert texts[-1] == "Putting the packages in place"


def plan_for(tmp_path: Path, gpu: Gpu | None, platform: str = "linux", **options: str) -> Any:
    python = Python("/usr/bin/python3", (3, 12, 1), ("/pip.whl",))
    return make_plan(tmp_path / "root", python, gpu, Options(**options), {"PATH": "/bin"}, platform)


def test_the_build_of_pytorch_follows_the_driver_unless_chosen(tmp_path: Path) -> None:
    new, old = Gpu("RTX A4000", "580.65.06", 16376, 15000), Gpu("GTX 1080", "470.1", 8192, 8000)
    assert plan_for(tmp_path, None).build == "cpu" and plan_for(tmp_path, new).build == "cuda"
    assert plan_for(tmp_path, new, build="cpu").build == "cpu" and plan_for(tmp_path, new, "darwin").build == "cpu"
    assert "RTX A4000" in " ".join(plan_for(tmp_path, new).words())
    (tmp_path / "root").mkdir()

    def torch_step(gpu: Gpu | None, **options: str) -> str:
        steps = plan_for(tmp_path, gpu, **options).steps("26.0", {})
        return " ".join(next(one for one in steps if one.phase == "torch").launch.arguments)

    if sys.platform.startswith("linux"):
        assert "--require-hashes" in torch_step(new), "the usual index has it, with checksums"
        assert "--torch-backend cpu" in torch_step(None) and "--torch-backend auto" in torch_step(old)
        assert "PyTorch's own index" in " ".join(plan_for(tmp_path, None).words())
    assert "--torch-backend cpu" in torch_step(new, build="cpu") or sys.platform == "win32"


def test_a_password_in_the_proxy_or_the_index_is_not_shown(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, None, proxy="http://jane:secret@proxy.example:8080")
    plan = replace(plan, python=replace(plan.python, index="https://jane:secret@index.example/simple"))
    words = " ".join(plan.words())
    assert "proxy.example:8080" in words and "index.example" in words and "secret" not in words
    assert dict(plan.variables)["HTTPS_PROXY"] == "http://jane:secret@proxy.example:8080"
    with pytest.raises(Problem, match="proxy"):
        plan_for(tmp_path, None, proxy="not an address")


def test_gpus_are_read_from_what_the_driver_says() -> None:
    said = "NVIDIA RTX A4000, 580.65, 16376, 1000\nNVIDIA T4, 580.65, 15360, 15000\n"
    assert installation_system.gpu_from(said) == Gpu("NVIDIA T4", "580.65", 15360, 15000)
    assert installation_system.gpu_from("NVIDIA-SMI has failed\n") is None


def test_the_pinned_list_has_what_the_project_depends_on_and_checksums(repository: Path) -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    direct = [*project["dependencies"], *project["optional-dependencies"]["dicom"]]
    names = {installation_pins.normalised(one.split(">")[0].split("=")[0]) for one in direct}
    pins = installation_pins.read_pins(installation_pins.REQUIREMENTS)
    assert names <= {one.name for one in pins.every} and {"pip", "setuptools", "uv"} <= {one.name for one in pins.every}
    assert pins.hashed and all(one.version for one in pins.every)
    assert "://" not in installation_pins.REQUIREMENTS.read_text(), "no host of an index"
    makefile = (repository / "Makefile").read_text()
    for one in pins.named(installation_pins.TORCH):
        assert f"{one.name}=={one.version}" in makefile, "the same PyTorch as the tests run with"


def test_deleting_goes_in_steps_and_follows_no_link(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    gone = tmp_path / "gone"
    (gone / "below").mkdir(parents=True)
    for index in range(120):
        (gone / "below" / str(index)).write_text("x")
    os.symlink(kept, gone / "link")
    assert sum(1 for _ in installation_files.deletion([gone])) == 3
    assert not gone.exists() and (kept / "file").exists()
