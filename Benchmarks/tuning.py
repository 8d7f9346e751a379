"""The other way to adapt: some steps of training of the network itself on views of the reference, for comparison.

Pictures only (one slice). The engine's own model is never touched: a copy is trained.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from validation_tasks import Task

from rau.adaptation.views import Sheets, views_of
from rau.models.engine import Engine
from rau.preparation import canonical
from rau.sam.pixels import Frame, masks_to_square, normalise, to_square
from rau.sam.segmenter import Segmenter
from rau.training.objective import loss_of
from rau.volume.window import to_uint8

WAYS = ("decoder", "lora", "all")
AT_MOST = 4  # structures a step
RATES = {"decoder": 5e-4, "lora": 2e-3, "all": 2e-4}
ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")  # of memory attention and decoder: what LoRA is put on


def sheet_of(task: Task, size: int) -> tuple[Sheets, int]:
    """The reference as one sheet on the network's square, and how many structures it shows."""
    image, _, turned = canonical(to_uint8(task.reference.image), task.reference.image.geometry)
    labels = turned.forth(task.reference.labels.array)[0]
    frame = Frame.of(labels.shape, (1.0, 1.0))
    values = [int(v) for v in np.unique(labels) if v]
    masks = masks_to_square(np.stack([labels == v for v in values]), frame, size)
    numbers = torch.arange(1, len(values) + 1)[:, None, None, None]
    maps = (masks * numbers).amax(0).long()
    return Sheets(to_square(image, frame, size), maps, torch.zeros(1, size, size, 3)), len(values)


def learning(model: torch.nn.Module, way: str) -> Iterator[torch.nn.Parameter]:
    """The parameters that may change."""
    model.requires_grad_(way == "all")
    if way == "decoder":
        model.sam_mask_decoder.requires_grad_(True)
    if way == "lora":
        from peft import LoraConfig, inject_adapter_in_model

        linear = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)]
        chosen = [name for name in linear if name.endswith(ATTENTION)]
        inject_adapter_in_model(LoraConfig(r=4, lora_alpha=8, target_modules=chosen), model)
    return (one for one in model.parameters() if one.requires_grad)


def tuned(engine: Engine, task: Task, way: str, steps: int = 20, seed: int = 0) -> Engine:
    """The engine with a copy of its network, trained for `steps` on (reference -> view of the reference)."""
    model = copy.deepcopy(engine.segmenter.model)
    model.sam_mask_decoder._forward_hooks.clear()
    segmenter = Segmenter(model)
    sheet, structures = sheet_of(task, segmenter.size)
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(learning(model, way), RATES[way], weight_decay=0.0)
    for _ in range(steps):
        view = views_of(sheet, 1, generator)
        some = torch.from_numpy(rng.permutation(structures)[:AT_MOST]) + 1
        there, here = ((one.labels == some[:, None, None]).float()[:, None] for one in (sheet, view))
        features = segmenter.encode(normalise(torch.cat([sheet.images, view.images])))
        rows = torch.zeros(len(some), dtype=torch.long)
        masks = segmenter.decode(features.rows(rows + 1), [segmenter.remember(features.rows(rows), there)])
        loss = loss_of(masks, here, here.flatten(1).sum(1) > 0)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimiser.step()
    chosen = Segmenter(model.eval().requires_grad_(False))
    return replace(engine, segmenter=chosen, _kept=type(engine._kept)())
