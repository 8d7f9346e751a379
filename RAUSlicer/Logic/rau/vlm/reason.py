"""The VLM asked at the key slices of a target; what it said, at every slice.

Key slices are asked alone: between two of them presence, box, mask and field are interpolated, the fused token is the
nearer one's. The reference slice is the one that goes into SAM2's memory there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rau.sam.hints import Hints
from rau.vlm.cues import Cue, between

if TYPE_CHECKING:
    from rau.preparation import Case, CasePlane
    from rau.sam.propagation import Match
    from rau.vlm.engine import Reasoning
    from rau.vlm.routed_locate import Said

DOUBT = 0.05  # presence by which the threshold may be missed before a structure is not believed at all
KEYS = 8  # slices of a volume that are asked about, at most


@dataclass(frozen=True)
class CaseCues:
    """What the VLM said of a target. axis: canonical, across which its slices were cut; slices: how many.

    cues: value -> key slice -> cue. tokens: alike, (C,) fused tokens. uses: what of it is made use of. attention: of
    each key slice, what `rau.vlm.evidence.summary` says of the slots that the states attended to. fields: as tokens,
    (C, G, G) of `rau.sam.two_way`. said: of each key slice, its routed answers.
    """

    axis: int
    slices: int
    cues: Mapping[int, Mapping[int, Cue]]
    tokens: Mapping[int, Mapping[int, np.ndarray]]
    uses: tuple[str, ...]
    threshold: float
    attention: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    fields: Mapping[int, Mapping[int, np.ndarray]] = field(default_factory=dict)
    said: Mapping[int, tuple[Said, ...]] = field(default_factory=dict)

    def report(self, names: Mapping[int, str], place: Callable[[int, int], tuple[int, int]]) -> dict[str, Any]:
        """Ready for JSON: presence, box (fractions of the square picture) and score of each structure at the key
        slices, which are told by axis and index of the target's own array. place: canonical axis and index to those.
        """

        def row(value: int, t: int, cue: Cue) -> dict[str, Any]:
            box = [round(v, 4) for v in cue.box]
            numbers = {"presence": round(cue.presence, 4), "box": box, "score": round(cue.score, 4)}
            numbers |= {} if cue.look is None else {"look": round(cue.look, 4)}
            return {"structure": names[value], "slice": place(self.axis, t)[1], **numbers}

        rows = [row(value, t, cue) for value, known in self.cues.items() for t, cue in sorted(known.items())]
        attention = {str(place(self.axis, t)[1]): dict(one) for t, one in sorted(self.attention.items())}
        told = {"axis": place(self.axis, 0)[0], "uses": list(self.uses), "cues": rows, "attention": attention}
        answers = [
            {"slice": place(self.axis, t)[1], "modality": one.modality, "words": one.words, "fault": one.fault}
            for t, some in sorted(self.said.items())
            for one in some
        ]
        return {**told, "answers": answers} if answers else told

    def look(self, axis: int, value: int, t: int) -> float | None:
        """0 to 1, whether a closer look at a structure in slice t across a canonical axis is worth while; beyond the
        first and last key slice as there. None where nobody asked.
        """
        known = {key: cue.look for key, cue in self.cues.get(value, {}).items() if cue.look is not None}
        if axis != self.axis or not known:
            return None
        keys = sorted(known)
        return float(np.interp(t, keys, [known[key] for key in keys]))

    def at(self, value: int, t: int) -> Cue | None:
        """The cue of a structure in slice t: a key slice's own, or of the two about it; None beyond them."""
        known = self.cues.get(value, {})
        about = around(known, t)
        if about is None:
            return None
        first, second, share = about
        return known[first] if first == second else between(known[first], known[second], share)

    def gate(self, value: int) -> np.ndarray | None:
        """(T,) in 0 to 1: how much of a structure is believed in each slice; None where presence is not made use of.

        Beyond its first and last key slice a structure is believed as much as there.
        """
        if "presence" not in self.uses or value not in self.cues:
            return None
        known = self.cues[value]
        keys = sorted(known)
        presence = np.interp(np.arange(self.slices), keys, [known[key].presence for key in keys])
        return np.clip(1 + (presence - self.threshold) / DOUBT, 0, 1).astype(np.float32)

    def hints(self, t: int, values: Sequence[int]) -> Hints | None:
        """Boxes and tokens of the structures asked for in slice t; None where there is nothing to say."""
        cues = {value: cue for value in values if (cue := self.at(value, t)) is not None}
        here = {value: cue for value, cue in cues.items() if cue.presence >= self.threshold}
        boxes = {value: cue.box for value, cue in here.items()} if "boxes" in self.uses else {}
        tokens = (
            {value: self._token(value, t) for value in here if value in self.tokens} if "fusion" in self.uses else {}
        )
        fields = {value: one for value in tokens if (one := self._field(value, t)) is not None}
        return Hints(boxes, tokens, fields) if boxes or tokens else None

    def _token(self, value: int, t: int) -> np.ndarray:
        known = self.tokens[value]
        return known[min(known, key=lambda key: (abs(key - t), key))]

    def _field(self, value: int, t: int) -> np.ndarray | None:
        """A field belongs to places: between two key slices it is between their fields."""
        known = self.fields.get(value, {})
        about = around(known, t)
        if about is None:
            return None
        first, second, share = about
        mixed: np.ndarray = ((1 - share) * known[first] + share * known[second]).astype(np.float32)
        return mixed


