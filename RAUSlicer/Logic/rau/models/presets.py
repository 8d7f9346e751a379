"""The presets of design.md as configurations of the same classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rau.errors import ModelError
from rau.sam.build import mini_overrides


@dataclass(frozen=True)
class Preset:
    """sam_config, sam_overrides: see `rau.sam.build.build_sam2`. image_size: pixels a side of a slice for SAM2.

    encoder: arguments of `transformers.Dinov2Config`; encoder_size: pixels a side of a slice for the encoder.
    vlm: arguments of `rau.vlm.large.LargeSettings`; the revision is the user's to pin. Empty: `rau.vlm.build.MINI`.
    """

    name: str
    sam_config: str
    image_size: int
    sam_overrides: dict[str, Any] = field(default_factory=dict)
    encoder: dict[str, Any] = field(default_factory=dict)
    encoder_size: int = 224
    vlm: dict[str, Any] = field(default_factory=dict)


def preset(name: str) -> Preset:
    """The preset of that name. Raises ModelError."""
    if name == "rau-mini":
        encoder = {
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "mlp_ratio": 3,
            "patch_size": 14,
            "image_size": 112,
            "num_channels": 3,
            "drop_path_rate": 0.0,
        }
        return Preset(name, "sam2.1_hiera_t", 192, mini_overrides(192, 112, 32, (1, 2, 3, 1)), encoder, 112)
    if name == "rau-7b":
        encoder = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 518}
        vlm = {"source": "Qwen/Qwen2.5-VL-7B-Instruct", "rank": 8, "alpha": 16, "dropout": 0.01, "picture": 560}
        return Preset(name, "sam2.1_hiera_l", 1024, {}, encoder, 518, vlm)
    raise ModelError(f"No preset called {name!r}", "Use rau-mini or rau-7b")
