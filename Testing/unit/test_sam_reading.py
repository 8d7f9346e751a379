"""Reading memory cheaper: the same answer as SAM2's own memory attention, and what each economy changes."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from rau.sam.build import build_sam2  # noqa: E402
from rau.sam.reading import Economy, MemoryReader, fast, quick_halves  # noqa: E402

SIDE, POINTERS = 8, 4


@pytest.mark.parametrize("bf16, amx", [(False, False), (True, False), (False, True)])
def test_fast_takes_half_precision_only_where_there_are_units_for_it(monkeypatch, bf16, amx):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert quick_halves("cpu") == fast(192).half == (bf16 or amx)
    assert quick_halves("cuda") and fast(512, "cuda") == Economy(pool=2, half=True)
    assert fast(512).pool == 2 and fast(192).pool == 1


@pytest.fixture(scope="module", params=["sam2.1_hiera_t", "rau-mini"])
def reader(request) -> MemoryReader:
    from rau.models.presets import preset

    torch.manual_seed(0)
    mini = preset("rau-mini")
    config, overrides = (mini.sam_config, mini.sam_overrides) if request.param == "rau-mini" else (request.param, {})
    return build_sam2(config, {**overrides, "image_size": 16 * SIDE}).memory_attention.eval()


def inputs(reader: MemoryReader, rows: int, slices: int = 3, seed: int = 0):
    """curr, memory, curr_pos, memory_pos: one slice for all rows, memories of their own."""
    generator = torch.Generator().manual_seed(seed)
    channels = reader.layers[0].cross_attn_image.kv_in_dim
    positions, length = SIDE * SIDE, slices * SIDE * SIDE + POINTERS

    def noise(*shape: int):
        return torch.randn(*shape, generator=generator)

    curr, place = (noise(positions, 1, reader.d_model).expand(-1, rows, -1) for _ in range(2))
    return curr, noise(length, rows, channels), place, noise(length, rows, channels)


def of_sam2(reader: MemoryReader, given):
    return super(MemoryReader, reader).forward(*(one.clone() for one in given), POINTERS)


@pytest.mark.parametrize("rows", [1, 5, 16])
def test_memory_is_read_as_sam2_reads_it(reader, rows):
    given = inputs(reader, rows)
    assert isinstance(reader, MemoryReader)
    assert torch.allclose(reader(*given, POINTERS), of_sam2(reader, given), atol=1e-4)


def test_a_list_of_one_and_rows_of_different_slices_are_read_alike(reader):
    curr, memory, place, memory_pos = inputs(reader, 3)
    own = curr + torch.randn(curr.shape, generator=torch.Generator().manual_seed(1))
    listed = reader([own], memory, [place], memory_pos, POINTERS)
    assert torch.allclose(listed, of_sam2(reader, (own, memory, place, memory_pos)), atol=1e-4)


def test_gradients_are_those_of_sam2(reader):
    given = [one.clone().requires_grad_(True) for one in inputs(reader, 2)]
    twin = [one.detach().clone().requires_grad_(True) for one in given]
    for how, ones in ((reader, given), (super(MemoryReader, reader).forward, twin)):
        found = how(*ones, POINTERS)
        (found * torch.randn(found.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    for ours, theirs in zip(given, twin, strict=True):
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4 * float(theirs.grad.abs().max()))


def test_few_queries_and_keys_at_a_time_change_neither_answer_nor_gradient(reader, monkeypatch):
    for name, value in (("QUERIES", 24), ("KEYS", 50)):
        monkeypatch.setattr(f"rau.sam.reading.{name}", value)
    given = inputs(reader, 2)
    given = (*given[:3], 40 * given[3])  # places that set scores far apart
    assert torch.allclose(reader(*given, POINTERS), of_sam2(reader, given), atol=1e-4)
    test_gradients_are_those_of_sam2(reader)


@pytest.mark.parametrize("economy", [Economy(rows=2), Economy(pool=2, rows=1), Economy(half=True, rows=3)])
def test_the_size_of_the_groups_changes_nothing(reader, economy):
    given = inputs(reader, 5)
    try:
        reader.economy = economy
        grouped = reader(*given, POINTERS)
        reader.economy = Economy(economy.pool, economy.half, rows=5)
        together = reader(*given, POINTERS)
    finally:
        reader.economy = Economy()
    assert torch.allclose(grouped, together, atol=2e-2 if economy.half else 1e-4)


def test_a_pooled_token_counts_for_all_that_it_stands_for(reader):
    """Of memory that is the same everywhere, and keys that say nothing, a pool must change nothing."""
    twin = copy.deepcopy(reader)
    for attention in (one for layer in twin.layers for one in (layer.cross_attn_image, layer.self_attn)):
        torch.nn.init.zeros_(attention.k_proj.weight)  # every position has the same score
        torch.nn.init.zeros_(attention.k_proj.bias)
    curr, memory, place, memory_pos = inputs(twin, 2)
    memory[:-POINTERS] = memory[:1]
    whole = twin(curr, memory, place, memory_pos, POINTERS)
    twin.economy = Economy(pool=2)
    assert torch.allclose(whole, twin(curr, memory, place, memory_pos, POINTERS), atol=1e-4)


def test_among_themselves_pooled_positions_are_turned_to_the_middle_of_their_pool(reader):
    """Of a slice that is the same in each pool but for the rotation, pooling is nearly the same as not pooling."""
    from rau.sam.reading import Turns, _among_themselves, rotation

    layer, generator = reader.layers[1], torch.Generator().manual_seed(4)
    coarse = torch.randn(1, reader.d_model, SIDE // 2, SIDE // 2, generator=generator)
    x = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3).flatten(2).transpose(1, 2)
    own, pooled = (rotation(SIDE, one, layer.self_attn) for one in (1, 2))
    whole, less = (_among_themselves(layer, x, torch.zeros_like(x), Turns(own, one, 0)) - x for one in (own, pooled))
    swapped = _among_themselves(layer, x, torch.zeros_like(x), Turns(own, pooled.flip(0), 0)) - x
    assert (less - whole).norm() < 0.2 * whole.norm()
    assert (less - whole).norm() < (swapped - whole).norm()


def test_pooling_is_left_out_where_the_side_does_not_divide(reader):
    given = inputs(reader, 2)
    try:
        reader.economy = Economy(pool=3)
        assert torch.allclose(reader(*given, POINTERS), of_sam2(reader, given), atol=1e-4)
    finally:
        reader.economy = Economy()


def test_in_training_it_is_sam2s_own(reader):
    given = inputs(reader, 1)
    try:
        reader.train()
        reader.economy = Economy(pool=2)
        torch.manual_seed(3)
        ours = reader(*given, POINTERS)
        torch.manual_seed(3)
        assert torch.equal(ours, of_sam2(reader, given))
    finally:
        reader.economy = Economy()
        reader.eval()
