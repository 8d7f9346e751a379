"""Qwen2.5-VL of a preset: configuration, model, processor. The classes are those of `transformers`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rau.vlm.vocabulary import END, PAD, TEMPLATE, VISION, train_tokenizer


@dataclass(frozen=True)
class VlmShape:
    """Sizes of a Qwen2.5-VL. picture: pixels a side; patch: pixels; merge: patches a side that make one token.

    hidden, layers, heads, wide: of the language model (wide: of its feed-forward layers). eyes: the same four numbers
    of the vision tower. window: pixels a side of its windowed attention; whole: which of its layers see everything.
    theta: base of the language model's rotary positions. The columns of a picture have the slowest of its waves: with
    the 10,000 or the million of large models, and heads of 32 numbers, one token's step cannot be told from none.
    """

    picture: int = 192
    patch: int = 12
    merge: int = 2
    hidden: int = 192
    layers: int = 6
    heads: int = 6
    wide: int = 512
    eyes: tuple[int, int, int, int] = (128, 4, 4, 256)
    window: int = 96
    whole: tuple[int, ...] = (1, 3)
    theta: float = 10.0

    @property
    def grid(self) -> int:
        """Tokens a side of a picture."""
        return self.picture // (self.patch * self.merge)


MINI = VlmShape()


def config_of(shape: VlmShape, tokenizer: Any) -> Any:
    """`Qwen2_5_VLConfig` of that shape, for the tokens of that tokenizer."""
    from transformers import Qwen2_5_VLConfig

    half = shape.hidden // shape.heads // 2
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.hidden,
        "intermediate_size": shape.wide,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": tokenizer.convert_tokens_to_ids(END),
        "pad_token_id": tokenizer.convert_tokens_to_ids(PAD),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": shape.theta,
            "mrope_section": [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8],
        },
    }
    hidden, depth, heads, wide = shape.eyes
    vision = {
        "depth": depth,
        "hidden_size": hidden,
        "num_heads": heads,
        "intermediate_size": wide,
        "out_hidden_size": shape.hidden,
        "patch_size": shape.patch,
        "spatial_patch_size": shape.patch,
        "spatial_merge_size": shape.merge,
        "window_size": shape.window,
        "fullatt_block_indexes": list(shape.whole),
    }
    tokens = {
        f"{key}_token_id": tokenizer.convert_tokens_to_ids(VISION[key])
        for key in ("image", "video", "vision_start", "vision_end")
    }
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **tokens)


def new_model(shape: VlmShape, tokenizer: Any, seed: int = 0) -> Any:
    """`Qwen2_5_VLForConditionalGeneration` with random weights."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    config = config_of(shape, tokenizer)
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2_5_VLForConditionalGeneration(config)


def new_processor(shape: VlmShape, tokenizer: Any | None = None) -> Any:
    """`Qwen2_5_VLProcessor` with pictures of one size; the small model's own tokenizer unless one is given."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    area = shape.picture**2
    pictures = Qwen2VLImageProcessor(
        patch_size=shape.patch,
        merge_size=shape.merge,
        size={"shortest_edge": area, "longest_edge": area},
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
    )
    words = tokenizer if tokenizer is not None else train_tokenizer()
    return Qwen2_5_VLProcessor(
        image_processor=pictures, tokenizer=words, video_processor=Qwen2VLVideoProcessor(), chat_template=TEMPLATE
    )
