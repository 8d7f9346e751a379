"""How good a VLM is on subjects that it never saw: labelling, presence, boxes, coarse masks."""

from __future__ import annotations

import numpy as np
import torch

from rau.training.batch import make_batch
from rau.training.data import Layout, Mixture
from rau.training.items import collate, draw
from rau.training.vlm_objective import CUED, answer_loss
from rau.vlm.dialogue import token_of
from rau.vlm.store import Loaded


def paired_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(K,) IoU of row k of each, (K, 4) corners."""
    both = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    areas = sum((x[:, 2:] - x[:, :2]).clamp(min=0).prod(1) for x in (a, b))
    return both / (areas - both).clamp(min=1e-9)


@torch.no_grad()
def validate(loaded: Loaded, source: Mixture, batches: int = 3, dialogues: int = 8) -> dict[str, float]:
    """Means over the sources of: labelling accuracy (`right_answers`), presence (balanced accuracy), IoU of boxes
    beside copying the reference's, Dice of the coarse masks.
    """
    from accelerate.utils import send_to_device

    loaded.reasoner.eval()
    device = next(loaded.reasoner.parameters()).device
    scores: dict[str, list[float]] = {}
    presence: list[tuple[bool, bool]] = []

    def note(key: str, values: list[float]) -> None:
        scores.setdefault(key, []).extend(values)

    for name, _, one in source.sources:
        kept, one.removal = one.removal, 0.6
        for i in range(batches):
            batch = make_batch(one, (77, i), Layout(1, 0), dialogues, 6, loaded.picture)
            for task in ("segment", "label"):
                rng = np.random.default_rng(i)
                items = draw(batch, task, rng)
                if not items:
                    continue
                ready = send_to_device(collate(items, loaded.processor, loaded.cells, rng, loaded.convention), device)
                reading = loaded.reasoner.read(ready["inputs"])
                if task == "label":
                    note("label", right_answers(loaded, reading.hidden, ready["labels"]))
                    continue
                note("loss", [float(answer_loss(loaded.reasoner, reading.hidden, ready["labels"]))])
                cues = loaded.reasoner.cues(reading, *(ready[key] for key in CUED))
                here = ready["present"]
                presence += list(zip((cues.presence > 0).tolist(), here.tolist()))
                boxes = paired_iou(cues.boxes[here], ready["boxes"][here]).tolist()
                note("box", boxes)
                note(f"box {name}", boxes)
                note("box copied", paired_iou(ready["anchors"][here], ready["boxes"][here]).tolist())
                found, truth = (cues.masks[here] > 0).float().flatten(1), ready["masks"][here].flatten(1)
                note("dice", (2 * (found * truth).sum(1) / (found.sum(1) + truth.sum(1)).clamp(min=1e-6)).tolist())
        one.removal = kept
    loaded.reasoner.train()
    means = {key: float(np.mean(values)) for key, values in scores.items()}
    rates = [np.mean([said == truth for said, truth in presence if truth is kind]) for kind in (True, False)]
    return {**means, "presence": float(np.mean(rates))}


def right_answers(loaded: Loaded, hidden: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """1 for each dialogue whose region would be named without a fault, given what is thought of its place or looks:
    its line of the legend (from the last comma of the thought on) and the answer.
    """
    said, words = loaded.reasoner.logits(hidden[:, :-1]).argmax(-1), loaded.processor.tokenizer
    begin, comma = words.convert_tokens_to_ids("<answer>"), token_of(words, ",")
    right = []
    for row in range(len(labels)):
        wanted = labels[row, 1:]
        answer = int(torch.nonzero(wanted == begin)[0, 0])
        start = int(torch.nonzero(wanted[:answer] == comma)[-1, 0]) + 1
        part = (torch.arange(len(wanted), device=wanted.device) >= start) & (wanted >= 0)
        right.append(float((said[row][part] == wanted[part]).all()))
    return right
