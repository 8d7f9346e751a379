"""What RAU's tables measure of the VLM: labels, boxes, assignment, the prefix cache; and the arithmetic of scores.

Axes: N regions, M structures.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from rau_tasks import Group, present_of, to_boxes

from rau.matching.transport import match_boxes
from rau.training.items import Item, place_of
from rau.training.lessons import thought_of
from rau.training.rewards import average_precision_50
from rau.vlm.answers import AnswerError, parse_label, write_label
from rau.vlm.asking import boxes_in_words
from rau.vlm.boxes import Box, as_array, iou
from rau.vlm.cues import Cue
from rau.vlm.dialogue import encode, tidy
from rau.vlm.heads import CueHeads
from rau.vlm.locate import Locator
from rau.vlm.prefix import PrefixCache
from rau.vlm.store import Loaded, assembled
from rau.vlm.vocabulary import END

LABEL_TOKENS = 24  # most in an answer of the label task
AT_ONCE = 8  # dialogues in a forward pass
FEWEST = 3  # present structures of an item whose regions are to be assigned
Rule = Literal["arg-max", "independent", "hungarian", "transport"]
RULES: tuple[Rule, ...] = ("arg-max", "independent", "hungarian", "transport")


def untrained_like(loaded: Loaded, seed: int = 0) -> Loaded:
    """The same shape with random weights."""
    base = loaded.reasoner.base
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vlm, heads = type(base)(base.config), CueHeads(loaded.reasoner.heads.config)
    made = assembled(vlm, loaded.processor, heads, loaded.convention)
    made.reasoner.eval().requires_grad_(False)
    return made


@torch.inference_mode()
def answered(loaded: Loaded, items: Sequence[Item], most: int = LABEL_TOKENS) -> list[str]:
    """The model's own answers, greedy, several dialogues at once."""
    tokenizer, vlm, said = loaded.processor.tokenizer, loaded.reasoner.vlm, []
    for first in range(0, len(items), AT_ONCE):
        dialogues = [one.dialogue(answered=False) for one in items[first : first + AT_ONCE]]
        inputs = encode(loaded.processor, dialogues, left=True).inputs
        ids = vlm.generate(
            **inputs,
            max_new_tokens=most,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            suppress_tokens=[loaded.reasoner.base.config.image_token_id],
        )
        for row in ids[:, inputs["input_ids"].shape[1] :].tolist():
            end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
            said.append(tidy(tokenizer.decode(row[:end], skip_special_tokens=False)))
    return said


def right_labels(texts: Sequence[str], items: Sequence[Item]) -> list[bool]:
    """Whether each answer is, read strictly, the name of the marked region."""
    return [_label(text, item) == item.names[item.marked or 0] for text, item in zip(texts, items)]


def _label(text: str, item: Item) -> str | None:
    try:
        return parse_label(text, item.names)
    except AnswerError:
        return None


def chance(items: Sequence[Item]) -> float | None:
    """Accuracy of guessing among the names."""
    return float(np.mean([1 / len(item.names) for item in items])) if items else None


