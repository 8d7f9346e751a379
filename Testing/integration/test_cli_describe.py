"""`rau describe` and `rau dataset` on files: what they print and write, and how they refuse."""

from __future__ import annotations

import json

import numpy as np
import pytest

from builders import phantom
from rau.cli import main
from rau.demo import write_image
from rau.description import describe
from rau.export.writing import write_labels
from rau.volume.labels import read_labels
from rau.volume.reading import read_volume
from rau.volume.volume import Geometry, LabelMap


@pytest.fixture
def case(tmp_path):
    """An image and its segmentation in a folder with a telling name, and the options that name them."""
    folder = tmp_path / "Doe^Jane"
    folder.mkdir()
    volume, labels = phantom(Geometry((8, 24, 30), (3.0, 1.5, 1.2), (-20.0, 30.0, 100.0)))
    write_image(volume, folder / "image.nii.gz")
    write_labels(labels, folder / "labels.seg.nrrd")
    return folder, ["--image", str(folder / "image.nii.gz"), "--labels", str(folder / "labels.seg.nrrd")]


def refused(capsys, status, word, call):
    assert main([str(part) for part in call]) == status
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert line.startswith("rau: ") and word in line and told.out == ""


def test_it_prints_the_prose_and_writes_the_facts(case, tmp_path, capsys):
    folder, files = case
    assert main(["describe", *files, "--output", str(tmp_path / "out.json")]) == 0
    said = capsys.readouterr().out
    direct = describe(read_volume(folder / "image.nii.gz"), read_labels(folder / "labels.seg.nrrd"))
    assert said == "\n\n".join(one.text for one in direct) + "\n"
    text = (tmp_path / "out.json").read_text(encoding="utf-8")
    told = json.loads(text)
    assert told["format"] == 1 and told["structures"] == [one.as_json() for one in direct]
    for private in ("Doe", "image.nii", str(tmp_path)):
        assert private not in text + said


def test_some_structures_alone(case, capsys):
    _, files = case
    assert main(["describe", *files, "--structures", "left kidney, MARKER"]) == 0
    said = capsys.readouterr().out
    assert said.count("\n\n") == 1 and said.startswith("Left kidney: ") and "\n\nMarker: " in said


def test_labels_on_another_grid_are_laid_on_the_image(case, capsys):
    folder, files = case
    assert main(["describe", *files]) == 0
    expected = capsys.readouterr().out
    labels = read_labels(folder / "labels.seg.nrrd")
    grid = labels.geometry
    corner = tuple(grid.to_world(np.array([[0, 0, grid.shape[2] - 1]]))[0])
    turned = Geometry(grid.shape, grid.spacing, corner, np.asarray(grid.direction) * [1, 1, -1])
    other = LabelMap(np.ascontiguousarray(labels.array[:, :, ::-1]), turned, labels.structures)
    write_labels(other, folder / "turned.seg.nrrd")
    assert main(["describe", *files[:2], "--labels", str(folder / "turned.seg.nrrd")]) == 0
    assert capsys.readouterr().out == expected


def test_a_wrong_call_is_one_line_and_writes_nothing(case, tmp_path, capsys):
    folder, files = case
    before = sorted(tmp_path.rglob("*"))
    refused(capsys, 2, "--labels", ["describe", *files[:2]])
    refused(capsys, 2, "no.nii", ["describe", "--image", "no.nii", *files[2:]])
    refused(capsys, 2, "spleen", ["describe", *files, "--structures", "spleen"])
    refused(capsys, 2, ".json", ["describe", *files, "--output", tmp_path / "out.txt"])
    refused(capsys, 2, "folder", ["describe", *files, "--output", tmp_path / "none" / "out.json"])
    refused(capsys, 2, "empty", ["describe", *files[:2], "--labels", empty(folder)])
    assert sorted(path for path in tmp_path.rglob("*") if path.name != "empty.nii.gz") == before


def empty(folder):
    image = read_volume(folder / "image.nii.gz")
    write_labels(LabelMap(np.zeros(image.geometry.shape, np.uint8), image.geometry), folder / "empty.nii.gz")
    return folder / "empty.nii.gz"


def test_a_data_set_is_built_and_reviewed(case, tmp_path, capsys):
    folder, files = case
    assert main(["dataset", "build", str(tmp_path / "set"), *files, *files, "--every", "3", "--fewest", "5"]) == 0
    written = tmp_path / "set" / "dataset.jsonl"
    items = [json.loads(line) for line in written.read_text().splitlines()]
    assert f"{len(items)} items in set/dataset.jsonl" in capsys.readouterr().out
    assert {one["case"] for one in items} == {0, 1} and "Doe" not in written.read_text()
    call = ["dataset", "review", str(tmp_path / "set"), "--item", items[0]["id"], "--reviewer", "Dr Ada"]
    assert main([*call, "--accept"]) == 0
    said = capsys.readouterr().out
    assert f"{items[0]['id']} ({items[0]['structure']}): accept; {len(items) - 1} still open" in said
    (tmp_path / "better.txt").write_text("As it should be.")
    assert main([*call, "--correct", str(tmp_path / "better.txt")]) == 0
    capsys.readouterr()
    first = json.loads(written.read_text().splitlines()[0])
    assert [one["verdict"] for one in first["reviews"]] == ["accept", "correct"]
    assert all(one["reviewer"] == "Dr Ada" and one["at"] for one in first["reviews"])
    assert first["description"]["text"] == "As it should be."
    refused(capsys, 2, "--accept", [*call, "--accept", "--reject"])
    refused(capsys, 2, "--accept", call)
    refused(capsys, 2, "already", ["dataset", "build", tmp_path / "set", *files])
    refused(capsys, 2, "1 --labels", ["dataset", "build", tmp_path / "other", *files, "--image", files[1]])
    assert not (tmp_path / "other").exists()
