"""SAM2 used with a reference: the wrapper against the package's own steps, and batched against looped."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from rau.errors import ModelError  # noqa: E402
from rau.models.presets import preset  # noqa: E402
from rau.sam.build import build_sam2  # noqa: E402
from rau.sam.segmenter import TARGET_FRAME, Memory, Segmenter  # noqa: E402


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    mini = preset("rau-mini")
    model = build_sam2(mini.sam_config, {**mini.sam_overrides, "image_size": 128}).eval()
    return Segmenter(model.requires_grad_(False))


def rows(segmenter: Segmenter, structures: int, seed: int = 0):
    """Features of two slices, masks of `structures` in the first."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, segmenter.size, segmenter.size, generator=generator)
    masks = (torch.rand(structures, 1, segmenter.size, segmenter.size, generator=generator) > 0.7).float()
    return segmenter.encode(images), masks


def index(value: int, count: int):
    return torch.full((count,), value, dtype=torch.long)


@pytest.mark.parametrize("structures", [1, 5, 16])
def test_all_structures_in_one_batch_give_the_masks_of_one_at_a_time(segmenter, structures):
    features, masks = rows(segmenter, structures)
    memory = segmenter.remember(features.rows(index(0, structures)), masks)
    together = segmenter.decode(features.rows(index(1, structures)), [memory], [memory])
    for k in range(structures):
        one = segmenter.remember(features.rows(index(0, 1)), masks[k : k + 1])
        alone = segmenter.decode(features.rows(index(1, 1)), [one], [one])
        assert torch.allclose(together.logits[k], alone.logits[0], atol=1e-3)
        assert torch.allclose(together.presence[k], alone.presence[0], atol=1e-4)


def test_decoding_is_a_step_of_sam2_itself_where_its_gate_is_open(segmenter):
    features, masks = rows(segmenter, 3)
    model = segmenter.model
    memory = segmenter.remember(features.rows(index(0, 3)), masks)
    ours = segmenter.decode(features.rows(index(1, 3)), [memory])
    feats, positions, sizes = segmenter._flat(features.rows(index(1, 3)))
    frame = {"maskmem_features": memory.spatial, "maskmem_pos_enc": [memory.position], "obj_ptr": memory.pointer}
    frames = {"cond_frame_outputs": {0: frame}, "non_cond_frame_outputs": {}}
    theirs = model.track_step(
        TARGET_FRAME, False, feats, positions, sizes, None, None, frames, TARGET_FRAME + 1, run_mem_encoder=False
    )
    open_rows = ours.presence > 0
    expected = torch.where(open_rows[:, None, None, None], ours.logits, torch.tensor(-1024.0))
    assert torch.allclose(theirs["pred_masks"], expected)


def test_the_reference_mask_decides_the_result(segmenter):
    features, masks = rows(segmenter, 2)
    memory = segmenter.remember(features.rows(index(0, 2)), masks)
    logits = segmenter.decode(features.rows(index(1, 2)), [memory]).logits
    assert not torch.allclose(logits[0], logits[1], atol=1e-3)


def test_an_empty_mask_is_remembered_as_absence(segmenter):
    features, masks = rows(segmenter, 1)
    shown = segmenter.remember(features.rows(index(0, 1)), masks)
    empty = segmenter.remember(features.rows(index(0, 1)), torch.zeros_like(masks))
    assert torch.allclose(empty.pointer, segmenter.model.no_obj_ptr)
    assert not torch.allclose(shown.spatial, empty.spatial)


def test_neighbours_further_away_than_the_model_knows_are_read_by_their_pointers_alone(segmenter):
    features, masks = rows(segmenter, 2)
    memories = [segmenter.remember(features.rows(index(0, 2)), masks.roll(shift, 2)) for shift in range(5)]
    target, most = features.rows(index(1, 2)), segmenter.max_neighbours
    whole = segmenter.decode(target, memories[:1], memories)
    pointers = segmenter.decode(
        target, memories[:1], [m if i < most else m.only_pointer() for i, m in enumerate(memories)]
    )
    assert torch.equal(whole.logits, pointers.logits)
    assert not torch.equal(whole.logits, segmenter.decode(target, memories[:1], memories[:most]).logits)


def test_one_slice_expanded_to_its_rows_gives_what_copies_of_it_give(segmenter):
    features, masks = rows(segmenter, 5)
    memory = segmenter.remember(features.rows(index(0, 5)), masks)
    copied = segmenter.decode(features.rows(index(1, 5)), [memory], [memory], remember=True)
    shared = segmenter.decode(features.rows(index(1, 1)).expand(5), [memory], [memory], remember=True)
    assert torch.allclose(copied.logits, shared.logits, atol=1e-4)
    assert torch.allclose(copied.memory.spatial, shared.memory.spatial, atol=1e-3)


def test_the_memory_of_an_answer_is_the_one_that_sam2_makes_of_it(segmenter):
    features, masks = rows(segmenter, 2)
    memory = segmenter.remember(features.rows(index(0, 2)), masks)
    target = features.rows(index(1, 2))
    ours = segmenter.decode(target, [memory], remember=True).memory
    feats, positions, sizes = segmenter._flat(target)
    frame = {"maskmem_features": memory.spatial, "maskmem_pos_enc": [memory.position], "obj_ptr": memory.pointer}
    frames = {"cond_frame_outputs": {0: frame}, "non_cond_frame_outputs": {}}
    theirs = segmenter.model.track_step(
        TARGET_FRAME, False, feats, positions, sizes, None, None, frames, TARGET_FRAME + 1
    )
    assert torch.allclose(ours.spatial, theirs["maskmem_features"])
    assert torch.allclose(ours.pointer, theirs["obj_ptr"])
    assert segmenter.decode(target, [memory]).memory is None