def around(keys: Iterable[int], t: int) -> tuple[int, int, float] | None:
    """The key slices before and after t, and how far t is from the first to the second, 0 to 1; None beyond them.

    A key slice is about itself.
    """
    before, after = [k for k in keys if k <= t], [k for k in keys if k >= t]
    if not before or not after:
        return None
    first, second = max(before), min(after)
    return first, second, (t - first) / max(1, second - first)


def keys_of(plane: CasePlane) -> list[tuple[int, Match, int]]:
    """(target slice, match, reference slice) of the key slices: evenly among those whose reference shows something.

    The target's own corrected slices need not be asked about.
    """
    found, references = [], [one for one in plane.matches if one.number >= 0]
    for t in range(len(plane.images)):
        match = max(references, key=lambda one: one.similarity[t])
        index = int(match.index[t])
        if any(index in where for where in match.reference.where.values()):
            found.append((t, match, index))
    if len(found) <= KEYS:
        return found
    chosen = np.unique(np.linspace(0, len(found) - 1, KEYS).round().astype(int))
    return [found[int(k)] for k in chosen]


def reason(case: Case, reasoning: Reasoning, uses: Sequence[str], go_on: Callable[[], None]) -> CaseCues:
    """Ask at the key slices of the first plane, all structures in one pass. go_on: called between slices; raises."""
    from rau.vlm.routed_locate import RoutedLocator

    plane = case.planes[0]
    names = unique({one.value: one.name for one in case.structures})
    cues: dict[int, dict[int, Cue]] = {}
    tokens: dict[int, dict[int, np.ndarray]] = {}
    fields: dict[int, dict[int, np.ndarray]] = {}
    attention: dict[int, dict[str, Any]] = {}
    said: dict[int, tuple[Said, ...]] = {}
    two_way = reasoning.two_way(uses)
    for t, match, index in keys_of(plane):
        go_on()
        found = ask(plane, t, match, index, names, reasoning, two_way)
        if isinstance(reasoning.locator, RoutedLocator):
            said[t] = tuple(reasoning.locator.said)
        for value, cue in found.items():
            cues.setdefault(value, {})[t] = replace(cue, target=None)
        if "fusion" in uses and reasoning.fusion is not None:
            fused, seen, attention[t] = tokens_of(match, index, found, names, reasoning)
            for kept, made in ((tokens, fused), (fields, seen)):
                for value, one in made.items():
                    kept.setdefault(value, {})[t] = one
    told = tuple(uses), reasoning.threshold, attention, fields, said
    return CaseCues(plane.images.axis, len(plane.images), cues, tokens, *told)


def unique(names: Mapping[int, str]) -> dict[int, str]:
    """The names, with a number where two structures have the same, and "structure" where one has none."""
    made: dict[int, str] = {}
    for value, name in names.items():
        plain, count = " ".join(name.split()) or "structure", 1
        called = plain
        while called.lower() in {one.lower() for one in made.values()}:
            count += 1
            called = f"{plain} {count}"
        made[value] = called
    return made


def ask(
    plane: CasePlane,
    t: int,
    match: Match,
    index: int,
    names: Mapping[int, str],
    reasoning: Reasoning,
    two_way: str = "off",
) -> dict[int, Cue]:
    """The cues of slice t for the structures that reference slice `index` shows."""
    from rau.sam.pixels import masks_to_square, to_square
    from rau.vlm.pictures import picture

    images, labels, size = match.reference.images, match.reference.labels, reasoning.locator.loaded.picture
    here = [value for value in match.reference.values if index in match.reference.where[value]]
    masks = masks_to_square(np.stack([labels[index] == value for value in here]), labels.frame, size)
    shown = {names[value]: mask[0].numpy() > 0.5 for value, mask in zip(here, masks)}
    reference = picture(to_square(images[index][None], images.frame, size)[0].numpy())
    target = picture(to_square(plane.images[t][None], plane.images.frame, size)[0].numpy())
    found = reasoning.locator.locate(reference, shown, target, two_way)
    return {value: found[names[value]] for value in here}


def tokens_of(
    match: Match, index: int, cues: Mapping[int, Cue], names: Mapping[int, str], reasoning: Reasoning
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray], dict[str, Any]]:
    """(C,) of each structure: its `<Seg>` state, projected, over the slots of the reference (RAU Eq. 6, 7); (C, G, G):
    its states at the target's tokens, projected (RCMed), none where it has none; and what the first attended to.
    """
    import torch

    from rau.vlm.evidence import slot_names, summary

    if reasoning.fusion is None or reasoning.segmenter is None or not cues:
        return {}, {}, {}
    values, side = list(cues), reasoning.fusion.config.spatial_side
    with torch.inference_mode():
        slots = match.reference.slots(reasoning.segmenter, index, values, side)
        states = torch.from_numpy(np.stack([cues[value].state for value in values]))
        fused, alpha = reasoning.fusion(states.to(reasoning.segmenter.device), slots)
        seen = summary(alpha, [names[value] for value in values], slot_names(1, side), slots.mask)
        targets = [one for value in values if (one := cues[value].target) is not None]
        fields: dict[int, np.ndarray] = {}
        if len(targets) == len(values):
            made = reasoning.fusion.fields(torch.from_numpy(np.stack(targets)).to(reasoning.segmenter.device))
            fields = {} if made is None else dict(zip(values, made.cpu().numpy()))
    return dict(zip(values, fused.cpu().numpy())), fields, seen
