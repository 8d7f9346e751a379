"""A pretrained DINOv2 as teacher: SAM2's image encoder learns to say of each position what the teacher says.

Axes: N slices, S pixels a side, T = S / 16 positions a side, C channels of SAM2, D of the teacher. The teacher sees
T patches a side, so that its patches are the positions of SAM2's top level. Only the encoder keeps what was learnt:
the head from C to D channels stays in the run folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from rau.errors import InputError
from rau.models.store import sha256

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as the teacher was trained
WEIGHTS = "model.safetensors"


class Teacher:
    """A DINOv2 folder in the format of `transformers`: config.json and model.safetensors, nothing else is opened."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from transformers import Dinov2Model
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
        except (OSError, ValueError, KeyError, TypeError):
            kind = ""
        if kind != "dinov2" or not (folder / WEIGHTS).is_file():
            raise InputError(
                f"The folder {folder.name} holds no DINOv2 model", f"It needs config.json and {WEIGHTS} of DINOv2"
            )
        model: Any = Dinov2Model.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        self.model = model.eval().requires_grad_(False).to(device)
        self.patch, self.channels = int(model.config.patch_size), int(model.config.hidden_size)
        self.digest = sha256(folder / WEIGHTS)

    @torch.inference_mode()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """images: (N, 3, S, S) in 0 to 1 -> (N, D, T, T), the mean of each slice taken out."""
        side = images.shape[-1] // 16
        pixels = (side * self.patch, side * self.patch)
        x = F.interpolate(images, size=pixels, mode="bilinear", align_corners=False, antialias=True)
        mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (MEAN, STD))
        tokens = self.model((x - mean) / std).last_hidden_state[:, 1:].float()
        tokens = tokens - tokens.mean(1, keepdim=True)
        return tokens.transpose(1, 2).reshape(len(x), -1, side, side)


def head_of(channels: int, teacher: Teacher) -> torch.nn.Module:
    """1 x 1 convolution from the channels of SAM2's top level to the teacher's."""
    return torch.nn.Conv2d(channels, teacher.channels, 1)


def unlikeness(head: torch.nn.Module, top: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """1 - cosine, mean over the positions. top: (N, C, T, T) of SAM2; features: (N, D, T, T) of the teacher."""
    return 1 - F.cosine_similarity(head(top), features.clone(), dim=1).mean()
