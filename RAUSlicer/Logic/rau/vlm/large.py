"""The large reasoner: a Qwen2.5-VL as published, from a folder, with LoRA, rows for our tokens, and heads.

What trains: LoRA on the language model's attention, the input and output rows of our special tokens, the heads. The
rest stays as it was read, in bfloat16, or in 4 bits (NF4) on CUDA. Written against `Qwen2.5-VL-7B-Instruct`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from rau.errors import InputError, ModelError
from rau.vlm.boxes import Convention
from rau.vlm.large_folder import AGAIN, COMMIT, base_digest, check_base, find_base
from rau.vlm.store import Loaded, assembled
from rau.vlm.vocabulary import DET, LAYOUT, LOOK, SEG, VISION

CELL = 28  # pixels a side of a token of Qwen2.5-VL: patches of 14, two by two
TOKENS = (SEG, DET, LOOK, *LAYOUT)  # rows that train
TARGETS = r".*language_model\.layers\.\d+\.self_attn\.[qkvo]_proj"  # of LoRA: not the vision tower
KEPT = ("lm_head", "model.visual")  # never in 4 bits: the output rows train, and the pictures' details matter


@dataclass(frozen=True)
class LargeSettings:
    """source: a local folder, or a hub id, then with `revision`, a commit; downloaded only if `allow_download`.

    four_bit: "auto" is NF4 on CUDA and bfloat16 elsewhere; "on" insists. rank, alpha, dropout: of LoRA. picture: pixels
    a side that the model reads, a multiple of 28; give it pictures of exactly that size. cells: a side that the heads
    split a token into. device: auto, cpu or cuda. seed: of the new weights. Raises InputError.
    """

    source: str
    revision: str = ""
    allow_download: bool = False
    four_bit: Literal["auto", "on", "off"] = "auto"
    rank: int = 8
    alpha: int = 16
    dropout: float = 0.01
    picture: int = 560
    cells: int = 4
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.revision and not COMMIT.fullmatch(self.revision):
            raise InputError("The revision is not a commit", "Give its 40 hexadecimal digits, not a branch or a tag")
        if self.four_bit not in ("auto", "on", "off"):
            raise InputError(f"No choice of 4 bits called {self.four_bit!r}", "Use auto, on or off")
        if self.picture < 2 * CELL or self.picture % CELL:
            raise InputError(f"Pictures of {self.picture} pixels do not fit", f"Use a multiple of {CELL}, e.g. 560")
        if min(self.rank, self.alpha, self.cells) < 1 or not 0 <= self.dropout < 1:
            raise InputError("The sizes of LoRA or of the heads do not fit", "Use rank, alpha, cells > 0, dropout < 1")


@dataclass(frozen=True)
class LoadedLarge(Loaded):
    """A `Loaded` that knows its settings, the SHA-256 of its base's `config.json`, and the ids of our tokens."""

    settings: LargeSettings
    base: str
    tokens: dict[str, int]


def load_large(settings: LargeSettings) -> LoadedLarge:
    """The base with new LoRA (which changes nothing yet) and new heads. Raises ModelError, InputError."""
    import torch

    from rau.models.engine import device_of
    from rau.vlm.heads import CueHeads, HeadsConfig

    folder = find_base(settings.source, settings.revision, settings.allow_download)
    check_base(folder)
    device = device_of(settings.device)
    four = wants_four_bit(settings.four_bit, device)
    processor = read_processor(folder, settings.picture)
    vlm = read_base(folder, device, four)
    if vlm.config.image_token_id != processor.image_token_id:
        raise ModelError(f"The tokenizer in {folder.name} is of another model", AGAIN)
    tokens = add_tokens(vlm, processor.tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        heads = CueHeads(HeadsConfig(vlm.config.text_config.hidden_size, cells=settings.cells)).to(device)
        vlm = with_lora(vlm, list(tokens.values()), settings)
    loaded = assembled(vlm, processor, heads, Convention("pixels", settings.picture))
    loaded.reasoner.eval()
    return LoadedLarge(**vars(loaded), settings=settings, base=base_digest(folder), tokens=tokens)


def wants_four_bit(choice: str, device: str) -> bool:
    """Whether the weights become NF4: on CUDA, unless "off". Raises ModelError where that cannot be had."""
    if choice == "off" or (choice == "auto" and device == "cpu"):
        return False
    if device == "cpu":
        raise ModelError("4-bit weights need a CUDA device", "Set four_bit to auto or off")
    for package in ("bitsandbytes", "accelerate"):
        if find_spec(package) is None:
            raise ModelError(f"4-bit weights need {package}", f"pip install {package}, or set four_bit to off")
    return True


def nf4() -> Any:
    """`BitsAndBytesConfig`: NF4, constants quantised too, computing in bfloat16; not for `KEPT`."""
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=list(KEPT),
    )


