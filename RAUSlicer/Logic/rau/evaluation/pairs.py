"""Which reference goes with which target in a set: a fixed rule, never one subject on both sides.

Every case is a target once. Its reference is the case of another subject, of the same task or body site, whose
structures agree most with the target's (shared over all, by name); among equals the nearest one before it in the order
of names, round the end of the list. So where every case shows the same structures, case k is the reference of k + 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rau.evaluation.datasets import Case

MINIMUM_SHARED = {"imis_btcv_2d": 3}  # slices at arbitrary levels: fewer shared organs make no question


@dataclass(frozen=True)
class Pair:
    """image: another image of the same case as target (a second channel); "" for the usual one."""

    reference: Case
    target: Case
    image: str = ""

    @property
    def label(self) -> str:
        return f"{self.reference.name} -> {self.target.name}" + (f" ({self.image})" if self.image else "")


def chain(cases: Sequence[Case], count: int) -> list[Pair]:
    """Case k -> case k + 1, the first `count` of them, round the end of the list."""
    following = zip(cases, [*cases[1:], *cases[:1]], strict=True)
    return [Pair(one, other) for one, other in following if one.name != other.name][:count]


def pairs_of(cases: Sequence[Case], names: Mapping[str, frozenset[str]] | None = None) -> list[Pair]:
    """The pairs of a set by the rule above. names: structures that each case shows; read from its label map if None."""
    shown = names or {case.name: shown_structures(case) for case in cases}
    if len(cases) == 1 and (cases[0].folder / "image_t1c.nii.gz").is_file():
        return [Pair(cases[0], cases[0], "image_t1c")]
    found = []
    for place, target in enumerate(cases):
        before = [cases[(place - step) % len(cases)] for step in range(1, len(cases))]
        allowed = [case for case in before if _allowed(case, target, shown)]
        if allowed:
            best = max(allowed, key=lambda case: _agreement(shown[case.name], shown[target.name]))
            found.append(Pair(best, target))
    return found


def shown_structures(case: Case) -> frozenset[str]:
    """Names of the structures in the label map."""
    return frozenset(one.name for one in case.read_labels().structures)


def group(case: Case) -> str:
    """Only cases of one group are paired: the task, else the body site."""
    return str(case.info.get("task", case.info.get("site", "")))


def _allowed(reference: Case, target: Case, shown: Mapping[str, frozenset[str]]) -> bool:
    roles = (reference.info.get("role", "reference"), target.info.get("role", "target"))
    shared = len(shown[reference.name] & shown[target.name])
    return (
        reference.subject != target.subject
        and group(reference) == group(target)
        and roles == ("reference", "target")
        and shared >= MINIMUM_SHARED.get(target.set, 1)
    )


def _agreement(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other)
