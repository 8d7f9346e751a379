"""A head that is told to look at what is marked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from vlm_side import SIDE, TINY, square  # noqa: E402

from rau.training.items import Item, Structure, collate, drawn_on  # noqa: E402
from rau.training.pointing import LAYER, can_point  # noqa: E402
from rau.training.vlm_objective import SftModel  # noqa: E402
from rau.vlm.prompts import MOST  # noqa: E402
from rau.vlm.reader import look_across, open_reader  # noqa: E402
from rau.vlm.store import new_reasoner  # noqa: E402


def opened(layers):
    loaded = new_reasoner(0, replace(TINY, layers=layers))
    open_reader(loaded.reasoner.base)
    look_across(loaded.reasoner.base, loaded.grid)
    return loaded


def asked(loaded, marked=0):
    grey = np.full((SIDE, SIDE, 3), 90, np.uint8)
    places = ((10, 10), (60, 55))
    structures = tuple(Structure(f"region {k}", square(*at, 25), square(*at, 25)) for k, at in enumerate(places))
    items = [Item("label", structures, (grey, grey), marked)]
    ready = collate(items, loaded.processor, loaded.cells, np.random.default_rng(0))
    return ready | {"drawn": drawn_on(items, loaded.grid), "meant": torch.tensor([marked])}


def test_a_model_without_the_layer_or_without_still_waves_does_not_point():
    assert not can_point(opened(2).reasoner.base)
    assert not can_point(new_reasoner(0, replace(TINY, layers=LAYER + 1)).reasoner.base)
    assert SftModel(opened(2).reasoner).pointing is None


def test_a_head_that_learns_to_point_looks_at_whichever_region_is_marked():
    loaded = opened(LAYER + 1)
    model, base = SftModel(loaded.reasoner), loaded.reasoner.base
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    both = [asked(loaded, marked) for marked in (0, 1)]
    for step in range(40):
        model(**both[step % 2])
        losses = losses_of(model, both[step % 2])
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
    base.set_attn_implementation("eager")
    for ready in both:
        with torch.inference_mode():
            seen = base.model(**ready["inputs"], output_attentions=True).attentions[LAYER][0, -1]
        target = torch.nonzero(ready["inputs"]["mm_token_type_ids"][0])[-(loaded.grid**2) :, 0]
        last = int((ready["labels"][0] >= 0).nonzero()[-1]) - 1
        found = seen[last, target][marks_of(ready)[0] > 0].sum()
        assert found > 0.8, "what really attends, not what the loss reckons"
    assert losses["meant"] < 0.3, "and the layer knows which colour is there"


def marks_of(ready):
    return ready["drawn"][:, MOST].flatten(1)


def losses_of(model, ready, marks=None):
    return model.pointing(ready["inputs"], ready["labels"], marks_of(ready) if marks is None else marks, ready["meant"])


def test_pointing_costs_nothing_where_nothing_is_marked_and_is_a_part_of_the_loss_where_something_is():
    loaded = opened(LAYER + 1)
    model, ready = SftModel(loaded.reasoner), asked(loaded)
    model(**ready)
    assert model.parts["pointing"] > 1
    assert losses_of(model, ready, torch.zeros_like(marks_of(ready))) == {}
    ready["drawn"][:, MOST] = 0
    model(**ready)
    assert "pointing" not in model.parts
