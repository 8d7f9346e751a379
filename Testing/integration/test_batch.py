"""`rau batch`: equal to `rau segment`, failures are told, what is done is not done again; with Ray and without."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from rau.batch import Entry, nameless, on_ray, worst
from rau.cli import main
from rau.commands.batch import read_cases
from rau.commands.segment import Files
from rau.demo import write_image
from rau.errors import InputError
from rau.export.writing import write_labels
from rau.settings import SegmentSettings
from rau.volume.labels import read_labels
from rau.volume.volume import LabelMap

pytest.importorskip("sam2")

# looked for, not imported: Ray has to be imported by the batch itself
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
PATIENT = "Doe^Jane"
FAST = ["--device", "cpu", "--threads", "1", "--planes", "acquisition", "--registration", "off", "--adaptation", "off"]


@pytest.fixture
def files(tmp_path, pair):
    """Two cases and one whose target is damaged, in a folder with the name of a patient; their table."""
    reference, (target, truth) = pair
    folder = tmp_path / PATIENT
    folder.mkdir()
    write_image(reference.image, folder / "reference.nii.gz")
    write_labels(reference.labels, folder / "labels.seg.nrrd")
    write_labels(truth, folder / "truth.seg.nrrd")
    write_image(target, folder / "target.nii.gz")
    write_image(reference.image, folder / "other.nii.gz")
    (folder / f"{PATIENT}.nii.gz").write_bytes(b"no image")
    lines = ["name,reference,labels,target,output,truth"]
    lines += ["first,reference.nii.gz,labels.seg.nrrd,target.nii.gz,first.nrrd,truth.seg.nrrd"]
    lines += [f"broken,reference.nii.gz,labels.seg.nrrd,{PATIENT}.nii.gz,broken.nrrd,truth.seg.nrrd"]
    lines += ["second,reference.nii.gz;other.nii.gz,labels.seg.nrrd;labels.seg.nrrd,other.nii.gz,,labels.seg.nrrd"]
    (folder / "cases.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def batch(files, model, *more, table="cases.csv"):
    call = ["batch", files / table, "--output", files.parent / "out", "--model", model, *FAST, *more]
    return main([str(part) for part in call])


def results(files):
    content = json.loads((files.parent / "out" / "results.json").read_text())
    return {row["name"]: row for row in content["cases"]}


def keep(files, *names):
    """Only those rows."""
    rows = (files / "cases.csv").read_text().splitlines()
    kept = [rows[0], *(row for row in rows[1:] if row.split(",")[0] in names)]
    (files / "cases.csv").write_text("\n".join(kept) + "\n")


@needs_ray
@pytest.mark.slow
def test_on_ray_every_case_is_as_rau_segment_makes_it_and_a_failed_one_stops_no_other(files, random_model, capsys):
    out = files.parent / "out"
    assert batch(files, random_model, "--workers", "2") == 2
    told = capsys.readouterr()
    single = ["segment", "--reference", files / "reference.nii.gz", "--labels", files / "labels.seg.nrrd"]
    single += ["--target", files / "target.nii.gz", "--output", files / "single.nrrd", "--model", random_model, *FAST]
    assert main([str(part) for part in single]) == 0
    expected, found = read_labels(files / "single.nrrd"), read_labels(out / "first.nrrd")
    assert expected.array.any()
    assert np.array_equal(found.array, expected.array)
    assert found.geometry.matches(expected.geometry)
    assert read_labels(out / "second.seg.nrrd").array.any()
    assert json.loads((out / "first.report.json").read_text())["provenance"]["settings"]["adaptation"] == "off"

    rows = results(files)
    assert [rows[name]["status"] for name in ("first", "broken", "second")] == ["done", "failed", "done"]
    assert "The target" in rows["broken"]["message"]
    with open(out / "results.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [row["name"] for row in table] == ["first", "broken", "second"], "in the order of the cases"
    assert "liver" in table[0]["found"]
    assert sorted(line[:5] for line in told.err.splitlines() if line.startswith("[")) == ["[1/3]", "[2/3]", "[3/3]"]
    assert "2 of 3 cases done" in told.out and "1 failed" in told.out
    everything = [path for path in out.rglob("*") if path.is_file()]
    assert len(everything) == 6
    for path in everything:
        assert PATIENT not in path.name and PATIENT.encode() not in path.read_bytes()
    assert PATIENT not in told.err + told.out

    keep(files, "first", "second")
    assert main(["evaluate", "--cases", str(files / "cases.csv"), "--results", str(out)]) == 0
    assert "Means over 2 cases" in capsys.readouterr().out


@needs_ray
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_process_that_is_killed_takes_its_case_and_no_other_and_nobody_else_can_call_ray(
    files, random_model, monkeypatch
):
    monkeypatch.setattr("rau.batch.CaseRunner", Killing)
    before, told, addresses = dict(os.environ), [], set()

    def done(entry):
        told.append(entry)
        for one in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                addresses.update(c.laddr.ip for c in one.net_connections() if c.status == psutil.CONN_LISTEN)

    cases = read_cases(files / "cases.csv", files)
    on_ray(cases, SegmentSettings(model=str(random_model), device="cpu"), {}, done, 1)
    assert [(entry.name, entry.status, entry.exit_code) for entry in told] == [
        ("first", "failed", 1),
        ("broken", "nothing found", 3),
        ("second", "nothing found", 3),
    ]
    assert "ended unexpectedly" in told[0].message and "fewer --workers" in told[0].message
    assert addresses and addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    rays_own = {"PYTHONBREAKPOINT", "RAY_CLIENT_MODE"}  # set by its first start in a process
    assert {k: v for k, v in os.environ.items() if k not in rays_own - before.keys()} == before


class Killing:
    """Dies at the first case; finds nothing in the others."""

    def __init__(self, settings, stamp, threads=0):
        pass

    def run(self, case, known=None):
        if case.name == "first":
            os.kill(os.getpid(), 9)
        return Entry(case.name, "nothing found", 3)


def test_what_is_done_is_not_done_again_unless_something_of_it_changed(files, random_model, pair, capsys):
    keep(files, "first", "second")
    out = files.parent / "out"

    def again(*more):
        """Which cases are done once more."""
        assert batch(files, random_model, "--workers", "0", *more) == 0
        told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("[")]
        assert len(told) == 2
        return [line.split()[1].rstrip(":") for line in told if "earlier run" not in line]

    assert again() == ["first", "second"]
    before = (out / "first.nrrd").stat().st_mtime_ns
    assert again() == []
    assert (out / "first.nrrd").stat().st_mtime_ns == before
    assert again("--seed", "3") == ["first", "second"], "another setting"
    (out / "first.nrrd").write_bytes(b"altered")
    assert again("--seed", "3") == ["first"]
    reference, (target, _) = pair
    write_image(target.with_array(target.array[:, ::-1]), files / "target.nii.gz")
    assert again("--seed", "3") == ["first"], "another target under the same name"
    labels = reference.labels
    fewer = LabelMap(np.where(labels.array == 1, 0, labels.array), labels.geometry, labels.structures[1:])
    write_labels(fewer, files / "labels.seg.nrrd")
    assert again("--seed", "3") == ["first", "second"]
    (out / "results.json").write_text("{ damaged")
    assert again("--seed", "3") == ["first", "second"], "nothing is known any more"


def test_a_table_in_json_and_names_made_up(files, random_model):
    rows = [{"reference": ["reference.nii.gz"], "labels": ["labels.seg.nrrd"], "target": "target.nii.gz"}]
    (files / "cases.json").write_text(json.dumps({"cases": rows}))
    assert batch(files, random_model, "--workers", "0", table="cases.json") == 0
    assert read_labels(files.parent / "out" / "case-001.seg.nrrd").structure("liver").value == 1


def test_nothing_found_is_exit_3_and_leaves_no_file(files, random_model, tmp_path):
    import torch

    from rau.models import store

    folder = store.open_model(random_model)
    weights = {name: folder.tensors(name) for name in folder.manifest.files}
    gate = next(k for k in weights["segmenter.safetensors"] if k.endswith("pred_obj_score_head.layers.2.bias"))
    weights["segmenter.safetensors"][gate] = torch.full_like(weights["segmenter.safetensors"][gate], -50.0)
    store.write_model(tmp_path / "shut", folder.manifest.model_dump(exclude={"files"}), weights)
    keep(files, "first")
    out = files.parent / "out"
    out.mkdir()
    (out / "first.nrrd").write_text("of an earlier run")
    assert batch(files, tmp_path / "shut", "--workers", "0") == 3
    assert sorted(path.name for path in out.iterdir()) == ["results.csv", "results.json"]
    assert results(files)["first"]["status"] == "nothing found"
    assert batch(files, tmp_path / "shut", "--workers", "0") == 3, "known, and still nothing found"


def test_without_ray_it_says_what_to_install(files, random_model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert batch(files, random_model) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "rauslicer[batch]" in line and "--workers 0" in line


@needs_ray
def test_a_ray_that_others_could_reach_is_not_used(tmp_path, environment):
    code = "import ray, rau.batch\nwith rau.batch.local_ray(1): pass"
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "InputError: Ray is in use in this process already" in ran.stderr.splitlines()[-1]


def test_a_missing_model_is_told_before_any_case(files, capsys):
    for workers in ("0", "2"):
        assert batch(files, "no-such-model", "--workers", workers) == 4
        (line,) = capsys.readouterr().err.splitlines()
        assert "no-such-model" in line


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("reference,labels\na,b\n", "no column target"),
        ("reference,labels,target\n", "no rows"),
        ("reference,labels,target\na;b,c,d\n", "one label map for each reference"),
        ("reference,labels,target\na,b,c;d\n", "several values in target"),
        ("reference,labels,target,output\na,b,c,../d.nrrd\n", "no usable name"),
        ("reference,labels,target,output\na,b,c,/d.nrrd\n", "no usable name"),
        ("reference,labels,target,output\na,b,c,d.xyz\n", "ending"),
        ("name,reference,labels,target,output\nx,a,b,c,d.nrrd\ny,a,b,e,D.nii.gz\n", "same output"),
        ("name,reference,labels,target,output\nx,a,b,c,d.nrrd\nX,a,b,e,f.nrrd\n", "same name"),
        ("reference,labels,target,output\nout/x.nrrd,b,c,d.nrrd\na,b,c,x.nrrd\n", "replace an input"),
        ("\xff\xfe\x00\n1\n", "no column"),
    ],
)
def test_tables_that_cannot_be_used_are_one_line(tmp_path, rows, words):
    (tmp_path / "out").mkdir()
    (tmp_path / "cases.csv").write_text(rows, encoding="utf-8")
    with pytest.raises(InputError, match=words) as caught:
        read_cases(tmp_path / "cases.csv", tmp_path / "out")
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_json_tables_that_cannot_be_used_are_one_line(tmp_path):
    for content in ("[", "[]", "{}", "[1]", '[{"target": "a"}]', '[{"reference": {}, "labels": "a", "target": "b"}]'):
        (tmp_path / "cases.json").write_text(content)
        with pytest.raises(InputError):
            read_cases(tmp_path / "cases.json", tmp_path)


def test_the_exit_status_is_the_worst():
    def of(*codes):
        return worst([Entry(str(code), "done", code) for code in codes])

    assert (of(), of(0, 0), of(0, 3), of(3, 2, 0), of(2, 4, 3), of(1, 4)) == (0, 0, 3, 2, 4, 1)


def test_a_line_says_what_a_file_is_instead_of_its_name():
    files = Files((Path("a/Doe.nii"),), (Path("a/Doe.nii.seg.nrrd"),), Path("b/Jane.nii"), Path("out.nrrd"))
    line = nameless("Doe.nii.seg.nrrd does not fit Doe.nii, nor Jane.nii", files)
    assert line == "Label map 1 does not fit reference 1, nor the target"
