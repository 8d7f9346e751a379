"""Which references of the bank fit a target: first by what is known of them, then by their looks.

1. What is known: 2-D or 3-D, modality, colour, body part, the structures wanted. What speaks against an entry is a
   doubt in words; some doubts rule it out (another dimension, none of the structures, the target itself).
2. Looks, coarse: cosine of the mean descriptors of all slices, over the whole bank at once.
3. Looks, fine, of the best `SHORTLIST`: mean cosine of the slices aligned in monotone order
   (`rau.references.retrieval.align`, as in the run itself). That, times the share of the wanted structures that the
   entry shows, is the score.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rau.bank.bank import Bank, Tell
from rau.bank.descriptors import encoder_key, mean_of, means, slice_descriptors, volume_descriptors
from rau.bank.entry import Entry
from rau.bank.files import image_hash
from rau.bank.shelf import thin_axis
from rau.errors import InputError
from rau.references.reference import Reference
from rau.references.retrieval import align, cosines
from rau.settings import BANK_REFERENCES, SegmentSettings
from rau.volume.orientation import canonical_geometry, orientation_of
from rau.volume.volume import Volume

if TYPE_CHECKING:
    from rau.models.engine import Engine

log = logging.getLogger(__name__)
OnMismatch = Literal["refuse", "warn"]
SHORTLIST = 12  # entries that are aligned slice by slice
LEAST = 0.7  # similarity under which a match is poor: of Benchmarks/retrieval.py
NEAREST = 3  # entries that have to agree on what an untold target is: of Benchmarks/retrieval.py
HINT = "Name entries with --bank-ids, use --bank-mismatch warn, or give a --reference"


@dataclass(frozen=True)
class Candidate:
    """An entry and what speaks for and against it. score: 0 to 1, only to be compared within one search.

    similarity: mean cosine of the aligned slices; None when the model has no encoder, or it was not looked at.
    shows: the wanted structures that it has. doubts: what speaks against it, in words. out: whether that rules it out.
    """

    entry: Entry
    shows: tuple[str, ...] = ()
    share: float = 1.0
    doubts: tuple[str, ...] = ()
    out: bool = False
    similarity: float | None = None
    named: bool = False

    @property
    def score(self) -> float:
        return self.share * (1.0 if self.similarity is None else max(0.0, self.similarity))

    @property
    def reason(self) -> str:
        """Why it was chosen, or why not, in words."""
        said = ["named by the user"] if self.named else []
        if self.similarity is not None:
            said.append(f"similarity {self.similarity:.2f}")
        if self.entry.modality:
            said.append(self.entry.modality)
        more = f" and {len(self.shows) - 5} more" if len(self.shows) > 5 else ""
        said += [f"shows {', '.join(self.shows[:5])}{more}"] if self.shows else []
        return "; ".join([*said, *self.doubts])

    def report(self) -> dict[str, Any]:
        """For the provenance of a run."""
        similarity = None if self.similarity is None else round(self.similarity, 4)
        told = {"id": self.entry.id, "score": round(self.score, 4), "similarity": similarity, "reason": self.reason}
        return {**told, "doubts": list(self.doubts)}


@dataclass(frozen=True)
class Pick:
    """What was taken from the bank. references and chosen go together; refused: those left out for their doubts."""

    references: tuple[Reference, ...]
    chosen: tuple[Candidate, ...]
    refused: tuple[Candidate, ...] = ()

    def report(self) -> dict[str, Any]:
        return {"used": [one.report() for one in self.chosen], "refused": [one.report() for one in self.refused[:5]]}


def pick(
    bank: Bank,
    target: Volume,
    engine: Engine,
    settings: SegmentSettings | None = None,
    *,
    count: int = BANK_REFERENCES,
    ids: Sequence[str] = (),
    on_mismatch: OnMismatch = "warn",
    body_part: str = "",
    leave_out: Collection[str] = (),
    tell: Tell = log.warning,
) -> Pick:
    """The references of the bank to segment `target` with: the best `count`, or those of `ids`.

    settings: structures and prompt say what is wanted. on_mismatch: an entry of another modality, body part or colour,
    or one that looks little like the target, is not taken ("refuse"), or only where no other is there or shows a wanted
    structure, and told ("warn"). Entries that are named are taken whatever speaks against them, and told. leave_out:
    ids never taken. Raises InputError: nothing fits (with the reason of the best that did not), an id that is none, a
    damaged entry that was named.
    """
    settings = settings or SegmentSettings()
    if ids:
        named = [replace(one, named=True) for one in _named(bank, target, engine, settings, ids, body_part)]
        _tell_doubts(named, tell)
        return Pick(tuple(bank.reference(one.entry.id) for one in named), tuple(named))
    most = max(SHORTLIST, 2 * count)
    ranked = rank(bank, target, engine, settings, body_part=body_part, leave_out=leave_out, most=most, tell=tell)
    usable = [one for one in ranked if not one.out and (on_mismatch == "warn" or not one.doubts)]
    chosen, references = _readable(bank, usable, count, settings, tell)
    taken = {one.entry.id for one in chosen}
    refused = [one for one in ranked if one.doubts and one.entry.id not in taken]
    if not chosen:
        why = f": {refused[0].entry.label} ({refused[0].reason})" if refused else ""
        raise InputError(f"No reference of the bank fits the target{why}", HINT)
    _tell_doubts(chosen, tell)
    return Pick(tuple(references), tuple(chosen), tuple(refused))


def rank(
    bank: Bank,
    target: Volume,
    engine: Engine,
    settings: SegmentSettings | None = None,
    *,
    body_part: str = "",
    leave_out: Collection[str] = (),
    most: int = SHORTLIST,
    tell: Tell = log.warning,
) -> list[Candidate]:
    """The entries that look most like the target, the best first: those without a doubt, those with some; then those
    that are ruled out. Of several entries of one image the latest is taken (a correction follows the one it corrects).

    most: how many are looked at closely. Without an encoder in the model all come back, the latest first. Raises
    InputError when the bank cannot be read.
    """
    settings = settings or SegmentSettings()
    shelf = bank.shelf(tell, leave_out)
    own = image_hash(target.array, target.geometry)
    kinds = [judged(one, target, settings, body_part) for one in shelf.examples]
    itself = shelf.of_image.get(own)

    def known(place: int) -> Candidate:
        entry = shelf.entries[place]
        if place == itself:
            return judged(entry, target, settings, body_part, own)
        return replace(kinds[shelf.kinds[place]], entry=entry)

    out = np.array([one.out for one in kinds], bool)[shelf.kinds] if kinds else np.zeros(0, bool)
    if itself is not None:
        out[itself] = True
    within = np.flatnonzero(~out)
    of_kind = shelf.kinds[within]
    shares = np.array([one.share for one in kinds])[of_kind] if kinds else np.zeros(0)
    doubtful = np.array([bool(one.doubts) for one in kinds], bool)[of_kind] if kinds else np.zeros(0, bool)
    entries = [shelf.entries[place] for place in within]
    found = _by_looks(
        bank, target, engine, Usable(entries, shares, doubtful, lambda k: known(int(within[k]))), most, tell
    )
    ranked = best_first(found) if target.modality else doubted_by_looks(best_first(found))
    return ranked + [known(k) for k in np.flatnonzero(out).tolist()]


@dataclass(frozen=True)
class Usable:
    """N entries that are not ruled out. shares, doubtful: (N,), as of `Candidate`; candidate: of a place."""

    entries: Sequence[Entry]
    shares: np.ndarray
    doubtful: np.ndarray
    candidate: Callable[[int], Candidate]


def judged(entry: Entry, target: Volume, settings: SegmentSettings, body_part: str = "", own: str = "") -> Candidate:
    """What is known of an entry held against what is known of the target. own: the target's `image_hash`."""
    doubts, flat = [], min(target.geometry.shape) == 1
    shows, share = wanted_in(entry, settings)
    if entry.flat != flat:
        doubts.append(f"is {'2-D' if entry.flat else '3-D'}, the target {'2-D' if flat else '3-D'}")
    elif flat and thin_axis(entry.geometry) != thin_axis(target.geometry):
        doubts.append("lies in another plane")
    if entry.image == own:
        doubts.append("is the target itself")
    if not shows:
        doubts.append("shows none of the structures wanted")
    out = bool(doubts)
    if entry.modality and target.modality and entry.modality != target.modality:
        doubts.append(f"is {entry.modality}, the target {target.modality}")
    if entry.colour != target.is_colour:
        doubts.append(f"is {'in colour' if entry.colour else 'grey'}, the target is not")
    if body_part and entry.body_part and body_part.strip().lower() != entry.body_part.strip().lower():
        doubts.append(f"shows {entry.body_part}, not {body_part}")
    return Candidate(entry, shows, share, tuple(doubts), out)


