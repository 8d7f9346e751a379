"""A large reasoner's base at a size that a test can carry: the published class, tokenizer layout and files."""

from __future__ import annotations

import json

import numpy as np
import torch

from rau.vlm.dialogue import Dialogue, encode
from rau.vlm.large import LargeSettings
from rau.vlm.prompts import segment_answer

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


def settings_of(folder, **more):
    return LargeSettings(str(folder), picture=SIDE, device="cpu", **more)


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
