"""Expected Dice from evidence: the coefficients of the package, trees as numbers, intervals, lights."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest

pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st
from quality import of_estimates
from quality_fit import Table, fitted, grown, shortest, text_of

from rau.errors import ModelError
from rau.quality.estimate import GREEN, PLAIN, RED, Estimate, coefficients, estimates, numbers_of, parsed
from rau.quality.evidence import StructureEvidence

GOOD = StructureEvidence(
    value=1,
    flat=True,
    iou=0.95,
    presence=0.99,
    similarity=0.95,
    correlation=0.9,
    trust=0.95,
    fineness=0.02,
    network_expert=0.95,
    network_prior=0.93,
    expert_prior=0.93,
    final_network=0.97,
    final_expert=0.96,
    final_prior=0.94,
    planes=None,
    soft=0.96,
    doubt=0.05,
    size_ratio=0.02,
    extent_ratio=0.01,
    size=0.1,
    smoothness=None,
    pieces=0.0,
    likeness=0.98,
    shift=0.02,
    believed=None,
    reverse=0.93,
    broken=0.0,
    touching_edge=False,
)
BAD = replace(
    GOOD,
    value=2,
    iou=0.3,
    presence=0.6,
    trust=0.4,
    network_expert=0.1,
    network_prior=0.1,
    expert_prior=0.1,
    final_network=0.4,
    final_expert=0.2,
    final_prior=0.1,
    soft=0.5,
    doubt=1.2,
    size_ratio=-2.0,
    extent_ratio=-1.0,
    shift=1.5,
    reverse=0.05,
    broken=0.5,
)


def test_good_evidence_is_green_and_bad_evidence_is_red():
    good, bad = estimates([GOOD])[1], estimates([BAD])[2]
    assert good.light == "green" and good.expected > 0.8
    assert bad.light == "red" and bad.expected < 0.3
    assert good.low <= good.expected <= good.high <= 1 and 0 <= bad.low <= bad.expected <= bad.high


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_evidence_gives_an_interval_within_0_and_1(data):
    changed = {}
    for known in fields(StructureEvidence):
        if known.type.startswith("float"):
            numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)
            changed[known.name] = data.draw(st.none() | numbers if "None" in known.type else numbers)
    one = replace(GOOD, **changed)
    found = estimates([one, BAD])[1]
    assert 0 <= found.low <= found.expected <= found.high <= 1
    assert found.light in ("green", "amber", "red")


def test_lights_follow_the_stated_thresholds():
    lights = [Estimate(expected, 0.0, 1.0).light for expected in (GREEN, GREEN - 0.01, RED, RED - 0.01)]
    assert lights == ["green", "amber", "amber", "red"]


def test_what_is_not_known_is_left_out():
    assert {"planes", "smoothness"} & set(numbers_of(GOOD)) == set()
    assert numbers_of(BAD)["off size_ratio"] == 2.0 == -numbers_of(BAD)["size_ratio"]
    unsure = replace(GOOD, trust=None, reverse=None, correlation=None, network_expert=None)
    assert 0 <= estimates([unsure])[1].expected <= 1


def table(n: int = 160) -> Table:
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (n, 2))
    y = np.clip(x[:, 0] + rng.normal(0, 0.05, n), 0, 1)
    x[::9, 1] = np.nan
    source = np.array(["a", "b", "c", "d"])[np.arange(n) % 4]
    return Table(("sign", "noise"), x, y, source, np.zeros(n, bool))


def test_what_is_fitted_and_written_predicts_as_scikit_learn_does_and_holds_its_interval():
    known = table()
    told, left = fitted(known)
    model = parsed(text_of(told))
    assert json.loads(text_of(told)) == told
    theirs = grown(known.filled, known.y, known.weights).predict(known.filled)
    ours = [model.expected({k: v for k, v in zip(known.names, row) if np.isfinite(v)}) for row in known.x]
    assert np.abs(theirs - ours).max() < 1e-3
    figures = of_estimates([(model.interval(e), y) for e, y in zip(left, known.y)], 0)
    assert figures.spearman > 0.9 and figures.coverage >= 0.85 and figures.width < 0.5


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60), st.floats(0.5, 0.99))
def test_the_conformal_interval_holds_its_share_and_none_of_its_ends_can_be_left_out(residuals, level):
    known = np.array(residuals)
    low, high = shortest(known, level)
    held = ((known >= low) & (known <= high)).sum()
    assert held >= min(np.ceil((len(known) + 1) * level), len(known))
    assert low in residuals and high in residuals


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"features": 1}', "null"])
def test_damaged_coefficients_are_told_in_one_line(text):
    with pytest.raises(ModelError, match="damaged"):
        parsed(text)


def test_the_coefficients_of_the_package_know_only_numbers_that_there_are():
    model = coefficients()
    assert set(PLAIN) <= {one.name for one in fields(StructureEvidence)}
    assert {name.removeprefix("off ") for name in model.features} <= set(PLAIN)
    assert list(model.centres) == sorted(model.centres)
    assert all(max(tree.feature) < len(model.features) for tree in model.trees)
