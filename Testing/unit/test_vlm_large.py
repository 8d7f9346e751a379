"""The large reasoner: the published class, tokenizer layout and files, at a size that a test can carry."""

from __future__ import annotations

import json
import shutil
import socket
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from rau.errors import InputError, ModelError  # noqa: E402
from rau.models.presets import preset  # noqa: E402
from rau.vlm import large, large_folder  # noqa: E402
from rau.vlm.answers import parse_boxes, write_boxes  # noqa: E402
from rau.vlm.boxes import Convention  # noqa: E402
from rau.vlm.dialogue import Dialogue, encode, text_of  # noqa: E402
from rau.vlm.large import TOKENS, LargeSettings, load_large  # noqa: E402
from rau.vlm.large_adapter import ADAPTER, HEADS, RECORD, load_adapter, read_record, save_adapter  # noqa: E402
from rau.vlm.prompts import question, segment_answer  # noqa: E402

SIDE, HIDDEN, SPARE = 112, 64, 300
NAMES = ("liver", "left kidney")
SPECIAL = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
]
PLAIN = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"]
PLAIN += ["<|repo_name|>", "<|file_sep|>"]
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_words(folder):
    """tokenizer.json and its configuration as Qwen2.5-VL's: byte-level BPE first, special tokens last; gives ids."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    from rau.vlm.vocabulary import corpus

    words = Tokenizer(models.BPE())
    words.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated")
    words.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    words.train_from_iterator(corpus(), trainer)
    words.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    words.add_tokens([AddedToken(token, normalized=False) for token in PLAIN])
    words.save(str(folder / "tokenizer.json"))
    ids = {token: words.token_to_id(token) for token in SPECIAL + PLAIN}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    told = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(i): {"content": t, **flags, "special": t in SPECIAL} for t, i in ids.items()},
        "additional_special_tokens": SPECIAL[1:],
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "errors": "replace",
        "model_max_length": 131072,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return ids


def write_base(folder, tied=False, spare=SPARE):
    """A snapshot as the hub holds it: flat config.json, weights in two files by their published names, bfloat16."""
    from safetensors.torch import save_file
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    folder.mkdir()
    ids = write_words(folder)
    config = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
        "sliding_window": 32768,
        "vocab_size": max(ids.values()) + 1 + spare,
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 48,
            "in_chans": 3,
            "out_hidden_size": HIDDEN,
            "patch_size": 14,
            "spatial_patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    pictures = {
        **{"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2},
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    torch.manual_seed(3)
    made = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config)).to(torch.bfloat16)
    state = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): value.clone()
        for name, value in made.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    places = {name: f"model-{1 + name.startswith('visual.'):05d}-of-00002.safetensors" for name in state}
    for file in set(places.values()):
        save_file({name: state[name] for name in state if places[name] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """An untied base with more rows than tokens, as the 7B; never to be changed."""
    return write_base(tmp_path_factory.mktemp("hub") / "qwen")


@pytest.fixture
def spoilt(base, tmp_path):
    return shutil.copytree(base, tmp_path / "qwen")


def settings_of(folder, **more):
    return LargeSettings(str(folder), picture=SIDE, device="cpu", **more)


@pytest.fixture(scope="module")
def loaded(base):
    """Never to be trained."""
    return load_large(settings_of(base))


def dialogue(names=NAMES, asked="Segment each structure in the target.", answer=""):
    rng = np.random.default_rng(5)
    images = tuple(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(3))
    return Dialogue(names, asked, images, segment_answer(names) if answer == "" else answer)


def reading_of(loaded):
    with torch.inference_mode():
        return loaded.reasoner.read(encode(loaded.processor, [dialogue()]).inputs)


def wake(loaded, seed=1):
    """Give everything that trains other values than it began with."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in loaded.reasoner.parameters():
            if value.requires_grad:
                value.add_(0.05 * torch.randn_like(value))


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


@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_gives_back_the_same_states(base, tmp_path, tied):
    folder = write_base(tmp_path / "tied", tied=True) if tied else base
    loaded = load_large(settings_of(folder, rank=4, cells=3))
    fresh = reading_of(loaded).hidden
    wake(loaded)
    save_adapter(tmp_path / "adapter", loaded, {"steps": 2})
    save_adapter(tmp_path / "adapter", loaded, {"steps": 2})
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == sorted([ADAPTER, HEADS, RECORD])
    assert not list(tmp_path.glob(".*"))
    assert str(tmp_path) not in (tmp_path / "adapter" / RECORD).read_text()
    again = load_adapter(tmp_path / "adapter", settings_of(folder, seed=9))
    assert (again.settings.rank, again.reasoner.heads.config.cells) == (4, 3)
    want, got = reading_of(loaded), reading_of(again)
    assert torch.equal(want.hidden, got.hidden) and not torch.equal(want.hidden, fresh)
    assert torch.equal(loaded.reasoner.logits(want.hidden), again.reasoner.logits(got.hidden))
    heads = again.reasoner.heads.state_dict()
    assert all(torch.equal(value, heads[name]) for name, value in loaded.reasoner.heads.state_dict().items())


def test_an_adapter_holds_nothing_of_the_base(loaded, tmp_path):
    from safetensors.torch import load_file

    save_adapter(tmp_path / "adapter", loaded)
    tensors = load_file(tmp_path / "adapter" / ADAPTER)
    assert len(tensors) == 2 * 4 * 2 + 2
    assert max(value.numel() for value in tensors.values()) < 8 * 100
    assert all("lora_" in name or "trainable_tokens_delta" in name for name in tensors)
    assert read_record(tmp_path / "adapter").tokens == loaded.tokens


