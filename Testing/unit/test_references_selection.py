"""Which structures are segmented, and how several references agree on their values."""

from __future__ import annotations

import numpy as np
import pytest

from rau.errors import InputError
from rau.references.reference import Reference
from rau.references.selection import choose, unify
from rau.settings import SegmentSettings
from rau.volume.volume import Geometry, LabelMap, Structure, Volume


def reference(names: dict[int, str]) -> Reference:
    labels = np.zeros((1, 8, 8), np.uint8)
    for row, value in enumerate(names):
        labels[0, row] = value
    grid = Geometry((1, 8, 8))
    structures = tuple(Structure(value, name) for value, name in names.items())
    return Reference(Volume(np.arange(64.0).reshape(1, 8, 8), grid), LabelMap(labels, grid, structures))


def test_one_reference_keeps_its_values():
    structures, arrays = unify([reference({3: "liver", 7: "spleen"})])
    assert [(s.value, s.name) for s in structures] == [(3, "liver"), (7, "spleen")]
    assert set(np.unique(arrays[0])) == {0, 3, 7}


def test_the_same_name_is_the_same_structure_whatever_its_value():
    structures, arrays = unify(
        [reference({1: "liver", 2: "spleen"}), reference({1: "Spleen", 2: "kidney", 5: "liver"})]
    )
    assert {s.name: s.value for s in structures} == {"liver": 1, "spleen": 2, "kidney": 3}
    assert (arrays[1][0, 0] == 2).all() and (arrays[1][0, 1] == 3).all() and (arrays[1][0, 2] == 1).all()


STRUCTURES = (Structure(1, "Liver"), Structure(2, "left kidney"), Structure(3, "kidney"))


def test_all_structures_when_none_is_named():
    assert choose(STRUCTURES, SegmentSettings()) == STRUCTURES


def test_names_do_not_mind_case_and_unknown_ones_are_refused_with_the_known():
    assert [s.value for s in choose(STRUCTURES, SegmentSettings(structures=("liver",)))] == [1]
    with pytest.raises(InputError, match="no structure called lung.*They have: Liver, left kidney, kidney"):
        choose(STRUCTURES, SegmentSettings(structures=("lung",)))


def test_a_prompt_chooses_by_whole_words():
    assert [s.name for s in choose(STRUCTURES, SegmentSettings(prompt="please show the LIVER."))] == ["Liver"]
    with pytest.raises(InputError, match="names no structure"):
        choose(STRUCTURES, SegmentSettings(prompt="livers and kidneys"))
