"""How much network, expert and registration count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from hypothesis import given
from hypothesis import strategies as st

from rau.adaptation.gate import COEFFICIENTS, CORRECTED, IN_VOLUMES, SOURCES, Evidence, fineness, weights_of

SHARE = st.floats(0, 1)
EVIDENCE = st.builds(Evidence, SHARE, SHARE, SHARE, SHARE, SHARE)


@given(EVIDENCE, st.booleans(), st.booleans(), st.booleans())
def test_shares_are_one_together_and_what_is_missing_gets_none(evidence, network, expert, prior):
    if not (network or expert or prior):
        network = True
    found = weights_of(evidence, expert=expert, prior=prior, network=network)
    shares = dict(zip(SOURCES, found.shares(), strict=True))
    assert sum(shares.values()) == pytest.approx(1)
    seen = network and evidence.unprompted > 0
    for name, here in (("network", network), ("expert", expert), ("prior", prior), ("unprompted", seen)):
        assert (shares[name] > 0) == here


@given(EVIDENCE, st.booleans())
def test_in_volumes_the_shares_are_fixed_and_the_unprompted_network_has_none(evidence, corrected):
    found = weights_of(evidence, volume=True, corrected=corrected)
    assert found.shares() == pytest.approx(CORRECTED if corrected else IN_VOLUMES) and found.unprompted == 0


@given(EVIDENCE, st.floats(0.01, 1), st.floats(0.01, 1))
def test_the_surer_the_unprompted_network_the_larger_its_share(evidence, one, other):
    low, high = (weights_of(replace(evidence, unprompted=iou)).unprompted for iou in sorted((one, other)))
    assert low <= high


def test_two_shares_are_mixed_source_by_source():
    one, other = weights_of(Evidence(0.5, 0.5, 0.1, 0.5, 0.7)), weights_of(Evidence(0.9, 0.1, 0.1), prior=False)
    half = one.towards(other, np.array([0.0, 0.5, 1.0]))
    for mixed, a, b in zip(half.shares(), one.shares(), other.shares(), strict=True):
        assert mixed == pytest.approx([a, (a + b) / 2, b])


@given(EVIDENCE)
def test_leaving_a_source_out_keeps_the_proportion_of_the_others(evidence):
    every, some = weights_of(evidence), weights_of(evidence, prior=False)
    assert some.network / some.expert == pytest.approx(every.network / every.expert)


def test_every_source_has_a_coefficient_for_every_number():
    assert set(COEFFICIENTS) == set(SOURCES)
    assert {len(row) for row in COEFFICIENTS.values()} == {len(Evidence(0, 0, 0).numbers())}
    assert Evidence(0.1, 0.2, 0.3, 0.4, 0.5).numbers() == (1.0, 0.1, 0.2, 0.3, 0.4, 0.5)


def test_a_thin_line_is_finer_than_a_disc_and_nothing_is_not_fine():
    line = np.abs(np.subtract.outer(np.arange(192), np.arange(192))) < 1
    rows, columns = np.mgrid[:192, :192] - 96
    disc = rows**2 + columns**2 < 40**2
    thin, round_, nothing = fineness(np.stack([line, disc, np.zeros_like(disc)]), 48)
    assert thin > 0.5 > 0.1 > round_ >= 0 and nothing == 0


@given(st.integers(0, 10**6), st.sampled_from([24, 48]))
def test_fineness_is_a_share(seed, grid):
    masks = np.random.default_rng(seed).random((2, 96, 96)) > 0.7
    found = fineness(masks, grid)
    assert found.shape == (2,) and (found >= 0).all() and (found <= 1).all()