def test_a_model_that_gives_several_masks_gives_the_one_it_thinks_best(segmenter):
    features, masks = rows(segmenter, 3)
    memory = segmenter.remember(features.rows(index(0, 3)), masks)
    segmenter.model.multimask_output_for_tracking, before = True, segmenter.model.multimask_output_for_tracking
    try:
        found, heads = None, []
        hook = segmenter.model.sam_mask_decoder.register_forward_hook(lambda m, a, out: heads.append(out))
        found = segmenter.decode(features.rows(index(1, 3)), [memory])
        hook.remove()
    finally:
        segmenter.model.multimask_output_for_tracking = before
    logits, iou = heads[0][0], heads[0][1]
    assert logits.shape[1] == 3 and found.logits.shape[1] == 1
    for k in range(3):
        assert torch.equal(found.logits[k, 0], logits[k, iou[k].argmax()])
        assert float(found.iou[k]) == float(iou[k].max())


def candidates(count: int, side: int, seed: int = 0):
    """(count, 1, side, side) probabilities, coarse squares of them."""
    coarse = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return coarse.repeat_interleave(side // 8, 2).repeat_interleave(side // 8, 3)


def test_a_mask_prompt_changes_the_masks_and_another_prompt_changes_them_otherwise(segmenter):
    features, masks = rows(segmenter, 2)
    memory = segmenter.remember(features.rows(index(0, 2)), masks)
    target = features.rows(index(1, 2))
    without = segmenter.decode(target, [memory]).logits
    one, other = (segmenter.decode(target, [memory], (), candidates(2, 128, seed)).logits for seed in (0, 1))
    assert one.shape == other.shape == without.shape
    for a, b in ((without, one), (without, other), (one, other)):
        assert not torch.allclose(a, b, atol=1e-4)
    assert torch.equal(without, segmenter.decode(target, [memory]).logits), "a prompt leaves nothing behind"


@pytest.mark.parametrize("side", [8, 32, 64, 256])
def test_the_size_of_a_mask_prompt_does_not_matter(segmenter, side):
    features, masks = rows(segmenter, 2)
    memory = segmenter.remember(features.rows(index(0, 2)), masks)
    target = features.rows(index(1, 2))
    usual = segmenter.decode(target, [memory], (), candidates(2, 128))
    found = segmenter.decode(target, [memory], (), candidates(2, side))
    assert torch.allclose(found.logits, usual.logits, atol=1e-4)
    assert torch.allclose(found.presence, usual.presence, atol=1e-4)


def test_prompted_structures_in_one_batch_give_the_masks_of_one_at_a_time(segmenter):
    features, masks = rows(segmenter, 3)
    memory, prompts = segmenter.remember(features.rows(index(0, 3)), masks), candidates(3, 128)
    together = segmenter.decode(features.rows(index(1, 3)), [memory], [memory], prompts)
    for k in range(3):
        one = memory.rows(torch.tensor([k]))
        alone = segmenter.decode(features.rows(index(1, 1)), [one], [one], prompts[k : k + 1])
        assert torch.allclose(together.logits[k], alone.logits[0], atol=1e-3)


def test_a_mask_prompt_is_what_sam2_takes_for_the_logits_of_an_earlier_answer(segmenter):
    points, logits = segmenter._prompt(torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 1, 128, 128))
    assert logits.shape == (3, 1, 32, 32) and logits[:, 0, 0, 0].tolist() == [-4.0, 0.0, 4.0]
    assert points["point_labels"].tolist() == [[-1]] * 3, "no point is set"


def test_the_same_weights_work_at_another_size(segmenter):
    for size in (192, 64, 128):
        segmenter.set_size(size)
        features, masks = rows(segmenter, 2)
        memory = segmenter.remember(features.rows(index(0, 2)), masks)
        result = segmenter.decode(features.rows(index(1, 2)), [memory])
        assert result.logits.shape == (2, 1, size // 4, size // 4)
        prompted = segmenter.decode(features.rows(index(1, 2)), [memory], (), candidates(2, 128))
        assert prompted.logits.shape == result.logits.shape
    with pytest.raises(ValueError, match="multiple of 64"):
        segmenter.set_size(100)


def test_memories_stack_and_split_by_row(segmenter):
    features, masks = rows(segmenter, 3)
    memory = segmenter.remember(features.rows(index(0, 3)), masks)
    again = Memory.stack([memory.rows(torch.tensor([k])) for k in range(3)])
    assert torch.equal(again.spatial, memory.spatial) and torch.equal(again.pointer, memory.pointer)


@pytest.mark.parametrize("name", ["../../etc/passwd", "sam2.1_hiera_x", "sam2.1_hiera_t.yaml", ""])
def test_only_configurations_of_the_package_are_opened(name):
    with pytest.raises(ModelError, match="Unknown SAM2 configuration"):
        build_sam2(name)


@pytest.mark.parametrize("key", ["_target_", "image_encoder._target_", "image_encoder.trunk._target_"])
def test_a_model_folder_cannot_name_classes_to_build(key):
    with pytest.raises(ModelError, match="may not change"):
        build_sam2("sam2.1_hiera_t", {key: "os.system"})


@pytest.mark.parametrize("config", ["sam2.1_hiera_t", "sam2.1_hiera_l"])
def test_full_size_configurations_have_the_shapes_of_papers_a2(config):
    model = build_sam2(config)
    assert model.hidden_dim == 256 and model.mem_dim == 64 and model.image_size == 1024
    assert model.maskmem_tpos_enc.shape == (7, 1, 1, 64)