def wanted_in(entry: Entry, settings: SegmentSettings) -> tuple[tuple[str, ...], float]:
    """The wanted structures that an entry shows, and their share of all wanted; all of its own when none is named."""
    names = entry.names
    if not settings.structures and not settings.prompt:
        return names, 1.0
    by_name = {name.strip().lower(): name for name in names}
    if settings.structures:
        wanted = {name.strip().lower() for name in settings.structures}
        shown = tuple(by_name[name] for name in by_name if name in wanted)
        return shown, len(shown) / max(1, len(wanted))
    text = settings.prompt.lower()
    shown = tuple(by_name[n] for n in by_name if n and re.search(rf"(?<!\w){re.escape(n)}(?!\w)", text))
    return shown, float(bool(shown))


def _by_looks(bank: Bank, target: Volume, engine: Engine, known: Usable, most: int, tell: Tell) -> list[Candidate]:
    """The `most` that look most like the target by their means, each with the similarity of its aligned slices."""
    if not known.entries or not encoder_key(engine):
        return [known.candidate(place) for place in range(len(known.entries))]
    from rau.preparation import slice_axis

    grid = canonical_geometry(target.geometry, orientation_of(target.geometry))
    axis = slice_axis(grid)
    usable, rows, vectors = means(bank, known.entries, engine, axis, tell)
    if not len(usable):
        return []
    described = volume_descriptors(engine, target, axis)
    weighed = (vectors @ mean_of(described))[rows] * known.shares[usable]
    found = []
    for k in usable[np.lexsort((-weighed, known.doubtful[usable]))[:most]].tolist():
        try:
            found.append(looked_at(bank, known.candidate(k), described, grid.spacing[axis], engine, axis))
        except InputError as problem:
            tell(f"{problem.message}: passed over")
    return found