def test_an_adapter_of_another_base_or_a_changed_one_is_refused(loaded, spoilt, tmp_path):
    save_adapter(tmp_path / "adapter", loaded)
    with (spoilt / "config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(ModelError, match="made for another base"):
        load_adapter(tmp_path / "adapter", settings_of(spoilt))
    path = tmp_path / "adapter" / HEADS
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ModelError, match=r"heads\.safetensors .* damaged or was changed"):
        load_adapter(tmp_path / "adapter", settings_of(spoilt))
    (tmp_path / "adapter" / RECORD).write_text('{"format": 2}')
    with pytest.raises(ModelError, match="not valid at"):
        load_adapter(tmp_path / "adapter", settings_of(spoilt))


def test_a_table_with_too_few_rows_grows(tmp_path):
    loaded = load_large(settings_of(write_base(tmp_path / "small", spare=2)))
    assert len(loaded.reasoner.base.lm_head.original_module.weight) == max(loaded.tokens.values()) + 1
    wake(loaded)
    save_adapter(tmp_path / "adapter", loaded)
    again = load_adapter(tmp_path / "adapter", settings_of(tmp_path / "small"))
    assert torch.equal(reading_of(loaded).hidden, reading_of(again).hidden)


@pytest.fixture
def no_network(monkeypatch):
    """Any socket is an error, and is counted."""
    opened = []

    def refuse(*where, **_):
        opened.append(where)
        raise OSError("no network in this test")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    return opened


def test_nothing_is_fetched_unasked(no_network, monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="is not on this computer") as caught:
        load_large(LargeSettings("Qwen/Qwen2.5-VL-7B-Instruct", "0" * 40, device="cpu"))
    assert no_network == [] and "\n" not in str(caught.value)


def test_what_is_asked_of_the_hub(monkeypatch, spoilt):
    """A pinned commit, no pickles, no code; from its cache unless a download is allowed."""
    import huggingface_hub

    asked = []

    def stub(source, **more):
        asked.append((source, more))
        return str(spoilt)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", stub)
    for allowed in (False, True):
        assert large_folder.find_base("some/model", "a" * 40, allowed) == spoilt
    assert [more["local_files_only"] for _, more in asked] == [True, False]
    assert {(source, more["revision"]) for source, more in asked} == {("some/model", "a" * 40)}
    assert not any(pattern.endswith((".bin", ".py", ".pt", "*")) for pattern in asked[1][1]["allow_patterns"])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: 1 / 0)
    with pytest.raises(ModelError, match="could not be downloaded"):
        large_folder.find_base("some/model", "a" * 40, True)


def test_a_local_folder_opens_no_connection(no_network, base):
    load_large(settings_of(base))
    assert no_network == []


def test_a_hub_id_needs_a_pinned_commit():
    with pytest.raises(ModelError, match="needs a revision"):
        load_large(LargeSettings("Qwen/Qwen2.5-VL-7B-Instruct"))
    with pytest.raises(InputError, match="not a commit"):
        LargeSettings("Qwen/Qwen2.5-VL-7B-Instruct", "main")
    with pytest.raises(ModelError, match="no model folder 'nowhere'"):
        load_large(LargeSettings("./no/such/nowhere"))


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def pickles_alone(folder):
    for path in [*folder.glob("*.safetensors"), folder / large_folder.INDEX]:
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


SPOILS = {
    "pickles, which are never read": pickles_alone,
    "lacks model-00002-of-00002": lambda folder: (folder / "model-00002-of-00002.safetensors").unlink(),
    "lacks tokenizer.json": lambda folder: (folder / "tokenizer.json").unlink(),
    "lacks config.json": lambda folder: (folder / "config.json").unlink(),
    "lacks preprocessor_config.json": lambda folder: (folder / "preprocessor_config.json").unlink(),
    "config.json of qwen cannot be read": lambda folder: (folder / "config.json").write_text("{"),
    "is not a Qwen2.5-VL": lambda folder: edit(folder / "config.json", lambda c: c.update(model_type="qwen2_vl")),
    "quantised already": lambda folder: edit(folder / "config.json", lambda c: c.update(quantization_config={})),
    "holds an adapter": lambda folder: (folder / "adapter_config.json").write_text("{}"),
    "names files that are not allowed": lambda folder: edit(
        folder / large_folder.INDEX, lambda c: c["weight_map"].update(more="../elsewhere.safetensors")
    ),
    "do not fit its config.json": lambda folder: edit(folder / "config.json", lambda c: c.update(num_hidden_layers=3)),
    "tokenizer in qwen is of another": lambda folder: edit(
        folder / "config.json", lambda c: c.update(image_token_id=7)
    ),
    "The VLM in qwen cannot be read": lambda folder: (folder / "model-00001-of-00002.safetensors").write_bytes(b"no"),
    "processor in qwen cannot be used": lambda folder: (folder / "chat_template.json").unlink(),
}


@pytest.mark.parametrize("told", SPOILS)
def test_a_spoilt_folder_is_named_in_one_line(told, spoilt):
    SPOILS[told](spoilt)
    with pytest.raises(ModelError, match=told) as caught:
        load_large(settings_of(spoilt))
    assert "\n" not in str(caught.value) and caught.value.hint and str(spoilt.parent) not in str(caught.value)


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
