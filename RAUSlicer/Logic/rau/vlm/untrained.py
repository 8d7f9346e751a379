"""A Qwen2.5-VL as the hub holds it, with random weights: the published class, tokenizer layout and files, at any size.

The real weights are 16 GB that not every machine has. What loads, answers and trains on such a folder is the code that
does it on the real one: tests use the smallest, `Benchmarks/large_model.py` the size of the 7B.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
PICTURES = {
    **{"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
}


@dataclass(frozen=True)
class Size:
    """hidden, inner: width of the language model and of its perceptrons; layers; heads, groups: of queries, of keys.

    sections: of the rotary positions. vision: depth, width, inner width and heads of the vision tower; window: pixels a
    side of its local attention; whole: its blocks that attend to the whole picture. rows: of the token tables, at
    least (0: as many as there are tokens, and `spare` more).
    """

    hidden: int
    inner: int
    layers: int
    heads: int
    groups: int
    sections: tuple[int, int, int]
    vision: tuple[int, int, int, int]
    window: int
    whole: tuple[int, ...]
    rows: int = 0
    spare: int = 300


SMALL = Size(64, 96, 2, 4, 2, (2, 3, 3), (2, 32, 48, 2), 56, (1,))
SEVEN = Size(3584, 18944, 28, 28, 4, (16, 24, 24), (32, 1280, 3420, 16), 112, (7, 15, 23, 31), 152064)


def write_words(folder: Path) -> dict[str, int]:
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
    ids = {token: int(words.token_to_id(token) or 0) for token in SPECIAL + PLAIN}
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


def config_of(size: Size, ids: dict[str, int], tied: bool = False) -> dict[str, Any]:
    """config.json, flat as published. ids: of `write_words`. tied: one table of tokens, as in the 3B."""
    depth, width, inner, heads = size.vision
    return {
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
        "hidden_size": size.hidden,
        "intermediate_size": size.inner,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.groups,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": list(size.sections)},
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
        "sliding_window": 32768,
        "vocab_size": max(size.rows, max(ids.values()) + 1 + size.spare),
        "vision_config": {
            "depth": depth,
            "hidden_size": width,
            "num_heads": heads,
            "intermediate_size": inner,
            "in_chans": 3,
            "out_hidden_size": size.hidden,
            "patch_size": 14,
            "spatial_patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": size.window,
            "fullatt_block_indexes": list(size.whole),
        },
    }


def write_base(folder: Path, size: Size = SMALL, tied: bool = False, device: str = "cpu") -> Path:
    """A snapshot as the hub holds it: config.json, weights in two files by their published names, bfloat16.

    device: where the weights are drawn.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    folder.mkdir()
    config = config_of(size, write_words(folder), tied)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(PICTURES))
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(3)
        made = Qwen2_5_VLForConditionalGeneration._from_config(Qwen2_5_VLConfig(**config), dtype=torch.bfloat16)
    state = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): value
        for name, value in made.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    places = {name: f"model-{1 + name.startswith('visual.'):05d}-of-00002.safetensors" for name in state}
    for file in set(places.values()):
        held = {name: state[name].cpu().contiguous() for name in state if places[name] == file}
        save_file(held, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder
