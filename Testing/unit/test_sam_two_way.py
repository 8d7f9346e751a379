"""Language to vision (RCMed, papers.md B2, B3): the formula, zero at first, gradients, rows, what the decoder sees."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from rau.models.presets import preset  # noqa: E402
from rau.sam.build import build_sam2  # noqa: E402
from rau.sam.fusion import Fusion, FusionConfig  # noqa: E402
from rau.sam.hints import Hinted, Hints, Rows, decode  # noqa: E402
from rau.sam.injection import INJECTIONS  # noqa: E402
from rau.sam.segmenter import Segmenter  # noqa: E402
from rau.sam.two_way import LanguageToVision, grown  # noqa: E402

NAN = float("nan")
BOXES = torch.tensor([[8.0, 16.0, 60.0, 72.0], [NAN, NAN, NAN, NAN], [40.0, 30.0, 100.0, 120.0]])
H, C, G = 24, 112, 5  # G tokens a side against 8 positions a side of SAM2: not a whole multiple


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    mini = preset("rau-mini")
    model = build_sam2(mini.sam_config, {**mini.sam_overrides, "image_size": 128}).eval()
    return Segmenter(model.requires_grad_(False))


def case(segmenter: Segmenter, structures: int = 3):
    """Target rows, memory of the reference, and what the rows are told: prompts, tokens, states of the target."""
    generator = torch.Generator().manual_seed(0)
    size = segmenter.size
    images = torch.randn(2, 3, size, size, generator=generator)
    masks = (torch.rand(structures, 1, size, size, generator=generator) > 0.7).float()
    with torch.no_grad():
        both = segmenter.encode(images)
        zeros = torch.zeros(structures, dtype=torch.long)
        memory = segmenter.remember(both.rows(zeros), masks)
    prompts = torch.rand(structures, 1, 16, 16, generator=generator)
    tokens = torch.randn(structures, C, generator=generator)
    states = torch.randn(structures, G * G, H, generator=generator)
    return both.rows(zeros + 1), memory, prompts, tokens, states


def learnt(seed: int = 0) -> LanguageToVision:
    """One whose last layer has left zero."""
    torch.manual_seed(seed)
    made = LanguageToVision(H, C)
    torch.nn.init.normal_(made.layers[-1].weight, 0, 0.3)
    return made


def same(a, b, atol: float = 1e-5) -> bool:
    return all(torch.allclose(getattr(a, x), getattr(b, x), atol=atol, rtol=0) for x in ("logits", "presence", "iou"))


class Watch:
    """The image embedding that SAM2's decoder was given, after every hook."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.seen: list[torch.Tensor] = []
        self.decoder = segmenter.model.sam_mask_decoder

    def __enter__(self) -> Watch:
        forward = self.decoder.predict_masks

        def seen(**kwargs):
            self.seen.append(kwargs["image_embeddings"])
            return forward(**kwargs)

        self.decoder.predict_masks = seen
        return self

    def __exit__(self, *failure) -> None:
        del self.decoder.predict_masks


def test_the_projection_is_m2_relu_m1_at_each_token_rows_first():
    made = learnt()
    states = torch.randn(2, G * G, H)
    found = made(states)
    assert found.shape == (2, C, G, G)
    first, last = made.layers[0], made.layers[-1]
    for y, x in ((0, 0), (1, 3), (4, 2)):
        h = states[1, y * G + x]
        wanted = last.weight @ torch.relu(first.weight @ h + first.bias) + last.bias
        assert torch.allclose(found[1, :, y, x], wanted, atol=1e-5)
    assert made(states.half()).dtype == torch.float32


@pytest.mark.parametrize("shape", [(2, G * G, H + 1), (2, G * G - 1, H), (G * G, H), (2, 0, H)])
def test_states_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="states must have the shape"):
        LanguageToVision(H, C)(torch.zeros(shape))


def test_growing_keeps_what_is_even_and_does_not_shift():
    fields = torch.randn(2, 3, G, G)
    assert torch.allclose(grown(torch.full((1, 2, G, G), 0.7), 8), torch.full((1, 2, 8, 8), 0.7))
    assert torch.equal(grown(fields, G), fields)
    assert torch.allclose(grown(fields.flip(2, 3), 8), grown(fields, 8).flip(2, 3), atol=1e-6)
    step = torch.zeros(1, 1, 4, 4)
    step[..., 2:] = 1  # the edge lies in the middle of the square, before and after
    assert torch.allclose(grown(step, 8).mean(), torch.tensor(0.5)) and (grown(step, 8)[..., :3] == 0).all()


@pytest.mark.parametrize("injection", INJECTIONS)
def test_switched_on_untrained_it_changes_no_bit(segmenter, injection):
    target, memory, prompts, tokens, states = case(segmenter)
    fields = LanguageToVision(H, C)(states)
    for given in ({}, {"boxes": BOXES}, {"prompts": prompts}):
        told = {"tokens": tokens, "injection": injection, "remember": True, **given}
        with torch.no_grad():
            off, on = (segmenter.decode(target, [memory], fields=one, **told) for one in (None, fields))
        assert same(off, on, 0.0) and torch.equal(off.memory.spatial, on.memory.spatial)


