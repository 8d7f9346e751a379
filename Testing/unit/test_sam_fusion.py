"""RAU Eq. 6 and 7: shapes of papers.md A10, its unit case 1, order of structures, padding, collapse."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from rau.models.presets import preset  # noqa: E402
from rau.sam.build import build_sam2  # noqa: E402
from rau.sam.fusion import (  # noqa: E402
    Fusion,
    FusionConfig,
    MemoryFusion,
    Projector,
    Slots,
    collapsed,
    entropy_of,
    prototypes_of,
    slots_of,
)
from rau.sam.injection import INJECTIONS  # noqa: E402
from rau.sam.segmenter import Segmenter  # noqa: E402

SIZES = [  # H, C, C_mem, d
    (3584, 256, 64, 256),
    (3584, 256, 64, 128),
    (192, 112, 112, 112),
    (256, 112, 112, 64),
    (192, 112, 112, 1024),
]


def random_slots(config: FusionConfig, rows: int, references: int = 1, seed: int = 0) -> Slots:
    generator = torch.Generator().manual_seed(seed)
    shape, cells = (rows, references), config.spatial_side**2
    prototypes, pointers = (torch.randn(*shape, config.channels, generator=generator) for _ in range(2))
    spatial = torch.randn(*shape, cells, config.memory_channels, generator=generator)
    return Slots(prototypes, pointers, spatial, torch.ones(*shape, dtype=torch.bool))


def one_slot(slots: Slots) -> Slots:
    """K = 1, the case of W2: the prototype alone, with what is not there cut off."""

    class One(Slots):
        @property
        def mask(self):
            return torch.tensor([[True, False]]).expand(len(self), 2)

    return One(slots.prototypes, slots.pointers, slots.spatial, slots.present)


def states_of(config: FusionConfig, rows: int, seed: int = 1):
    return torch.randn(rows, config.hidden, generator=torch.Generator().manual_seed(seed))


def fusion_of(config: FusionConfig) -> Fusion:
    torch.manual_seed(0)
    return Fusion(config)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("side", [0, 2, 3])
@pytest.mark.parametrize("references", [1, 3])
def test_shapes_of_papers_a10(sizes, side, references):
    hidden, channels, memory_channels, width = sizes
    config = FusionConfig(hidden, channels, memory_channels, width, side)
    fusion, slots = fusion_of(config), random_slots(config, 4, references)
    q = fusion.projector(states_of(config, 4))
    z, alpha = fusion(states_of(config, 4), slots)
    assert q.shape == (4, width) and z.shape == (4, channels)
    assert alpha.shape == slots.mask.shape == (4, references * (2 + side * side))
    assert torch.allclose(alpha.sum(1), torch.ones(4), atol=1e-6) and (alpha >= 0).all()


def test_the_formulas_are_eq_6_and_eq_7():
    config = FusionConfig(32, 80, 80, spatial_side=1)
    fusion, slots = fusion_of(config), random_slots(config, 2)
    states = states_of(config, 2)
    a, b = fusion.projector.layers[0], fusion.projector.layers[2]
    q = torch.nn.functional.gelu(states @ a.weight.T + a.bias) @ b.weight.T + b.bias
    m = torch.cat([slots.prototypes, slots.pointers, slots.spatial[:, 0]], 1)
    expected = torch.stack([torch.softmax(q[i] @ m[i].T / 80**0.5, 0) for i in range(2)])
    z, alpha = fusion(states, slots)
    assert torch.allclose(alpha, expected, atol=1e-6)
    assert torch.allclose(z, q + torch.stack([expected[i] @ m[i] for i in range(2)]), atol=1e-5)


def test_equal_widths_need_no_weights_beside_the_projectors_and_others_one_map_a_kind():
    assert FusionConfig(192, 112, 112).width == 112, "as wide as SAM2 unless said otherwise"
    assert not list(MemoryFusion(FusionConfig(192, 112, 112, spatial_side=2)).parameters())
    names = set(MemoryFusion(FusionConfig(3584, 256, 64, spatial_side=2)).state_dict())
    assert names == {"spatial.weight", "spatial.bias"}, "W1: spatial memory is 64 wide"
    assert MemoryFusion(FusionConfig(3584, 256, 64, spatial_side=2)).spatial.weight.shape == (256, 64)
    assert len(MemoryFusion(FusionConfig(3584, 256, 64, 128, 2)).state_dict()) == 8
    assert len(MemoryFusion(FusionConfig(3584, 256, 64, 128)).state_dict()) == 6, "no spatial slots, no map for them"


def test_weights_are_a_state_dict():
    config = FusionConfig(64, 112, 112, 64, 2)
    first, slots = fusion_of(config), random_slots(config, 2)
    torch.manual_seed(9)
    second = Fusion(config)
    assert not torch.equal(first(states_of(config, 2), slots)[0], second(states_of(config, 2), slots)[0])
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(states_of(config, 2), slots)[0], second(states_of(config, 2), slots)[0])


def test_one_slot_hides_the_query_without_a_residual_and_not_with_it():
    """Unit case 1 of papers.md A10 (W2): d == C, so the map to C is the identity."""
    config = FusionConfig(32, 112, 112)
    slots = one_slot(random_slots(config, 1))
    q = torch.randn(1, 112, generator=torch.Generator().manual_seed(3))

    def jacobian(residual: bool):
        fusion = MemoryFusion(replace(config, residual=residual))
        return torch.autograd.functional.jacobian(lambda x: fusion(x, slots)[0], q)[0, :, 0]

    assert torch.equal(jacobian(False), torch.zeros(112, 112)), "z = m: the VLM neither acts nor learns"
    assert torch.allclose(jacobian(True), torch.eye(112), atol=1e-6)
    z, alpha = MemoryFusion(replace(config, residual=False))(q, slots)
    assert torch.equal(alpha, torch.tensor([[1.0, 0.0]])) and torch.allclose(z, slots.prototypes[:, 0])


@pytest.mark.parametrize("residual", [False, True])
def test_with_one_slot_the_vlm_learns_only_through_the_residual(residual):
    config = FusionConfig(32, 112, 112, residual=residual)
    fusion, states = fusion_of(config), states_of(config, 2).requires_grad_(True)
    (fusion(states, one_slot(random_slots(config, 2)))[0] ** 2).sum().backward()
    reached = [states.grad.abs().max() > 0] + [p.grad.abs().max() > 0 for p in fusion.parameters()]
    assert all(reached) if residual else not any(reached)


def test_structures_in_another_order_give_the_outcomes_in_that_order():
    config = FusionConfig(192, 112, 112, 64, 2)
    fusion, slots, states = fusion_of(config), random_slots(config, 5, 2), states_of(config, 5)
    order = torch.tensor([3, 0, 4, 1, 2])
    z, alpha = fusion(states, slots)
    turned, turned_alpha = fusion(states[order], slots.rows(order))
    assert torch.allclose(turned, z[order], atol=1e-6) and torch.allclose(turned_alpha, alpha[order], atol=1e-6)
    crossed, _ = fusion(states[order], slots)
    assert not torch.allclose(crossed, z[order], atol=1e-2), "a state belongs to its own slots (W3)"


def test_one_batch_gives_what_one_at_a_time_gives():
    config = FusionConfig(192, 112, 112, 64, 2)
    fusion, slots, states = fusion_of(config), random_slots(config, 6, 3), states_of(config, 6)
    z, alpha = fusion(states, slots)
    for k in range(6):
        index = torch.tensor([k])
        one, weights = fusion(states[index], slots.rows(index))
        assert torch.allclose(one, z[index], atol=1e-5) and torch.allclose(weights, alpha[index], atol=1e-5)


@pytest.mark.parametrize("width", [64, 112])
def test_padding_slots_change_nothing(width):
    config = FusionConfig(192, 112, 112, width, 2)
    fusion, states = fusion_of(config), states_of(config, 3)
    one, three = random_slots(config, 2, 1), random_slots(config, 1, 3, seed=5)
    together = Slots.stack([one, three])
    assert together.mask.sum(1).tolist() == [6, 6, 18]
    z, alpha = fusion(states, together)
    first, weights = fusion(states[:2], one)
    second, _ = fusion(states[2:], three)
    assert torch.allclose(z, torch.cat([first, second]), atol=1e-6)
    assert torch.allclose(alpha[:2, :6], weights, atol=1e-6) and not alpha[:2, 6:].any()
    junk = replace(together, prototypes=torch.where(together.present[..., None], together.prototypes, 1e4))
    assert torch.equal(fusion(states, junk)[0], z), "whatever stands in padding"
    with pytest.raises(ValueError, match="do not fit"):
        three.pad(2)


def test_more_references_are_more_slots_in_the_order_of_the_mask():
    config = FusionConfig(192, 112, 112, spatial_side=2)
    fusion, states = fusion_of(config), states_of(config, 2)
    first, second = random_slots(config, 2), random_slots(config, 2, seed=7)
    second = replace(second, present=torch.tensor([[True], [False]]))
    joined = Slots.join([first, second])
    assert joined.mask.tolist() == [[True] * 12, [True] * 6 + [False] * 6]
    values = fusion.memory.values(joined)
    assert torch.equal(values[0, 6], second.prototypes[0, 0]) and torch.equal(values[0, 7], second.pointers[0, 0])
    assert torch.equal(values[0, 8:], second.spatial[0, 0])
    z, _ = fusion(states, joined)
    assert torch.allclose(z[1], fusion(states, first)[0][1], atol=1e-6)
    assert not torch.allclose(z[0], fusion(states, first)[0][0], atol=1e-3)


def test_a_structure_without_any_slot_has_its_query_alone():
    config = FusionConfig(192, 112, 112)
    fusion, states = fusion_of(config), states_of(config, 2).requires_grad_(True)
    slots = replace(random_slots(config, 2), present=torch.tensor([[True], [False]]))
    z, alpha = fusion(states, slots)
    assert alpha.sum(1).tolist() == pytest.approx([1, 0])
    assert torch.allclose(z[1], fusion.projector(states)[1])
    z.sum().backward()
    assert states.grad.isfinite().all()


def test_half_precision_states_of_a_vlm_are_taken():
    config = FusionConfig(64, 112, 112)
    fusion, slots, states = fusion_of(config), random_slots(config, 2), states_of(config, 2).bfloat16()
    assert torch.equal(fusion(states, slots)[0], fusion(states.float(), slots)[0])


@pytest.mark.parametrize(
    "change", [{"width": 32}, {"width": 2048}, {"hidden": 0}, {"spatial_side": -1}, {"injection": "query"}]
)
def test_a_configuration_that_cannot_be_is_refused(change):
    with pytest.raises(ValueError, match="must be"):
        FusionConfig(**{"hidden": 192, "channels": 112, "memory_channels": 112, **change})


def test_shapes_that_do_not_fit_are_refused():
    config = FusionConfig(64, 112, 112)
    fusion, slots = fusion_of(config), random_slots(config, 2)
    with pytest.raises(ValueError, match=r"\(N, 64\)"):
        fusion(torch.zeros(2, 32), slots)
    with pytest.raises(ValueError, match=r"q must have the shape \(2, 112\)"):
        fusion(torch.zeros(3, 64), slots)
    with pytest.raises(ValueError, match="0 spatial slots a side"):
        fusion(torch.zeros(2, 64), random_slots(replace(config, spatial_side=2), 2))
    assert Projector(64, 80)(torch.zeros(3, 64)).shape == (3, 80)


# Slots from SAM2


def test_a_prototype_is_the_mean_under_the_mask_and_never_nan():
    top = torch.arange(16.0).reshape(1, 1, 4, 4).expand(3, 2, 4, 4)
    masks = torch.zeros(3, 1, 64, 64)
    masks[0, 0, :16, :32] = 1  # cells 0 and 1
    masks[1, 0, 33:35, 50:52] = 1  # 4 pixels in cell 11
    found = prototypes_of(top, masks)
    assert found[:2].tolist() == [[0.5, 0.5], [11.0, 11.0]]
    assert found.isfinite().all(), "an empty mask too"


def build(name: str) -> Segmenter:
    torch.manual_seed(0)
    mini = preset("rau-mini")
    overrides = {**mini.sam_overrides, "image_size": 128} if name == "rau-mini" else {"image_size": 256}
    return Segmenter(build_sam2(mini.sam_config, overrides).eval().requires_grad_(False))


@pytest.fixture(scope="module", params=["rau-mini", "sam2.1_hiera_t"])
def segmenter(request) -> Segmenter:
    return build(request.param)


def scene(segmenter: Segmenter, structures: int, side: int):
    """Target rows, memory and slots of a reference whose structures are blocks of falling size; the last one 2 x 2."""
    size = segmenter.size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(structures, 1, size, size)
    for k in range(structures):
        edge = max(2, size // 2 >> 2 * k)
        masks[k, 0, 8 * k : 8 * k + edge, 3 : 3 + edge] = 1
    with torch.no_grad():
        both = segmenter.encode(images)
        zeros = torch.zeros(structures, dtype=torch.long)
        reference = both.rows(zeros)
        memory = segmenter.remember(reference, masks)
        slots = slots_of(reference, masks, memory, side)
    return both.rows(zeros + 1), memory, slots, masks, reference


def test_slots_of_a_reference(segmenter):
    channels, width = segmenter.model.hidden_dim, segmenter.model.mem_dim
    assert (channels, width) in ((112, 112), (256, 64))
    for side in (0, 2):
        _, memory, slots, masks, reference = scene(segmenter, 4, side)
        assert slots.prototypes.shape == slots.pointers.shape == (4, 1, channels)
        assert slots.spatial.shape == (4, 1, side * side, width) and slots.present.all()
        assert torch.equal(slots.pointers[:, 0], memory.pointer) and slots.prototypes.isfinite().all()
    half = memory.spatial.shape[-1] // 2
    assert torch.allclose(slots.spatial[:, 0, 1], memory.spatial[:, :, :half, half:].mean((2, 3)), atol=1e-6)
    empty = slots_of(reference, masks * torch.tensor([1.0, 0, 1, 1])[:, None, None, None], memory, 2)
    assert empty.present[:, 0].tolist() == [True, False, True, True] and empty.prototypes.isfinite().all()
    with pytest.raises(ValueError, match="rows differ"):
        slots_of(reference, masks[:2], memory)


@pytest.mark.parametrize("injection", INJECTIONS)
@pytest.mark.parametrize("structures", [1, 3])
def test_the_gradient_of_the_masks_reaches_token_projector_and_vlm(segmenter, injection, structures):
    config = FusionConfig(
        192, segmenter.model.hidden_dim, segmenter.model.mem_dim, 96, spatial_side=2, injection=injection
    )
    target, memory, slots, _, _ = scene(segmenter, structures, 2)
    fusion, states = fusion_of(config), states_of(config, structures).requires_grad_(True)
    z, _ = fusion(states, slots)
    z.retain_grad()
    masks = segmenter.decode(target, [memory], tokens=z, injection=config.injection)
    assert masks.logits.shape == (structures, 1, segmenter.size // 4, segmenter.size // 4)
    (masks.logits**2).mean().backward()
    assert z.grad.abs().amax(1).min() > 0 and states.grad.abs().amax(1).min() > 0
    for name, weight in fusion.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), name
        assert weight.grad.abs().max() > 0, name


@pytest.mark.parametrize("injection", INJECTIONS)
@pytest.mark.parametrize("residual", [False, True])
def test_with_one_slot_masks_teach_the_vlm_only_through_the_residual(segmenter, injection, residual):
    config = FusionConfig(192, segmenter.model.hidden_dim, segmenter.model.mem_dim, residual=residual)
    target, memory, slots, _, _ = scene(segmenter, 1, 0)
    fusion, states = fusion_of(config), states_of(config, 1).requires_grad_(True)
    z, _ = fusion(states, one_slot(slots))
    (segmenter.decode(target, [memory], tokens=z, injection=injection).logits ** 2).mean().backward()
    assert bool(states.grad.abs().max() > 0) is residual


# Collapse


def test_entropy_is_zero_for_one_slot_and_one_for_equal_weights():
    alpha = torch.tensor([[1.0, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0], [1.0, 0, 0, 0], [0.0] * 4])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    assert entropy_of(alpha, mask).tolist() == pytest.approx([0, 1, 1, 0, 0])
    assert entropy_of(alpha[:3]).tolist() == pytest.approx([0, 1, 0.5])
    assert entropy_of(torch.ones(3, 1)).tolist() == [0, 0, 0]


def test_collapse_is_the_same_slot_for_all_or_no_preference_at_all():
    same = torch.tensor([[0.995, 0.003, 0.002], [0.999, 0.001, 0.0]])
    assert "attend to slot 0" in collapsed(same)
    assert "prefers any" in collapsed(torch.tensor([[0.34, 0.33, 0.33], [0.33, 0.34, 0.33]]))
    assert collapsed(same[:1]) == "", "of one structure nothing is said"
    assert collapsed(torch.stack([same[0], same[0].roll(1)])) == "", "each its own slot"
    assert collapsed(torch.tensor([[0.9, 0.05, 0.05], [0.8, 0.1, 0.1]])) == ""
    assert collapsed(torch.ones(5, 1)) == "", "a single slot is no collapse"
    mask = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 0, 0]]).bool()
    assert "all 2 structures" in collapsed(torch.cat([same, torch.tensor([[1.0, 0, 0]])]), mask)
    assert "none of 2" in collapsed(
        torch.tensor([[0.5, 0.5, 0], [0.34, 0.33, 0.33]]), torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    )
