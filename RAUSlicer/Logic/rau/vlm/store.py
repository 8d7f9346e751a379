"""A reasoner on disk: Qwen2.5-VL and its processor in Hugging Face's format, heads and what belongs to them beside it.

Only safetensors and JSON are read; no code of a folder is ever run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rau.errors import ModelError
from rau.models.store import write_folder
from rau.vlm.build import MINI, VlmShape, new_model, new_processor
from rau.vlm.prompts import GRID

if TYPE_CHECKING:
    from rau.vlm.boxes import Convention
    from rau.vlm.model import Reasoner

HEADS, RECORD = "heads.safetensors", "reasoner.json"
MINI_CELLS = 6  # cells that a token of the small model is split into


@dataclass(frozen=True)
class Loaded:
    """A reasoner with all that is needed to talk to it. picture: pixels a side that it reads; grid: tokens a side.

    routes: whether it was trained to answer with `<Det>`, `<Seg>` and `<Look>` at once (`rau.vlm.routing`).
    """

    reasoner: Reasoner
    processor: Any
    convention: Convention
    picture: int
    grid: int
    routes: bool = field(default=False, kw_only=True)

    @property
    def cells(self) -> int:
        """Cells a side of the heads' masks."""
        return self.grid * self.reasoner.heads.config.cells


def new_reasoner(seed: int = 0, shape: VlmShape = MINI) -> Loaded:
    """The small model with random weights."""
    import torch

    from rau.vlm.heads import CueHeads, HeadsConfig

    processor = new_processor(shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        heads = CueHeads(HeadsConfig(shape.hidden, cells=MINI_CELLS))
    return assembled(new_model(shape, processor.tokenizer, seed), processor, heads, GRID)


def assembled(vlm: Any, processor: Any, heads: Any, convention: Convention) -> Loaded:
    """Model, processor and heads as one; the size of the pictures is the processor's."""
    from rau.vlm.dialogue import ABSENT, token_of
    from rau.vlm.model import Reasoner
    from rau.vlm.vocabulary import SEG

    tokenizer, images = processor.tokenizer, processor.image_processor
    seg = int(tokenizer.convert_tokens_to_ids(SEG))
    reasoner = Reasoner(vlm, heads, seg, token_of(tokenizer, ABSENT))
    side = int(round(images.size["longest_edge"] ** 0.5))
    return Loaded(reasoner, processor, convention, side, side // (images.patch_size * images.merge_size))


def save_reasoner(folder: Path, loaded: Loaded, trained: Mapping[str, Any] | None = None, half: bool = False) -> None:
    """Write the folder whole: a temporary one beside it, then renamed. trained: how the weights came to be."""
    import torch
    from safetensors.torch import save_file
    from transformers.utils import logging

    logging.disable_progress_bar()
    dtype = torch.float16 if half else torch.float32
    reasoner = loaded.reasoner
    state = {k: v.detach().to(dtype).contiguous().clone() for k, v in reasoner.base.state_dict().items()}
    record = {
        "format": 1,
        "heads": asdict(reasoner.heads.config),
        "convention": asdict(loaded.convention),
        "trained": dict(trained or {}),
        **({"routes": True} if loaded.routes else {}),
    }

    def fill(part: Path) -> None:
        reasoner.base.save_pretrained(part, state_dict=state, safe_serialization=True)
        loaded.processor.save_pretrained(part)
        save_file({k: v.detach().to(dtype).contiguous() for k, v in reasoner.heads.state_dict().items()}, part / HEADS)
        (part / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    write_folder(folder, fill)


def load_reasoner(folder: Path) -> Loaded:
    """Read what `save_reasoner` wrote. Raises ModelError."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration
    from transformers.utils import logging

    from rau.vlm.boxes import Convention
    from rau.vlm.heads import CueHeads, HeadsConfig

    logging.disable_progress_bar()
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        heads = CueHeads(HeadsConfig(**record["heads"]))
        heads.load_state_dict({k: v.float() for k, v in load_file(folder / HEADS).items()})
        kept: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        vlm: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa", use_safetensors=True, **kept
        )
        processor = AutoProcessor.from_pretrained(folder, **kept)
        loaded = assembled(vlm, processor, heads, Convention(**record["convention"]))
        return replace(loaded, routes=bool(record.get("routes", False)))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as problem:
        raise ModelError(f"The VLM in {folder.name} cannot be read", "Get the model again") from problem