def read_processor(folder: Path, picture: int) -> Any:
    """`Qwen2_5_VLProcessor` of the folder, with its own chat template, for pictures of one size. Raises ModelError."""
    from transformers import Qwen2_5_VLProcessor

    area = picture**2
    try:
        processor = Qwen2_5_VLProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        processor.image_processor.size = {"shortest_edge": area, "longest_edge": area}
        tokenizer, images = processor.tokenizer, processor.image_processor
        if images.patch_size * images.merge_size != CELL or not processor.chat_template:
            raise ValueError("patches of another size, or no chat template")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as problem:
        raise ModelError(f"The tokenizer or the processor in {folder.name} cannot be used", AGAIN) from problem
    for kind in ("image", "video"):
        setattr(tokenizer, f"{kind}_token", VISION[kind])
        setattr(tokenizer, f"{kind}_token_id", tokenizer.convert_tokens_to_ids(VISION[kind]))
    return processor


def read_base(folder: Path, device: str, four: bool) -> Any:
    """`Qwen2_5_VLForConditionalGeneration` in bfloat16 or NF4, every weight from the folder. Raises ModelError."""
    import torch
    from safetensors import SafetensorError
    from transformers import Qwen2_5_VLForConditionalGeneration
    from transformers.utils import logging

    logging.disable_progress_bar()
    chosen: dict[str, Any] = {"quantization_config": nf4()} if four else {}
    if device != "cpu":
        chosen["device_map"] = {"": device}
    kept: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
    kept |= {"dtype": torch.bfloat16, "attn_implementation": "sdpa", "output_loading_info": True}
    try:
        vlm, told = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, **kept, **chosen)
    except torch.OutOfMemoryError as problem:
        raise ModelError(f"{folder.name} does not fit the GPU", "Use 4 bits, another GPU, or rau-mini") from problem
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as problem:
        raise ModelError(f"The VLM in {folder.name} cannot be read", AGAIN) from problem
    if told["missing_keys"] or told["mismatched_keys"]:
        raise ModelError(f"The weights in {folder.name} do not fit its config.json", AGAIN)
    return vlm


def add_tokens(vlm: Any, tokenizer: Any) -> dict[str, int]:
    """Id of each of `TOKENS`. New ones get the mean of the rows before them; the tables grow only if they must."""
    import torch
    from tokenizers import AddedToken

    before = len(tokenizer)
    new = [token for token in TOKENS if token not in tokenizer.get_vocab()]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in new], special_tokens=True)
    if len(tokenizer) > len(vlm.get_input_embeddings().weight):
        vlm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    ids = {token: int(tokenizer.convert_tokens_to_ids(token)) for token in TOKENS}
    rows = [ids[token] for token in new]
    with torch.no_grad():
        tables = {id(w): w for w in (vlm.get_input_embeddings().weight, vlm.get_output_embeddings().weight)}
        for weight in tables.values():
            weight[rows] = weight[:before].mean(0, dtype=torch.float32).to(weight.dtype)
    return ids


def with_lora(vlm: Any, rows: Sequence[int], settings: LargeSettings) -> Any:
    """A `PeftModel`: LoRA at `TARGETS`, and `rows` of the tables; of one table only where both are one (3B)."""
    from peft import LoraConfig, get_peft_model

    tables = ("embed_tokens",) if vlm.config.tie_word_embeddings else ("embed_tokens", "lm_head")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=TARGETS,
        trainable_token_indices={table: list(rows) for table in tables},
    )
    return get_peft_model(vlm, config)
