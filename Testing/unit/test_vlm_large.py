"""The large reasoner: tokens, base, answers, states and what trains, at a size that a test can carry."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from large_side import HIDDEN, NAMES, PLAIN, SIDE, SPECIAL, dialogue, reading_of, settings_of, write_base  # noqa: E402

from rau.errors import InputError, ModelError  # noqa: E402
from rau.models.presets import preset  # noqa: E402
from rau.vlm import large  # noqa: E402
from rau.vlm.answers import parse_boxes, write_boxes  # noqa: E402
from rau.vlm.boxes import Convention  # noqa: E402
from rau.vlm.dialogue import encode, text_of  # noqa: E402
from rau.vlm.large import TOKENS, LargeSettings, load_large  # noqa: E402
from rau.vlm.prompts import question  # noqa: E402


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """An untied base with more rows than tokens, as the 7B; never to be changed."""
    return write_base(tmp_path_factory.mktemp("hub") / "qwen")


@pytest.fixture(scope="module")
def loaded(base):
    """Never to be trained."""
    return load_large(settings_of(base))


def test_tokens_come_after_qwens_own_and_need_no_new_rows(base, loaded):
    tokenizer, config = loaded.processor.tokenizer, json.loads((base / "config.json").read_text())
    first = max(tokenizer.convert_tokens_to_ids(token) for token in SPECIAL + PLAIN) + 1
    assert list(loaded.tokens.values()) == list(range(first, first + len(TOKENS)))
    assert tokenizer.image_token_id == config["image_token_id"] == loaded.reasoner.base.config.image_token_id
    assert len(loaded.reasoner.base.get_input_embeddings().original_module.weight) == config["vocab_size"]
    for token in TOKENS:
        assert tokenizer(f"a{token}, b", add_special_tokens=False)["input_ids"].count(loaded.tokens[token]) == 1
    assert tokenizer("12 345")["input_ids"] == [i for c in "12 345" for i in tokenizer(c)["input_ids"]]


def test_new_rows_are_the_mean_of_the_old_ones(loaded):
    rows, first = list(loaded.tokens.values()), min(loaded.tokens.values())
    for name in ("embed_tokens", "lm_head"):
        table = next(m for n, m in loaded.reasoner.base.named_modules() if n.endswith(name)).original_module.weight
        mean = table[:first].float().mean(0)
        assert torch.allclose(table[rows].float(), mean.expand(len(rows), -1), atol=2e-4)


def test_the_base_is_read_as_published(base, loaded):
    from safetensors.torch import load_file

    parts = [load_file(path) for path in sorted(base.glob("*.safetensors"))]
    held = dict(loaded.reasoner.base.named_parameters())
    query, eye = "layers.1.self_attn.q_proj", "blocks.0.attn.qkv.weight"
    assert torch.equal(held[f"model.language_model.{query}.base_layer.weight"], parts[0][f"model.{query}.weight"])
    assert torch.equal(held[f"model.visual.{eye}"], parts[1][f"visual.{eye}"])
    assert held[f"model.visual.{eye}"].dtype == torch.bfloat16


def test_the_template_is_the_models_own_and_pictures_have_one_size(loaded):
    said = text_of(loaded.processor, dialogue())
    assert said.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n")
    assert said.endswith(
        "<|im_start|>assistant\n<think></think><answer>liver<Seg>, left kidney<Seg></answer><|im_end|>"
    )
    encoded = encode(loaded.processor, [dialogue()])
    assert encoded.inputs["image_grid_thw"].tolist() == [[1, SIDE // 14, SIDE // 14]] * 3
    assert (loaded.picture, loaded.grid, loaded.cells) == (SIDE, SIDE // 28, 4 * SIDE // 28)


def test_it_answers(loaded):
    encoded = encode(loaded.processor, [dialogue(answer=None), dialogue(NAMES[:1], answer=None)], left=True)
    with torch.inference_mode():
        out = loaded.reasoner.base.generate(**encoded.inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    ends = out[:, encoded.inputs["input_ids"].shape[1] :]
    assert ends.shape == (2, 6)
    assert all(isinstance(text, str) and text for text in loaded.processor.batch_decode(ends))


def test_states_and_cues_of_a_forced_answer(loaded):
    encoded = encode(loaded.processor, [dialogue(), dialogue(NAMES[:1])])
    anchors = torch.tensor([[0.1, 0.2, 0.5, 0.6]]).expand(3, 4)
    with torch.inference_mode():
        reading = loaded.reasoner.read(encoded.inputs)
        shares = torch.zeros(3, loaded.cells, loaded.cells)
        cues = loaded.reasoner.cues(reading, encoded.spots, encoded.of, anchors, shares)
    ids = encoded.inputs["input_ids"]
    assert (ids[encoded.of, encoded.spots] == loaded.tokens["<Seg>"]).all()
    assert reading.target.shape == reading.reference.shape == (2, 16, 2 * HIDDEN)
    assert cues.states.shape == (3, HIDDEN) and cues.masks.shape == (3, 16, 16)
    assert torch.allclose(cues.boxes, anchors, atol=1e-6)
    assert all(one.dtype == torch.float32 and one.isfinite().all() for one in (cues.states, cues.presence, cues.masks))


def test_boxes_are_pixels_of_the_picture(loaded):
    boxes = {"liver": (0.25, 0.5, 0.75, 1.0), "left kidney": None}
    assert loaded.convention == Convention("pixels", SIDE)
    assert '"bbox_2d": [28, 56, 84, 112]' in write_boxes(boxes, loaded.convention)
    assert parse_boxes(write_boxes(boxes, loaded.convention), NAMES, loaded.convention) == boxes
    assert "[28, 56, 84, 112]" in question("boxes", {"liver": boxes["liver"]}, loaded.convention)


def test_the_logits_are_those_of_the_language_model(loaded):
    reading = reading_of(loaded)
    inputs = encode(loaded.processor, [dialogue()]).inputs
    with torch.inference_mode():
        whole = loaded.reasoner.base(**inputs, use_cache=False).logits.float()
        assert torch.equal(loaded.reasoner.logits(reading.hidden), whole)


def objective_batch(loaded):
    """As `rau.training.items.collate` makes it."""
    from rau.vlm.prompts import MOST

    encoded = encode(loaded.processor, [dialogue()])
    labels = torch.full_like(encoded.inputs["input_ids"], -100)
    start, end = encoded.answers[0]
    labels[0, start:end] = encoded.inputs["input_ids"][0, start:end]
    cells = loaded.cells
    return {
        "inputs": encoded.inputs,
        "labels": labels,
        "spots": encoded.spots,
        "of": encoded.of,
        "anchors": torch.tensor([[0.1, 0.1, 0.4, 0.4]] * 2),
        "boxes": torch.tensor([[0.2, 0.2, 0.6, 0.5]] * 2),
        "present": torch.tensor([True, True]),
        "shares": torch.rand(2, cells, cells).round(),
        "masks": torch.rand(2, cells, cells).round(),
        "colours": torch.randint(0, MOST + 1, (1, cells, cells)),
    }


@pytest.mark.parametrize("tied", [False, True])
def test_two_steps_change_lora_our_rows_and_heads_alone(base, tmp_path, tied):
    from rau.training.vlm_objective import SftModel

    loaded = load_large(settings_of(write_base(tmp_path / "tied", tied=True) if tied else base))
    model = SftModel(loaded.reasoner).train()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trains = [value for value in model.parameters() if value.requires_grad]
    optimiser = torch.optim.AdamW(trains, 1e-2, weight_decay=0.1)
    losses = []
    for _ in range(2):
        optimiser.zero_grad()
        loss = model(**objective_batch(loaded))["loss"]
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.isfinite(losses).all()
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    kinds = {"lora_A", "lora_B", "trainable_tokens_delta", "heads"}
    assert {kind for kind in kinds for name in changed if kind in name} == kinds
    assert all(any(kind in name for kind in kinds) for name in changed)
    assert not any("visual" in name for name in changed)
    assert sum("trainable_tokens_delta" in name for name in changed) == (1 if tied else 2)
    assert sum("lora_B" in name for name in changed) == 2 * 4
    vlm, rows = loaded.reasoner.base, torch.tensor(list(loaded.tokens.values()))
    for wrapped in (vlm.get_input_embeddings(), vlm.lm_head):
        moved = (wrapped.weight != wrapped.original_module.weight).any(1).nonzero()[:, 0]
        assert set(moved.tolist()) == set(rows.tolist())
    if tied:
        assert torch.equal(vlm.get_input_embeddings().weight, vlm.lm_head.weight)


def test_four_bits_are_for_cuda_alone(base, monkeypatch):
    assert not large.wants_four_bit("auto", "cpu") and not large.wants_four_bit("off", "cuda")
    with pytest.raises(ModelError, match="need a CUDA device") as caught:
        load_large(settings_of(base, four_bit="on"))
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(large, "find_spec", lambda name: None if name == "bitsandbytes" else object())
    with pytest.raises(ModelError, match="need bitsandbytes. pip install bitsandbytes"):
        large.wants_four_bit("auto", "cuda")
    monkeypatch.setattr(large, "find_spec", lambda name: object())
    assert large.wants_four_bit("auto", "cuda")


def test_the_four_bits_are_nf4(loaded):
    from transformers.quantizers.quantizers_utils import should_convert_module

    config = large.nf4()
    assert config.load_in_4bit and config.bnb_4bit_quant_type == "nf4" and config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
    quantised = [
        name.removeprefix("base_model.model.").removesuffix(".base_layer")
        for name, module in loaded.reasoner.vlm.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora_" not in name
    ]
    kept = [name for name in quantised if not should_convert_module(name, config.llm_int8_skip_modules)]
    assert kept and all("visual" in name or "lm_head" in name for name in kept)
    assert len(quantised) - len(kept) == 2 * 7


def test_lora_leaves_the_vision_tower_alone(loaded):
    adapted = {name.split(".lora_A")[0] for name, _ in loaded.reasoner.vlm.named_modules() if ".lora_A" in name}
    assert len(adapted) == 2 * 4 and all("language_model" in name for name in adapted)
    fresh = reading_of(loaded).hidden
    with loaded.reasoner.vlm.disable_adapter():
        assert torch.equal(reading_of(loaded).hidden, fresh)


def test_settings_that_do_not_fit():
    for more in ({"picture": 500}, {"picture": 28}, {"rank": 0}, {"dropout": 1.0}, {"four_bit": "yes"}):
        with pytest.raises(InputError):
            replace(LargeSettings("somewhere"), **more)


def test_the_preset_names_the_published_model():
    chosen = LargeSettings(**preset("rau-7b").vlm)
    assert chosen == LargeSettings("Qwen/Qwen2.5-VL-7B-Instruct") and not chosen.revision
    assert (chosen.rank, chosen.alpha, chosen.dropout, chosen.picture) == (8, 16, 0.01, 560)
    assert preset("rau-mini").vlm == {}