def modality_by_looks(ranked: Sequence[Candidate]) -> str:
    """What an untold target is: the modality of the NEAREST that look most alike, where they agree; else "".

    ranked: the best first; entries whose modality is not known or that were not looked at say nothing.
    """
    told = [one.entry.modality for one in ranked if one.entry.modality and one.similarity is not None][:NEAREST]
    return told[0] if len(told) == NEAREST and len(set(told)) == 1 else ""


def doubted_by_looks(ranked: Sequence[Candidate]) -> list[Candidate]:
    """With a doubt about each that is of another modality than the target looks like; the best first again."""
    guess = modality_by_looks(ranked)
    found = []
    for one in ranked:
        other = bool(guess and one.entry.modality) and one.entry.modality != guess
        doubt = (f"is {one.entry.modality}, the target looks like {guess}",) if other else ()
        found.append(replace(one, doubts=(*one.doubts, *doubt)))
    return best_first(found)


def best_first(found: Sequence[Candidate]) -> list[Candidate]:
    """Those without a doubt, then those with some, each by score."""
    return sorted(found, key=lambda one: (bool(one.doubts), -one.score))


def looked_at(
    bank: Bank, one: Candidate, described: np.ndarray, thickness: float, engine: Engine, axis: int
) -> Candidate:
    """With its similarity to the target's slices. described: (T, D); thickness: mm from one to the next of them."""
    entry = one.entry
    grid = canonical_geometry(entry.geometry, orientation_of(entry.geometry))
    vectors = slice_descriptors(bank, entry, engine, axis)
    similarity = align(cosines(described, vectors), thickness / grid.spacing[axis]).mean
    poor = (f"looks little like the target ({similarity:.2f})",) if similarity < LEAST else ()
    return replace(one, similarity=similarity, doubts=(*one.doubts, *poor))


def _named(
    bank: Bank, target: Volume, engine: Engine, settings: SegmentSettings, ids: Sequence[str], body_part: str
) -> list[Candidate]:
    known = [judged(bank.show(one), target, settings, body_part) for one in dict.fromkeys(ids)]
    entries, alike = [one.entry for one in known], np.ones(len(known))
    usable = Usable(entries, alike, np.zeros(len(known), bool), lambda place: known[place])
    looked = {one.entry.id: one for one in _by_looks(bank, target, engine, usable, len(known), lambda _: None)}
    return [looked.get(one.entry.id, one) for one in known]


def _readable(
    bank: Bank, usable: Sequence[Candidate], count: int, settings: SegmentSettings, tell: Tell
) -> tuple[list[Candidate], list[Reference]]:
    """The first `count` that can be read; while none of them shows a wanted structure, one that does goes before.

    Doubtful ones are taken for such a structure, or where there are no others.
    """
    wanted = {name.strip().lower() for name in settings.structures}
    left = list(usable)
    chosen: list[Candidate] = []
    references: list[Reference] = []
    while left and len(chosen) < count:
        missing = wanted - {name.strip().lower() for one in chosen for name in one.shows}
        adds = next((one for one in left if missing & {name.strip().lower() for name in one.shows}), None)
        best = adds or left[0]
        if best.doubts and adds is None and any(not one.doubts for one in chosen):
            break
        left.remove(best)
        try:
            references.append(bank.reference(best.entry.id))
            chosen.append(best)
        except InputError as problem:
            tell(f"{problem.message}: passed over")
    return chosen, references


def _tell_doubts(chosen: Sequence[Candidate], tell: Tell) -> None:
    for one in chosen:
        if one.doubts:
            tell(f"The reference {one.entry.label} of the bank {' and '.join(one.doubts)}: check the result")
