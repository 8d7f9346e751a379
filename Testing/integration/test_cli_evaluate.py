"""`rau evaluate` on files: figures by name on one grid, whatever the format; tables; what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from builders import phantom
from rau.cli import main
from rau.export.writing import write_labels
from rau.volume.volume import Geometry, LabelMap, Structure


@pytest.fixture
def truth(tmp_path):
    """A truth with names, written as truth.seg.nrrd."""
    labels = phantom()[1]
    write_labels(labels, tmp_path / "truth.seg.nrrd")
    return labels


def shifted(labels, step=1):
    return LabelMap(np.roll(labels.array, step, axis=2), labels.geometry, labels.structures)


def evaluate(folder, *more, result="result.seg.nrrd"):
    call = [
        "evaluate",
        "--truth",
        folder / "truth.seg.nrrd",
        "--result",
        folder / result,
        "--json",
        folder / "out.json",
    ]
    status = main([str(part) for part in (*call, *more)])
    return status, json.loads((folder / "out.json").read_text()) if status == 0 else {}


def by_name(found):
    return {row["name"]: row for row in found["structures"]}


def test_the_truth_itself_is_perfect(tmp_path, truth, capsys):
    write_labels(truth, tmp_path / "result.seg.nrrd")
    status, found = evaluate(tmp_path)
    assert status == 0
    assert set(by_name(found)) == {"liver", "left kidney", "marker"}
    for row in found["structures"]:
        assert (row["dice"], row["iou"], row["surface"], row["hausdorff95"], row["difference"]) == (1, 1, 0, 0, 0)
    said = capsys.readouterr().out
    assert "left kidney" in said and "1.000" in said and "0.00 mm" in said and "+0.0%" in said


def test_a_shift_by_one_voxel_is_measured_in_millimetres(tmp_path, truth):
    write_labels(shifted(truth), tmp_path / "result.seg.nrrd")
    _, found = evaluate(tmp_path, "--structures", "Liver")
    (row,) = found["structures"]
    liver = truth.array == 1
    both = np.count_nonzero(liver & np.roll(liver, 1, axis=2))
    assert row["dice"] == pytest.approx(both / np.count_nonzero(liver))
    assert row["iou"] == pytest.approx(row["dice"] / (2 - row["dice"]))
    assert row["hausdorff95"] == pytest.approx(truth.geometry.spacing[2])
    assert 0 < row["surface"] < truth.geometry.spacing[2]
    assert row["truth_ml"] == pytest.approx(np.count_nonzero(liver) * np.prod(truth.geometry.spacing) / 1000)


def test_a_missed_structure_is_nought_and_one_that_is_not_in_the_truth_is_told(tmp_path, truth, capsys):
    array = np.where(truth.array == 2, 0, truth.array)
    array[0, 0, 0] = 9
    more = LabelMap(array, truth.geometry, (*truth.structures, Structure(9, "spleen")))
    write_labels(more, tmp_path / "result.seg.nrrd")
    _, found = evaluate(tmp_path)
    assert by_name(found)["left kidney"]["dice"] == 0
    assert by_name(found)["left kidney"]["surface"] is None
    assert found["means"]["missed"] == 1
    assert found["means"]["dice"] == pytest.approx(2 / 3)
    told = capsys.readouterr()
    assert "spleen" in told.err and "spleen" not in told.out and "missed" in told.out
    _, found = evaluate(tmp_path, "--structures", "spleen")
    assert found["structures"][0]["dice"] == 0
    assert found["means"]["invented"] == 1
    assert "not in the truth" in capsys.readouterr().out


def test_a_label_map_without_names_takes_those_of_the_truth_and_says_so(tmp_path, truth, capsys):
    write_labels(truth, tmp_path / "result.nii.gz")
    _, found = evaluate(tmp_path, result="result.nii.gz")
    assert by_name(found)["left kidney"]["dice"] == 1
    assert "no names" in capsys.readouterr().err


@pytest.mark.parametrize("other", ["turned", "cropped"])
def test_other_axes_and_a_cropped_file_are_the_same_grid(tmp_path, truth, other):
    grid = truth.geometry
    if other == "turned":
        direction = np.asarray(grid.direction)[:, [2, 1, 0]] * [-1, 1, 1]
        size = (grid.shape[2], grid.shape[1], grid.shape[0])
        origin = grid.to_world(np.array([[0, 0, grid.shape[2] - 1]]))[0]
        moved = Geometry(size, grid.spacing[::-1], tuple(origin), direction)
        result = LabelMap(truth.array.transpose(2, 1, 0)[::-1], moved, truth.structures)
    else:
        low = np.argwhere(truth.array).min(0)
        part = truth.array[tuple(slice(n, None) for n in low)]
        moved = replace(grid, shape=part.shape, origin=tuple(grid.to_world(low[None])[0]))
        result = LabelMap(part, moved, truth.structures)
        assert part.shape != truth.array.shape
    write_labels(result, tmp_path / "result.seg.nrrd")
    status, found = evaluate(tmp_path)
    assert status == 0
    assert [row["dice"] for row in found["structures"]] == [1, 1, 1]
    assert [row["hausdorff95"] for row in found["structures"]] == [0, 0, 0]


def test_a_dicom_seg_is_measured_on_the_grid_of_the_truth(tmp_path, truth):
    pytest.importorskip("highdicom")
    write_labels(truth, tmp_path / "result.dcm", image=phantom()[0])
    _, found = evaluate(tmp_path, result="result.dcm")
    assert [row["dice"] for row in found["structures"]] == [1, 1, 1]


@pytest.mark.parametrize("change", ["half a voxel away", "other spacing", "far away"])
def test_other_grids_are_refused_with_one_line(tmp_path, truth, capsys, change):
    grid = truth.geometry
    change_of = {
        "half a voxel away": {"origin": (grid.origin[0] + grid.spacing[2] / 2, *grid.origin[1:])},
        "other spacing": {"spacing": (grid.spacing[0], grid.spacing[1], 2 * grid.spacing[2])},
        "far away": {"origin": (grid.origin[0] + 10000 * grid.spacing[2], *grid.origin[1:])},
    }
    other = LabelMap(truth.array, replace(grid, **change_of[change]), truth.structures)
    write_labels(other, tmp_path / "result.seg.nrrd")
    status, _ = evaluate(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert status == 2
    assert "another grid" in line and "Resample" in line
    assert not (tmp_path / "out.json").exists()


def test_calls_that_cannot_be_are_one_line_and_exit_2(tmp_path, truth, capsys):
    write_labels(truth, tmp_path / "result.seg.nrrd")
    for call, word in (
        (["--truth", "truth.seg.nrrd"], "--result"),
        (["--truth", "truth.seg.nrrd", "--result", "gone.nii"], "gone.nii"),
        (["--truth", "truth.seg.nrrd", "--result", "result.seg.nrrd", "--structures", "heart"], "heart"),
        (["--truth", "truth.seg.nrrd", "--result", "result.seg.nrrd", "--json", "out.txt"], ".json"),
        (["--cases", "gone.csv"], "gone.csv"),
    ):
        full = [str(tmp_path / part) if "." in part else part for part in call]
        assert main(["evaluate", *full]) == 2
        told = capsys.readouterr()
        (line,) = told.err.splitlines()
        assert line.startswith("rau: ") and word in line and str(tmp_path) not in line


@pytest.fixture
def table(tmp_path, truth):
    """Two cases with results in a folder of their own, one in which nothing was found."""
    (tmp_path / "results").mkdir()
    write_labels(truth, tmp_path / "results" / "one.nii.gz")
    write_labels(shifted(truth), tmp_path / "results" / "two.seg.nrrd")
    lines = ["name,truth,output", "first,truth.seg.nrrd,one.nii.gz", "second,truth.seg.nrrd,two.seg.nrrd"]
    lines += ["third,truth.seg.nrrd,three.nii.gz"]
    (tmp_path / "cases.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def test_a_table_gives_means_by_structure_and_a_missing_result_counts_as_nothing_found(table, capsys):
    call = ["evaluate", "--cases", table / "cases.csv", "--results", table / "results", "--json", table / "out.json"]
    assert main([str(part) for part in call]) == 0
    found = json.loads((table / "out.json").read_text())
    assert [case["name"] for case in found["cases"]] == ["first", "second", "third"]
    assert found["cases"][0]["means"]["dice"] == 1
    assert found["cases"][2]["means"]["dice"] == 0
    liver = [case["structures"][0]["dice"] for case in found["cases"]]
    assert found["structures"]["liver"]["dice"] == pytest.approx(np.mean(liver))
    assert found["structures"]["liver"]["missed"] == 1
    told = capsys.readouterr()
    assert "warning: third: There is no result" in told.err
    assert "Means over 3 cases" in told.out


def test_a_case_that_fails_is_told_and_the_others_go_on(table, capsys):
    (table / "results" / "two.seg.nrrd").write_bytes(b"NRRD0005\nnonsense")
    call = ["evaluate", "--cases", table / "cases.csv", "--results", table / "results", "--json", table / "out.json"]
    assert main([str(part) for part in call]) == 2
    found = json.loads((table / "out.json").read_text())
    assert "two.seg.nrrd" in found["cases"][1]["error"]
    assert found["cases"][0]["means"]["dice"] == 1
    assert "second: " in capsys.readouterr().err


def test_a_table_without_the_column_or_any_result_is_refused(table, capsys):
    assert main(["evaluate", "--cases", str(table / "cases.csv"), "--truth-column", "gold"]) == 2
    assert "no column gold" in capsys.readouterr().err
    assert main(["evaluate", "--cases", str(table / "cases.csv")]) == 2
    assert "None of the results" in capsys.readouterr().err
