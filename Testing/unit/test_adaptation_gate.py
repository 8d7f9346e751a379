"""How much network, expert and registration count."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from hypothesis import given
from hypothesis import strategies as st

from rau.adaptation.gate import COEFFICIENTS, SOURCES, Evidence, fineness, in_volumes, weights_of

SHARE = st.floats(0, 1)
EVIDENCE = st.builds(Evidence, SHARE, SHARE, SHARE, SHARE)


@given(EVIDENCE, st.booleans(), st.booleans(), st.booleans())
def test_shares_are_one_together_and_what_is_missing_gets_none(evidence, network, expert, prior):
    if not (network or expert or prior):
        network = True
    found = weights_of(evidence, expert=expert, prior=prior, network=network)
    shares = {"network": found.network, "expert": found.expert, "prior": found.prior}
    assert sum(shares.values()) == pytest.approx(1)
    for name, here in (("network", network), ("expert", expert), ("prior", prior)):
        assert (shares[name] > 0) == here


@given(EVIDENCE)
def test_leaving_a_source_out_keeps_the_proportion_of_the_others(evidence):
    every, some = weights_of(evidence), weights_of(evidence, prior=False)
    assert some.network / some.expert == pytest.approx(every.network / every.expert)


@given(EVIDENCE, SHARE, st.sampled_from([1, 3]))
def test_in_volumes_registration_counts_the_more_the_more_alike_the_laid_reference_is(evidence, correlation, planes):
    other = Evidence(evidence.trust, correlation, evidence.fineness, evidence.iou)
    low, high = sorted((evidence, other), key=lambda one: one.correlation)
    less, more = (weights_of(one, planes=planes) for one in (low, high))
    assert more.prior >= less.prior and more.network <= less.network
    assert less.expert == pytest.approx(more.expert) and sum(in_volumes(correlation, planes)) == pytest.approx(1)
    assert min(in_volumes(correlation, planes)) > 0


@given(EVIDENCE)
def test_where_the_network_sees_one_plane_alone_the_expert_counts_more(evidence):
    assert weights_of(evidence, planes=1).expert > weights_of(evidence, planes=3).expert


def test_every_source_has_a_coefficient_for_every_number():
    assert set(COEFFICIENTS) == set(SOURCES)
    assert {len(row) for row in COEFFICIENTS.values()} == {len(Evidence(0, 0, 0).numbers())}
    assert Evidence(0.1, 0.2, 0.3, 0.4).numbers() == (1.0, 0.1, 0.2, 0.3, 0.4)


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
