"""Bad input on the real command line: one clear line, the exit status of the contract, and no output file."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from rau.cli import main
from rau.demo import write_image
from rau.export.writing import write_labels
from rau.volume.volume import Geometry, LabelMap, Volume

pytest.importorskip("sam2")


@pytest.fixture
def case(tmp_path, pair, random_model):
    """The files of a good case in `tmp_path`, to be spoiled."""
    reference, (target, _) = pair
    write_image(reference.image, tmp_path / "reference.nii.gz")
    write_labels(reference.labels, tmp_path / "labels.seg.nrrd")
    write_image(target, tmp_path / "target.nii.gz")
    shutil.copytree(random_model, tmp_path / "model")
    return Case(tmp_path, pair)


class Case:
    def __init__(self, folder, pair):
        self.folder = folder
        self.reference, (self.target, _) = pair
        self.options = {
            "--reference": "reference.nii.gz",
            "--labels": "labels.seg.nrrd",
            "--target": "target.nii.gz",
            "--output": "out.nii.gz",
            "--report": "out.json",
            "--model": "model",
        }

    def segment(self, **changes):
        options = {**self.options, **{f"--{k.replace('_', '-')}": v for k, v in changes.items()}}
        paths = ("--reference", "--labels", "--target", "--output", "--report", "--model")
        call = ["segment", "--device", "cpu", "--threads", "1"]
        for name, value in options.items():
            call += [name, str(self.folder / value) if name in paths else value]
        return main(call)

    def image(self, name, array, geometry=None):
        geometry = geometry or self.target.geometry
        write_image(Volume(array, geometry), self.folder / name)
        return name


def refused(case, capsys, *words, status=2, **changes):
    """The call is refused with that status, one line that has the words, and nothing new in the folder."""
    before = {path: path.stat().st_mtime_ns for path in case.folder.rglob("*")}
    found = case.segment(**changes)
    told = capsys.readouterr()
    assert found == status, told.err
    (line,) = [one for one in told.err.splitlines() if one.startswith("rau: ")]
    assert line == told.err.splitlines()[-1]
    assert "Traceback" not in told.err
    assert told.out == ""
    assert str(case.folder) not in told.err, "paths are the user's business"
    for word in words:
        assert word in line, line
    assert {path: path.stat().st_mtime_ns for path in case.folder.rglob("*")} == before
    return told.err


def test_the_case_itself_is_good(case, capsys):
    assert case.segment() == 0, capsys.readouterr().err


def test_target_and_reference_of_different_dimension(case, capsys):
    flat = Geometry((1, 48, 48))
    case.image("flat.nrrd", np.arange(48 * 48, dtype=np.int16).reshape(1, 48, 48), flat)
    refused(case, capsys, "2-D", "3-D", target="flat.nrrd")


def test_a_label_map_on_another_grid_is_resampled_and_said(case, capsys):
    labels = case.reference.labels
    grid = labels.geometry
    half = replace(grid, shape=(10, 24, 24), spacing=(grid.spacing[0], 2 * grid.spacing[1], 2 * grid.spacing[2]))
    write_labels(LabelMap(labels.array[:, ::2, ::2], half, labels.structures), case.folder / "half.seg.nrrd")
    assert case.segment(labels="half.seg.nrrd") == 0
    assert "warning: The label map lies on another grid than its image: resampled" in capsys.readouterr().err
    assert (case.folder / "out.nii.gz").is_file()


def test_a_label_map_elsewhere_is_refused(case, capsys):
    labels = case.reference.labels
    away = replace(labels.geometry, origin=(5000.0, 0.0, 0.0))
    write_labels(LabelMap(labels.array, away, labels.structures), case.folder / "away.seg.nrrd")
    refused(case, capsys, "overlap", labels="away.seg.nrrd")


def test_structures_that_the_reference_does_not_have(case, capsys):
    refused(case, capsys, "heart", "liver", structures="liver,heart")
    refused(case, capsys, "prompt", "liver", prompt="the heart")


def test_an_empty_segmentation(case, capsys):
    case.image("empty.nii.gz", np.zeros((10, 48, 48), np.uint8), case.reference.image.geometry)
    refused(case, capsys, "empty.nii.gz", labels="empty.nii.gz")


@pytest.mark.parametrize("which", ["target", "reference"])
def test_nan_and_constant_images(case, capsys, which):
    spoiled = case.target.array.astype(np.float32)
    spoiled[3, 4, 5] = np.nan
    case.image("nan.nrrd", spoiled)
    case.image("flat.nrrd", np.full((10, 48, 48), 7, np.int16))
    refused(case, capsys, "nan.nrrd", **{which: "nan.nrrd"})
    refused(case, capsys, "flat.nrrd", "constant", **{which: "flat.nrrd"})


def test_four_dimensions_and_colour_volumes(case, capsys):
    import SimpleITK as sitk

    series = sitk.JoinSeries([sitk.GetImageFromArray(case.target.array)] * 3)
    sitk.WriteImage(series, str(case.folder / "four.nii.gz"))
    rgb = np.random.default_rng(0).integers(0, 255, (5, 20, 20, 3), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(rgb, isVector=True), str(case.folder / "rgb.mha"))
    refused(case, capsys, "four.nii.gz", target="four.nii.gz")
    refused(case, capsys, "rgb.mha", target="rgb.mha")


@pytest.mark.parametrize("which", ["target", "reference", "labels"])
def test_truncated_missing_and_unknown_files(case, capsys, which):
    good = (case.folder / case.options[f"--{which}"]).read_bytes()
    ending = ".seg.nrrd" if which == "labels" else ".nii.gz"
    (case.folder / f"part{ending}").write_bytes(good[: len(good) // 3])
    (case.folder / "text.docx").write_text("a letter")
    refused(case, capsys, f"part{ending}", **{which: f"part{ending}"})
    refused(case, capsys, "gone.nii.gz", **{which: "gone.nii.gz"})
    refused(case, capsys, "text.docx", "ending", **{which: "text.docx"})


def test_outputs_that_cannot_be_written(case, capsys):
    (case.folder / "taken.nrrd").mkdir()
    refused(case, capsys, "out.xyz", "ending", output="out.xyz")
    refused(case, capsys, "none", output="none/out.nrrd")
    refused(case, capsys, "taken.nrrd", output="taken.nrrd")
    refused(case, capsys, "PNG", output="out.png")
    refused(case, capsys, "target.nii.gz", "input", output="target.nii.gz")
    refused(case, capsys, "labels.seg.nrrd", "input", output="labels.seg.nrrd")
    refused(case, capsys, "json", report="report.txt")
    refused(case, capsys, "none", report="none/report.json")


def test_models_that_are_missing_or_tampered_with(case, capsys):
    refused(case, capsys, "gone", status=4, model="gone")
    weights = case.folder / "model" / "segmenter.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(case, capsys, "segmenter.safetensors", "damaged", status=4)
    weights.unlink()
    refused(case, capsys, "segmenter.safetensors", status=4)
    weights.write_bytes(whole)
    manifest = case.folder / "model" / "model.json"
    content = json.loads(manifest.read_text())
    content["segmenter"]["file"] = "../reference.safetensors"
    manifest.write_text(json.dumps(content))
    refused(case, capsys, "model.json", status=4)
    manifest.write_text("{")
    refused(case, capsys, "model.json", status=4)


def test_a_folder_with_several_series_lists_them_and_series_picks(case, capsys):
    from builders import write_series

    target = case.target
    write_series(case.folder / "study", target, number=3)
    other = Volume(target.array[:, ::-1].copy(), target.geometry, "CT")
    write_series(case.folder / "study" / "more", other, number=7)
    refused(case, capsys, "3", "7", "--series", target="study")
    refused(case, capsys, "9", target="study", series="9")
    assert case.segment(target="study", series="7") == 0
    assert case.segment(target="study", series="3", output="three.nii.gz") == 0
    seven, three = ((case.folder / name).read_bytes() for name in ("out.nii.gz", "three.nii.gz"))
    assert seven != three


def test_an_earlier_result_survives_a_failed_run(case, capsys):
    assert case.segment() == 0
    capsys.readouterr()
    refused(case, capsys, "heart", structures="heart")