def share(values: Sequence[bool] | Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and its standard error; None of nothing (the error: of fewer than two)."""
    if not len(values):
        return None, None
    found = np.asarray(values, float)
    return float(found.mean()), float(found.std(ddof=1) / len(found) ** 0.5) if len(found) > 1 else None


@dataclass(frozen=True)
class BoxFigures:
    """Over the structures that are there. iou: mean; hits: share of at least a half. None where there is none."""

    items: int
    structures: int
    iou: float | None
    hits: float | None


def box_figures(found: Sequence[dict[str, Box | None]], items: Sequence[Item]) -> BoxFigures:
    """found: boxes by name for each item; one that is missing scores 0."""
    scores = []
    for boxes, item in zip(found, items):
        for one in item.structures:
            if one.box is not None:
                said = boxes.get(one.name)
                scores.append(0.0 if said is None else float(iou(as_array([said]), as_array([one.box])).item()))
    mean = share(scores)[0]
    return BoxFigures(len(items), len(scores), mean, average_precision_50(scores) if scores else None)


def copied_boxes(items: Sequence[Item]) -> list[dict[str, Box | None]]:
    """Of the reference."""
    return [{one.name: one.anchor for one in item.structures} for item in items]


def head_boxes(loaded: Loaded, items: Sequence[Item]) -> list[dict[str, Box | None]]:
    """Of the detection head, one pass an item."""
    locator = Locator(loaded)
    return [{name: cue.box for name, cue in located(locator, item).items()} for item in items]


def located(locator: Locator, item: Item, target: np.ndarray | None = None) -> dict[str, Cue]:
    reference, own = item.pictures
    return locator.locate(reference, masks_of(item), own if target is None else target)


def masks_of(item: Item) -> dict[str, np.ndarray]:
    return {one.name: one.reference for one in item.structures}


def word_boxes(loaded: Loaded, items: Sequence[Item]) -> tuple[list[Item], list[dict[str, Box | None]]]:
    """Boxes that the VLM writes; the items as they were asked, of three structures at most."""
    asked = [to_boxes(item) for item in items]
    return asked, [boxes_in_words(loaded, one.pictures[0], masks_of(one), one.pictures[1]) for one in asked]


@torch.inference_mode()
def name_probabilities(loaded: Loaded, item: Item) -> np.ndarray:
    """(N, M): how likely each name is the answer when a region that the target shows is marked; rows sum to 1.

    The likelihoods of whole answers (the region's place, then the colour and the name of each), over the names.
    The prompt of a region is computed once for all names.
    """
    from transformers import DynamicCache

    reasoner, tokenizer = loaded.reasoner, loaded.processor.tokenizer
    base, names = reasoner.base.model, item.names
    present = present_of(item)
    asked = [replace(item, task="label", marked=k) for k in present]
    inputs = encode(loaded.processor, [one.dialogue(answered=False) for one in asked]).inputs
    ids, kinds, grid = inputs["input_ids"], inputs["mm_token_type_ids"], inputs["image_grid_thw"]
    positions, _ = base.get_rope_index(ids, kinds, image_grid_thw=grid)
    words = base.get_input_embeddings()
    seen = torch.cat(list(base.get_image_features(inputs["pixel_values"], grid).pooler_output))
    prompt = words(ids)
    prompt = prompt.masked_scatter(kinds.bool()[..., None], seen.to(prompt.dtype))
    states = DynamicCache()
    out = base.language_model(inputs_embeds=prompt, position_ids=positions, cache=states, use_cache=True)
    places = [place_of(item.structures[k].target) for k in present]
    texts = [write_label(name, thought_of(place, i, name)) + END for place in places for i, name in enumerate(names)]
    told = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
    tokens, counted = told["input_ids"], told["attention_mask"]
    states.batch_repeat_interleave(len(names))
    ends = positions[:, :, -1:].repeat_interleave(len(names), 1)
    later = base.language_model(
        inputs_embeds=words(tokens),
        position_ids=ends + 1 + torch.arange(tokens.shape[1]),
        cache=states,
        use_cache=True,
    ).last_hidden_state
    last = out.last_hidden_state[:, -1:].repeat_interleave(len(names), 0)
    said = reasoner.logits(torch.cat([last, later[:, :-1]], 1)).log_softmax(-1)
    likely = (said.gather(-1, tokens[..., None])[..., 0] * counted).sum(1).view(len(present), len(names))
    return likely.softmax(1).numpy()


def assigned(item: Item, order: Sequence[int], probability: np.ndarray, rule: Rule) -> list[bool]:
    """For each present structure, whether its own region is given to it.

    order: region i, as it is shown, is the structure order[i]. probability: (N, M) in that order.
    """
    if rule == "arg-max":
        return [int(probability[i].argmax()) == k for i, k in enumerate(order)]
    boxes = as_array([item.structures[k].box or item.structures[k].anchor for k in order])
    anchors = as_array([one.anchor for one in item.structures])
    found = match_boxes(boxes, probability, anchors, rule).boxes
    return [found[k] == i for i, k in enumerate(order)]


def assignment_hits(loaded: Loaded, items: Sequence[Item]) -> tuple[int, dict[Rule, list[bool]]]:
    """How many items have three structures or more in the target, and by rule the outcome of their regions."""
    used, hits = 0, {rule: list[bool]() for rule in RULES}
    for number, item in enumerate(items):
        present = present_of(item)
        if len(present) < FEWEST:
            continue
        used += 1
        shuffled = np.random.default_rng([number, 3]).permutation(len(present))
        probability = name_probabilities(loaded, item)[shuffled]
        for rule in RULES:
            hits[rule] += assigned(item, [present[i] for i in shuffled], probability, rule)
    return used, hits


@dataclass(frozen=True)
class PrefixFigures:
    """difference: largest, of states, boxes, presence and masks with the cache and without.

    with_cache, without: prompt tokens that the language model computed, mean a slice. seconds: median a slice, with and
    without. ratio: of times, the median over references.
    """

    slices: int
    difference: float
    with_cache: float
    without: float
    seconds: tuple[float, float]
    ratio: float

    @property
    def fewer(self) -> float:
        """Part of the tokens that need not be computed."""
        return 1 - self.with_cache / self.without


def prefix_figures(loaded: Loaded, group: Group, references: int, targets: int) -> PrefixFigures:
    """Several targets of one reference, each asked with the cache and without, in turn."""
    plain, ratios, difference = Locator(loaded), [], 0.0
    times: tuple[list[float], list[float]] = ([], [])
    computed = reused = slices = 0
    chosen = group.some(references).items()
    located(plain, chosen[0])  # what is slow only once
    for item in chosen:
        cached = Locator(loaded, PrefixCache("benchmark"))
        others = [picture for one in group.items() if one is not item for picture in one.pictures[::-1]]
        shown = [item.pictures[1], *others][:targets]
        spent = [0.0, 0.0]
        for number, target in enumerate(shown):
            found: list[dict[str, Cue]] = [{}, {}]
            for way in (0, 1) if number % 2 else (1, 0):
                start = time.perf_counter()
                found[way] = located((cached, plain)[way], item, target)
                times[way].append(time.perf_counter() - start)
                spent[way] += times[way][-1]
            difference = max(difference, differing(*found))
        ratios.append(spent[0] / spent[1])
        slices += len(shown)
        if cached.cache is not None:
            computed, reused = computed + cached.cache.computed, reused + cached.cache.reused
    seconds = (float(np.median(times[0])), float(np.median(times[1])))
    return PrefixFigures(
        slices, difference, computed / slices, (computed + reused) / slices, seconds, float(np.median(ratios))
    )


def differing(one: dict[str, Cue], other: dict[str, Cue]) -> float:
    """The largest difference between the numbers of two answers."""

    def numbers(cue: Cue) -> Any:
        return np.concatenate([[cue.presence], cue.box, cue.state.ravel(), cue.mask.ravel()])

    return max(float(np.abs(numbers(one[name]) - numbers(other[name])).max()) for name in one)
