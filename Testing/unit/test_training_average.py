"""The mean of two segmenters: between both, recorded, refused where it makes no sense."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")

from rau.errors import InputError  # noqa: E402
from rau.models.store import find_model, open_model  # noqa: E402
from rau.training.average import average, between  # noqa: E402


def tensors(value, size=3):
    return {"weight": torch.full((size,), float(value)), "steps": torch.tensor(int(value))}


@pytest.mark.parametrize("share, expected", [(0.0, 1.0), (0.25, 1.5), (1.0, 3.0)])
def test_weights_lie_between_both(share, expected):
    found = between(tensors(1), tensors(3), share)
    assert found["weight"].tolist() == [expected] * 3 and found["steps"] == 1


def test_segmenters_of_different_sizes_have_no_mean():
    with pytest.raises(InputError, match="one size"):
        between(tensors(1), tensors(3, 4), 0.5)


def test_the_mean_of_a_model_with_itself_is_that_model(tmp_path):
    bundled = find_model("rau-mini")
    made = average(bundled, bundled, 0.5, "9", tmp_path / "mean")
    before, after = (model.tensors("segmenter.safetensors") for model in (open_model(bundled), open_model(made.path)))
    assert all(torch.equal(before[key].half(), after[key].half()) for key in before)
    record = json.loads(made.manifest.trained)
    assert [part["share"] for part in record["segmenter"]["average_of"]] == [0.5, 0.5]
    assert record["encoder"] and made.manifest.version == "9" and made.manifest.vlm is None
    assert str(tmp_path) not in (made.path / "model.json").read_text()


def test_a_share_beyond_both_is_refused(tmp_path):
    with pytest.raises(InputError, match="between 0 and 1"):
        average(find_model("rau-mini"), find_model("rau-mini"), 1.5, "9", tmp_path / "mean")
