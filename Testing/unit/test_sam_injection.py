"""Tokens and boxes in SAM2's decoder: shapes, gradients, rows, and nothing left behind."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from rau.models.presets import preset  # noqa: E402
from rau.sam.build import build_sam2  # noqa: E402
from rau.sam.injection import INJECTIONS  # noqa: E402
from rau.sam.segmenter import TARGET_FRAME, Segmenter  # noqa: E402

NAN = float("nan")
BOXES = torch.tensor([[8.0, 16.0, 60.0, 72.0], [NAN, NAN, NAN, NAN], [40.0, 30.0, 100.0, 120.0]])


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    mini = preset("rau-mini")
    model = build_sam2(mini.sam_config, {**mini.sam_overrides, "image_size": 128}).eval()
    return Segmenter(model.requires_grad_(False))


@pytest.fixture(scope="module")
def released() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(build_sam2("sam2.1_hiera_t", {"image_size": 256}).eval().requires_grad_(False))


def case(segmenter: Segmenter, structures: int = 3, seed: int = 0):
    """Target rows, memory of the reference, mask prompts, tokens of `structures`."""
    generator = torch.Generator().manual_seed(seed)
    size = segmenter.size
    images = torch.randn(2, 3, size, size, generator=generator)
    masks = (torch.rand(structures, 1, size, size, generator=generator) > 0.7).float()
    with torch.no_grad():
        both = segmenter.encode(images)
        zeros = torch.zeros(structures, dtype=torch.long)
        memory = segmenter.remember(both.rows(zeros), masks)
    prompts = torch.rand(structures, 1, 16, 16, generator=generator)
    tokens = torch.randn(structures, segmenter.model.hidden_dim, generator=generator)
    return both.rows(zeros + 1), memory, prompts, tokens


def hooks_of(model) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


class Watch:
    """What SAM2's decoder was given, after every other hook."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.calls: list[dict] = []
        self.decoder = segmenter.model.sam_mask_decoder

    def __enter__(self) -> Watch:
        forward = self.decoder.predict_masks

        def seen(**kwargs):
            self.calls.append(kwargs)
            return forward(**kwargs)

        self.decoder.predict_masks = seen
        return self

    def __exit__(self, *failure) -> None:
        del self.decoder.predict_masks


def same(a, b, atol: float = 1e-5) -> bool:
    return all(torch.allclose(getattr(a, x), getattr(b, x), atol=atol) for x in ("logits", "presence", "iou"))


@pytest.mark.parametrize("prompted", [False, True])
def test_without_tokens_and_boxes_a_step_is_sam2s_own_bit_for_bit(segmenter, prompted):
    target, memory, prompts, tokens = case(segmenter)
    prompts = prompts if prompted else None
    before = segmenter.decode(target, [memory], [memory], prompts)
    for injection in INJECTIONS:
        segmenter.decode(target, [memory], [memory], prompts, tokens, BOXES, injection)
    after = segmenter.decode(target, [memory], [memory], prompts)
    assert same(before, after, 0.0)
    frame = {"maskmem_features": memory.spatial, "maskmem_pos_enc": [memory.position], "obj_ptr": memory.pointer}
    frames = {"cond_frame_outputs": {0: frame}, "non_cond_frame_outputs": {TARGET_FRAME - 1: frame}}
    points, logits = segmenter._prompt(prompts) if prompted else (None, None)
    segmenter.model.track_step(
        TARGET_FRAME,
        False,
        *segmenter._flat(target),
        points,
        None,
        frames,
        TARGET_FRAME + 1,
        run_mem_encoder=False,
        prev_sam_mask_logits=logits,
    )
    assert torch.equal(segmenter._heads[0], after.logits) and torch.equal(segmenter._heads[3][:, 0], after.presence)


