"""What the README shows does what it says."""

from __future__ import annotations

import re

import pytest

from rau.export.writing import write_labels
from rau.training.patient import patient_pair
from rau.volume.itk import to_itk


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The files that the README's examples name."""
    import SimpleITK as sitk

    reference, (target, _) = patient_pair(3, (10, 48, 48))
    monkeypatch.chdir(tmp_path)
    sitk.WriteImage(to_itk(reference.image.array, reference.image.geometry), "a.nii.gz")
    sitk.WriteImage(to_itk(target.array, target.geometry), "b.nii.gz")
    write_labels(reference.labels, tmp_path / "a_seg.nii.gz")
    return target


def test_the_lines_of_python_segment(files, repository):
    from rau.models.store import known_models

    if "rau-mini" not in known_models():
        pytest.skip("the bundled model is not here")
    code = re.search(r"```python\n(.*?)```", (repository / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    told: dict[str, object] = {}
    exec(code.group(1), told)
    result = told["result"]
    assert result.labels.array.shape == files.array.shape
    assert {one["name"] for one in result.report()["structures"]} == {s.name for s in result.labels.structures}