def test_without_a_field_a_step_is_as_before_however_many_had_one(segmenter):
    target, memory, _, tokens, states = case(segmenter)
    with torch.no_grad():
        plain, told = segmenter.decode(target, [memory]), segmenter.decode(target, [memory], tokens=tokens)
        moved = segmenter.decode(target, [memory], tokens=tokens, fields=learnt()(states))
        assert not same(told, moved, 1e-3)
        assert same(plain, segmenter.decode(target, [memory]), 0.0)
        assert same(told, segmenter.decode(target, [memory], tokens=tokens), 0.0)


def test_the_decoder_sees_the_image_embedding_and_the_grown_field(segmenter):
    target, memory, _, tokens, states = case(segmenter)
    fields = learnt()(states).detach()
    with torch.no_grad(), Watch(segmenter) as watch:
        segmenter.decode(target, [memory], tokens=tokens)
        segmenter.decode(target, [memory], tokens=tokens, fields=fields)
    off, on = watch.seen
    assert off.shape == on.shape == (3, C, 8, 8)
    assert torch.allclose(on, off + grown(fields, 8), atol=1e-6)


@pytest.mark.parametrize("given", ["alone", "tokens", "boxes", "all"])
def test_rows_together_are_rows_one_by_one(segmenter, given):
    """Boxes of some rows alone: SAM2 decodes those apart, and each keeps its own field."""
    target, memory, prompts, tokens, states = case(segmenter)
    rows = {"fields": learnt()(states).detach()}
    rows |= {"tokens": tokens} if given in ("tokens", "all") else {}
    rows |= {"boxes": BOXES} if given in ("boxes", "all") else {}
    rows |= {"prompts": prompts} if given == "all" else {}
    with torch.no_grad():
        together = segmenter.decode(target, [memory], **rows)
        for k in range(3):
            index = torch.tensor([k])
            some = {name: value[index] for name, value in rows.items()}
            alone = segmenter.decode(target.rows(index), [memory.rows(index)], **some)
            assert torch.allclose(together.logits[index], alone.logits, atol=1e-5)
        segmenter.rows_at_once = 2
        try:
            assert same(together, segmenter.decode(target, [memory], **rows))
        finally:
            segmenter.rows_at_once = 0


@pytest.mark.parametrize("rows", [1, 3])
def test_gradients_reach_every_weight_of_the_projection(segmenter, rows):
    """At zero the last layer learns at once, and after its first step so does the first one; the states do too."""
    target, memory, _, tokens, states = case(segmenter, rows)
    states.requires_grad_(True)
    made = LanguageToVision(H, C)
    descent = torch.optim.SGD(made.parameters(), 1.0)
    for last_alone in (True, False):
        descent.zero_grad()
        found = segmenter.decode(target, [memory], tokens=tokens, fields=made(states))
        (found.logits**2).mean().backward()
        first, last = made.layers[0].weight.grad.abs().sum(), made.layers[-1].weight.grad.abs().sum()
        assert last > 0 and bool(first == 0) is last_alone
        descent.step()
    assert states.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(2, C, G, G), (3, C + 1, G, G), (3, C, G)])
def test_fields_that_do_not_fit_the_rows_are_refused(segmenter, shape):
    target, memory, *_ = case(segmenter)
    with pytest.raises(ValueError, match="fields must have the shape"):
        segmenter.decode(target, [memory], fields=torch.zeros(shape))


def test_a_fusion_with_the_way_back_is_the_same_fusion_and_one_way_keeps_its_weights():
    def made(two_way):
        torch.manual_seed(3)
        return Fusion(FusionConfig(H, C, C, two_way=two_way))

    off, on = made("off"), made("conditioned")
    old = {"hidden": H, "channels": C, "memory_channels": C, "width": C, "spatial_side": 0, "injection": "token"}
    assert FusionConfig(**old).two_way == "off", "what was written before there was a way back"
    assert set(on.state_dict()) - set(off.state_dict()) == {
        f"back.layers.{i}.{w}" for i in (0, 2) for w in ("weight", "bias")
    }
    assert all(torch.equal(value, on.state_dict()[name]) for name, value in off.state_dict().items())
    states = torch.randn(2, G * G, H)
    assert off.fields(states) is None and off.fields(None) is None
    assert on.fields(states).shape == (2, C, G, G) and not on.fields(states).any()
    with pytest.raises(ValueError, match="needs the states"):
        on.fields(None)
    with pytest.raises(ValueError, match="two-way must be one of"):
        FusionConfig(H, two_way="both")


def test_hints_bring_each_structure_its_own_field_and_none_where_there_is_none(segmenter):
    target, memory, _, tokens, states = case(segmenter)
    fields = learnt()(states).detach()
    values, z = (7, 3, 5), {7: tokens[0].numpy(), 5: tokens[2].numpy()}
    rows = Rows(target, [memory], [], None)

    def told(of):
        with torch.no_grad():
            return decode(segmenter, rows, values, Hints({}, z, of), Hinted(segmenter)).logits

    off, some = told({}), told({5: fields[2].numpy()})
    both = told({5: fields[2].numpy(), 7: fields[0].numpy(), 3: fields[1].numpy()})
    assert torch.allclose(off[:2], some[:2], atol=1e-5) and not torch.allclose(off[2], some[2], atol=1e-3)
    assert torch.allclose(both[2], some[2], atol=1e-5) and not torch.allclose(both[0], off[0], atol=1e-3)
    assert torch.allclose(both[1], off[1], atol=1e-5), "a structure without a token is decoded without a field"
    with torch.no_grad():
        plain = decode(segmenter, rows, values, Hints({}, z), Hinted(segmenter)).logits
    assert torch.equal(plain, off)