@pytest.mark.parametrize("prompted", [False, True])
def test_a_token_is_one_more_sparse_prompt_beside_sam2s_padding(segmenter, prompted):
    target, memory, prompts, tokens = case(segmenter)
    prompts = prompts if prompted else None
    channels, grid, size = segmenter.model.hidden_dim, segmenter.size // 16, segmenter.size
    with Watch(segmenter) as watch:
        segmenter.decode(target, [memory], (), prompts)
        found = segmenter.decode(target, [memory], (), prompts, tokens)
    without, given = (call["sparse_prompt_embeddings"] for call in watch.calls)
    padding = segmenter.model.sam_prompt_encoder.not_a_point_embed.weight
    assert without.shape == (3, 2, channels), "SAM2Base and its prompt encoder pad once each"
    assert torch.equal(without, padding.expand(3, 2, channels))
    assert given.shape == (3, 3, channels)
    assert torch.equal(given[:, :2], without) and torch.equal(given[:, 2], tokens)
    assert watch.calls[1]["image_embeddings"].shape == (3, channels, grid, grid), "F_mem"
    assert torch.equal(*(call["image_embeddings"] for call in watch.calls)), "memory-conditioned as without"
    assert found.logits.shape == (3, 1, size // 4, size // 4) and found.presence.shape == found.iou.shape == (3,)


@pytest.mark.parametrize("injection", INJECTIONS)
def test_a_token_changes_the_masks_and_another_one_otherwise(segmenter, injection):
    target, memory, prompts, tokens = case(segmenter)
    without = segmenter.decode(target, [memory], (), prompts)
    one, other = (segmenter.decode(target, [memory], (), prompts, x, None, injection) for x in (tokens, -tokens))
    for a, b in ((without, one), (without, other), (one, other)):
        assert not torch.allclose(a.logits, b.logits, atol=1e-4)


def test_the_two_injections_differ_and_a_target_of_zero_is_none(segmenter):
    target, memory, _, tokens = case(segmenter)
    token, added = (segmenter.decode(target, [memory], tokens=tokens, injection=x) for x in INJECTIONS)
    assert not torch.allclose(token.logits, added.logits, atol=1e-4)
    nothing = segmenter.decode(target, [memory], tokens=0 * tokens, injection="target")
    assert same(nothing, segmenter.decode(target, [memory]))


@pytest.mark.parametrize("injection", INJECTIONS)
@pytest.mark.parametrize("structures", [1, 3])
def test_the_gradient_reaches_the_token_of_its_own_structure_only(segmenter, injection, structures):
    target, memory, prompts, tokens = case(segmenter, structures)
    tokens.requires_grad_(True)
    masks = segmenter.decode(target, [memory], (), prompts, tokens, BOXES[:structures], injection)
    (masks.logits[0] ** 2).mean().backward()
    assert tokens.grad[0].abs().max() > 0 and tokens.grad.isfinite().all()
    assert not tokens.grad[1:].any()


def test_a_target_is_added_to_every_query_before_each_layer_and_to_nothing_else(segmenter):
    target, memory, _, tokens = case(segmenter)
    layers = segmenter.model.sam_mask_decoder.transformer.layers
    seen: list[dict] = []
    hooks = [
        layer.register_forward_hook(
            lambda module, args, kwargs, out: seen.append({**kwargs, "out": out[0]}), with_kwargs=True
        )
        for layer in layers
    ]
    try:
        segmenter.decode(target, [memory], tokens=tokens, injection="target")
    finally:
        for hook in hooks:
            hook.remove()
    first, second = seen
    padding = segmenter.model.sam_prompt_encoder.not_a_point_embed.weight
    for layer in seen:
        assert torch.equal(layer["query_pe"][:, -2:], padding.expand(3, 2, -1)), "positions stay (W6: out of place)"
    assert torch.equal(first["queries"], first["query_pe"] + tokens[:, None])
    assert torch.equal(second["queries"], first["out"] + tokens[:, None])


@pytest.mark.parametrize("injection", INJECTIONS)
@pytest.mark.parametrize("given", ["tokens", "boxes", "both", "all"])
def test_rows_in_one_batch_give_the_masks_of_one_at_a_time(segmenter, injection, given):
    target, memory, prompts, tokens = case(segmenter)
    told = {"injection": injection}
    rows = {"tokens": tokens} if given != "boxes" else {}
    rows |= {"boxes": BOXES} if given != "tokens" else {}
    rows |= {"prompts": prompts} if given == "all" else {}
    together = segmenter.decode(target, [memory], [memory], **rows, **told)
    for k in range(3):
        index = torch.tensor([k])
        one = memory.rows(index)
        alone = segmenter.decode(target.rows(index), [one], [one], **{x: y[index] for x, y in rows.items()}, **told)
        assert torch.allclose(together.logits[index], alone.logits, atol=1e-5)
        assert torch.allclose(together.presence[index], alone.presence, atol=1e-5)


def test_structures_in_another_order_give_the_masks_in_that_order(segmenter):
    target, memory, prompts, tokens = case(segmenter)
    order = torch.tensor([2, 0, 1])
    found = segmenter.decode(target, [memory], (), prompts, tokens, BOXES)
    turned = segmenter.decode(target.rows(order), [memory.rows(order)], (), prompts[order], tokens[order], BOXES[order])
    assert torch.allclose(found.logits[order], turned.logits, atol=1e-5)


@pytest.mark.parametrize("prompted", [False, True])
def test_a_row_of_nan_is_a_row_without_a_box(segmenter, prompted):
    target, memory, prompts, tokens = case(segmenter)
    prompts = prompts if prompted else None
    for told in ({}, {"tokens": tokens}, {"tokens": tokens, "injection": "target"}):
        without = segmenter.decode(target, [memory], (), prompts, **told)
        none = segmenter.decode(target, [memory], (), prompts, boxes=torch.full((3, 4), NAN), **told)
        some = segmenter.decode(target, [memory], (), prompts, boxes=BOXES, **told)
        every = segmenter.decode(target, [memory], (), prompts, boxes=BOXES.nan_to_num(20.0), **told)
        assert same(none, without)
        assert torch.allclose(some.logits[1], without.logits[1], atol=1e-5)
        assert torch.allclose(some.logits[[0, 2]], every.logits[[0, 2]], atol=1e-5)
        assert some.logits.isfinite().all()
        for k in (0, 2):
            assert not torch.allclose(some.logits[k], without.logits[k], atol=1e-4), "a box moves the mask"


def test_a_box_is_two_corner_points_in_pixels_as_in_sam2s_predictor(segmenter):
    target, memory, prompts, tokens = case(segmenter)
    boxes = BOXES.nan_to_num(20.0)
    with Watch(segmenter) as watch:
        one = segmenter.decode(target, [memory], (), prompts, tokens, boxes)
        other = segmenter.decode(target, [memory], (), prompts, tokens, boxes + 5)
    encoder = segmenter.model.sam_prompt_encoder
    sparse = watch.calls[0]["sparse_prompt_embeddings"]
    assert sparse.shape == (3, 4, segmenter.model.hidden_dim), "two corners, SAM2's padding, the token"
    assert torch.allclose(sparse[:, :2], encoder._embed_boxes(boxes), atol=1e-6)
    assert torch.allclose(
        watch.calls[0]["dense_prompt_embeddings"], encoder._embed_masks(segmenter._prompt(prompts)[1])
    )
    assert one.logits.shape == other.logits.shape == (3, 1, 32, 32)
    assert not torch.allclose(one.logits, other.logits, atol=1e-4)


@pytest.mark.parametrize("injection", INJECTIONS)
def test_no_hook_stays_behind_not_even_after_a_failure(segmenter, injection, monkeypatch):
    target, memory, prompts, tokens = case(segmenter)
    before = hooks_of(segmenter.model)
    usual = segmenter.decode(target, [memory])
    segmenter.decode(target, [memory], (), prompts, tokens, BOXES, injection)
    assert hooks_of(segmenter.model) == before

    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(segmenter.model.sam_mask_decoder, "predict_masks", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            segmenter.decode(target, [memory], (), prompts, tokens, BOXES, injection)
    assert hooks_of(segmenter.model) == before
    assert same(usual, segmenter.decode(target, [memory]), 0.0)


def test_hooks_are_undone_when_a_later_one_cannot_be_set(segmenter, monkeypatch):
    target, memory, _, tokens = case(segmenter)
    before = hooks_of(segmenter.model)

    def refuse(*args, **kwargs):
        raise RuntimeError("no more hooks")

    last = segmenter.model.sam_mask_decoder.transformer.layers[-1]
    monkeypatch.setattr(last, "register_forward_pre_hook", refuse)
    with pytest.raises(RuntimeError, match="no more hooks"):
        segmenter.decode(target, [memory], tokens=tokens, injection="target")
    assert hooks_of(segmenter.model) == before


@pytest.mark.parametrize(
    "told",
    [
        {"tokens": torch.zeros(2, 112)},
        {"tokens": torch.zeros(3, 64)},
        {"tokens": torch.zeros(3, 1, 112)},
        {"boxes": torch.zeros(3, 2, 2)},
        {"boxes": torch.zeros(2, 4)},
        {"tokens": torch.zeros(3, 112), "injection": "query"},
    ],
)
def test_what_does_not_fit_the_rows_is_refused(segmenter, told):
    target, memory, _, _ = case(segmenter)
    with pytest.raises(ValueError, match="must"):
        segmenter.decode(target, [memory], **told)


@pytest.mark.parametrize("injection", INJECTIONS)
def test_released_sam2_takes_tokens_and_boxes_and_gives_one_mask_a_row(released, injection):
    assert (released.model.hidden_dim, released.model.mem_dim) == (256, 64)
    target, memory, prompts, tokens = case(released, 2)
    tokens.requires_grad_(True)
    with Watch(released) as watch:
        found = released.decode(target, [memory], (), None, tokens, None, injection)
    assert watch.calls[0]["sparse_prompt_embeddings"].shape == (2, 3 if injection == "token" else 2, 256)
    assert found.logits.shape == (2, 1, 64, 64) and found.iou.shape == (2,)
    (found.logits**2).mean().backward()
    assert tokens.grad.abs().amax(1).min() > 0
    with torch.no_grad():
        boxed = released.decode(target, [memory], (), prompts, tokens, 2 * BOXES[:2], injection)
        plain = released.decode(target, [memory], (), prompts, tokens, None, injection)
    assert boxed.logits.shape == (2, 1, 64, 64)
    assert torch.allclose(boxed.logits[1], plain.logits[1], atol=1e-4)
    assert not torch.allclose(boxed.logits[0], plain.logits[0], atol=1e-4)
