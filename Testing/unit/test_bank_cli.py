"""`rau bank`: what it prints and how it ends."""

from __future__ import annotations

import json

import pytest

from builders import phantom, write_image
from rau.cli import main
from rau.export.writing import write_labels


@pytest.fixture
def case(tmp_path):
    """Image and labels of a case as files, as options."""
    volume, labels = phantom()
    write_image(volume, tmp_path / "scan.nii.gz")
    write_labels(labels, tmp_path / "scan.seg.nrrd")
    return ["--image", str(tmp_path / "scan.nii.gz"), "--labels", str(tmp_path / "scan.seg.nrrd")]


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "bank")


def listed(folder, capsys) -> list[dict]:
    capsys.readouterr()
    assert main(["bank", "list", folder, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_add_list_show_remove(case, folder, capsys):
    words = ["--title", "first", "--body-part", "abdomen", "--note", "consent", "--added-by", "me", "--modality", "CT"]
    assert main(["bank", "add", folder, *case, *words]) == 0
    assert capsys.readouterr().out.endswith("added: liver, left kidney, marker\n")
    (entry,) = listed(folder, capsys)
    told = (entry["title"], entry["body_part"], entry["consent"], entry["added_by"], entry["modality"])
    assert told == ("first", "abdomen", "consent", "me", "CT")
    assert main(["bank", "list", folder]) == 0
    assert "first" in capsys.readouterr().out
    assert main(["bank", "show", folder, entry["id"][:6]]) == 0
    assert json.loads(capsys.readouterr().out) == entry
    assert main(["bank", "verify", folder]) == 0
    assert capsys.readouterr().out == "1 of 1 as they should be\n"
    assert main(["bank", "remove", folder, entry["id"]]) == 0
    assert listed(folder, capsys) == []


def test_the_same_case_twice_is_told_and_kept_once(case, folder, capsys):
    assert main(["bank", "add", folder, *case]) == 0
    assert main(["bank", "add", folder, *case, "--title", "again"]) == 0
    said = capsys.readouterr()
    assert "in the bank already" in said.err and "kept as it was" in said.out
    assert len(listed(folder, capsys)) == 1


def test_an_accepted_case_takes_its_provenance_from_the_report(case, folder, tmp_path, capsys):
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"format": 1, "provenance": {"versions": {"rau": "9"}, "settings": {"seed": 4}}}))
    assert main(["bank", "accept", folder, *case, "--report", str(report)]) == 0
    (entry,) = listed(folder, capsys)
    assert entry["provenance"] == {"how": "accepted", "run": {"versions": {"rau": "9"}, "settings": {"seed": 4}}}


def test_an_accepted_case_without_a_report_says_that_it_was_accepted(case, folder, capsys):
    assert main(["bank", "accept", folder, *case]) == 0
    (entry,) = listed(folder, capsys)
    assert entry["provenance"] == {"how": "accepted", "run": {}}


@pytest.mark.parametrize("text", ["{}", "no json", "[1]", '{"provenance": 3}'])
def test_what_is_no_report_is_one_line_and_nothing_is_kept(case, folder, tmp_path, text, capsys):
    report = tmp_path / "report.json"
    report.write_text(text)
    assert main(["bank", "accept", folder, *case, "--report", str(report)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "report.json is no report" in line
    assert not (tmp_path / "bank").exists()


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (["list"], "no reference bank"),
        (["verify"], "no reference bank"),
        (["show", "abcd"], "no reference bank"),
        (["remove", "abcd"], "no reference bank"),
    ],
)
def test_without_a_bank_one_line_says_so(folder, call, word, capsys):
    assert main(["bank", call[0], folder, *call[1:]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert word in line


@pytest.mark.parametrize("asked", ["../..", "0000", "xyz!"])
def test_an_id_that_is_none_is_one_line(case, folder, asked, capsys):
    assert main(["bank", "add", folder, *case]) == 0
    capsys.readouterr()
    for command in ("show", "remove"):
        assert main(["bank", command, folder, asked]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "rau bank list" in line
    assert len(listed(folder, capsys)) == 1


def test_verify_tells_a_damaged_entry_and_ends_with_2(case, folder, tmp_path, capsys):
    assert main(["bank", "add", folder, *case]) == 0
    (image,) = (tmp_path / "bank").glob("*/image.nrrd")
    image.write_bytes(image.read_bytes()[:-1])
    capsys.readouterr()
    assert main(["bank", "verify", folder]) == 2
    said = capsys.readouterr()
    assert "image.nrrd was changed" in said.out and "1 of 1 entries are damaged" in said.err
