"""`rau segment` on files: what it writes is what the pipeline finds, twice the same, in every format; exit statuses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from rau.cli import main
from rau.demo import write_image
from rau.export.writing import write_labels
from rau.volume.labels import read_labels
from rau.volume.reading import read_volume
from rau.volume.resampling import labels_on_grid

pytest.importorskip("sam2")


@pytest.fixture(scope="module")
def case(tmp_path_factory, pair, random_model):
    """Files of a case, and the call that segments it."""
    folder = tmp_path_factory.mktemp("Doe^Jane")
    reference, (target, _) = pair
    write_image(reference.image, folder / "reference.nii.gz")
    write_labels(reference.labels, folder / "labels.seg.nrrd")
    write_image(target, folder / "target.nii.gz")
    call = ["segment", "--reference", folder / "reference.nii.gz", "--labels", folder / "labels.seg.nrrd"]
    call += ["--target", folder / "target.nii.gz", "--model", random_model, "--device", "cpu", "--threads", "1"]
    return folder, [str(part) for part in call]


def test_the_file_holds_what_the_pipeline_finds_and_twice_the_same(case, tmp_path, random_model, capsys):
    from rau.pipeline import segment
    from rau.references.reference import Reference
    from rau.settings import SegmentSettings

    folder, call = case
    for name in ("one.nrrd", "two.seg.nrrd"):
        assert main([*call, "--output", str(tmp_path / name), "--report", str(tmp_path / f"{name}.json")]) == 0
    said = capsys.readouterr()
    assert "slice 10 of 10" in said.err
    assert "liver" in said.out
    image = read_volume(folder / "reference.nii.gz")
    reference = Reference(image, read_labels(folder / "labels.seg.nrrd"))
    target = read_volume(folder / "target.nii.gz")
    direct = segment([reference], target, SegmentSettings(model=str(random_model), device="cpu", threads=1))
    one, two = read_labels(tmp_path / "one.nrrd"), read_labels(tmp_path / "two.seg.nrrd")
    assert np.array_equal(one.array, direct.labels.array)
    assert np.array_equal(two.array, one.array)
    assert one.geometry.matches(target.geometry)
    assert two.geometry.matches(target.geometry)
    by_value = {s.value: s for s in reference.structures}
    for structure in two.structures:
        assert structure.name == by_value[structure.value].name
        assert structure.terminology == by_value[structure.value].terminology
        assert np.allclose(structure.color, by_value[structure.value].color, atol=1e-3)


def test_the_report_tells_settings_and_weights_and_nothing_of_the_patient(case, tmp_path, random_model):
    _, call = case
    report = tmp_path / "report.json"
    more = [
        "--output",
        str(tmp_path / "out.nii.gz"),
        "--report",
        str(report),
        "--structures",
        "liver,spleen",
        "--seed",
        "5",
    ]
    assert main([*call, *more]) == 0
    text = report.read_text(encoding="utf-8")
    told = json.loads(text)
    assert [s["name"] for s in told["structures"]] == ["liver", "spleen"]
    assert told["provenance"]["settings"]["seed"] == 5
    manifest = json.loads((random_model / "model.json").read_text())
    assert told["provenance"]["versions"]["model"]["sha256"] == manifest["files"]
    assert told["provenance"]["versions"]["torch"]
    for private in ("Doe", "target.nii", str(tmp_path), str(random_model)):
        assert private not in text
    found = read_labels(tmp_path / "out.nii.gz")
    assert {s.value for s in found.structures} <= {1, 2}


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".seg.nrrd"])
def test_every_volume_format_keeps_the_voxels(case, tmp_path, ending, first_result):
    _, call = case
    output = tmp_path / f"out{ending}"
    assert main([*call, "--output", str(output)]) == 0
    assert np.array_equal(read_labels(output).array, first_result)


def test_a_dicom_seg_comes_out(case, tmp_path, first_result):
    pytest.importorskip("highdicom")
    folder, call = case
    output = tmp_path / "out.dcm"
    assert main([*call, "--output", str(output)]) == 0
    placed, said = labels_on_grid(read_labels(output), read_volume(folder / "target.nii.gz").geometry)
    assert said == "", "the same voxels, perhaps in another order"
    assert np.array_equal(placed.array, first_result)


@pytest.fixture(scope="module")
def first_result(case, tmp_path_factory):
    _, call = case
    output = tmp_path_factory.mktemp("first") / "first.nrrd"
    assert main([*call, "--output", str(output)]) == 0
    return read_labels(output).array


def test_several_references_go_in_pairs(case, tmp_path, capsys):
    folder, call = case
    again = ["--reference", str(folder / "target.nii.gz"), "--labels", str(folder / "labels.seg.nrrd")]
    assert main([*call, *again, "--output", str(tmp_path / "out.nrrd")]) == 0
    assert (tmp_path / "out.nrrd").is_file()
    capsys.readouterr()
    assert main([*call, *again[:2], "--output", str(tmp_path / "no.nrrd")]) == 2
    assert "2 --reference and 1 --labels" in capsys.readouterr().err


def test_a_prompt_narrows_the_structures(case, tmp_path):
    _, call = case
    output = tmp_path / "out.seg.nrrd"
    assert main([*call, "--prompt", "please the Liver and the left kidney", "--output", str(output)]) == 0
    assert {s.name for s in read_labels(output).structures} <= {"liver", "left kidney"}


def test_nothing_found_is_exit_3_and_no_file(case, tmp_path, shut_model, capsys):
    """A model whose presence gate never opens."""
    _, call = case
    before = set(tmp_path.iterdir())
    more = ["--model", str(shut_model), "--output", str(tmp_path / "out.nrrd"), "--report", str(tmp_path / "out.json")]
    assert main([*call, *more]) == 3
    assert "nothing was written" in capsys.readouterr().err.splitlines()[-1]
    assert set(tmp_path.iterdir()) == before


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_is_exit_130_and_no_file(case, tmp_path, environment):
    _, call = case
    command = [sys.executable, "-m", "rau.cli", *call, "--planes", "all", "--output", str(tmp_path / "out.nii.gz")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stderr
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("slice"):
            break
    process.send_signal(signal.SIGINT)
    start = time.perf_counter()
    _, rest = process.communicate(timeout=30)
    assert process.returncode == 130, (lines, rest)
    assert rest.splitlines()[-1] == "Cancelled"
    assert "Traceback" not in rest
    assert time.perf_counter() - start < 10
    assert list(tmp_path.iterdir()) == []


def test_corrected_slices_of_the_target_stay_and_calls_that_make_no_sense_are_refused(case, tmp_path, capsys):
    folder, call = case
    quick = ["--registration", "off", "--adaptation", "off", "--quality", "off", "--look", "off"]
    first = tmp_path / "first.seg.nrrd"
    assert main([*call, *quick, "--output", str(first)]) == 0
    found = read_labels(first)
    drawn = found.array.copy()
    drawn[4] = np.where(drawn[4].any(), np.roll(drawn[4], 2, 0), found.structures[0].value)
    write_labels(type(found)(drawn, found.geometry, found.structures), tmp_path / "right.seg.nrrd")
    told = ["--corrections", str(tmp_path / "right.seg.nrrd"), "--output", str(tmp_path / "second.nrrd")]
    assert main([*call, *quick, *told, "--corrected-slices", "4"]) == 0
    assert np.array_equal(read_labels(tmp_path / "second.nrrd").array[4], drawn[4])
    capsys.readouterr()
    for slices, words in (("4,99", "no slice 99"), ("four", "not numbers"), ("", "go together")):
        assert main([*call, *quick, *told, *(["--corrected-slices", slices] if slices else [])]) == 2
        assert words in capsys.readouterr().err
