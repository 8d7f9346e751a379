"""Parts of the training mixture, so that what each of them gives can be measured."""

from __future__ import annotations

import copy
from typing import Any

from rau.errors import InputError
from rau.training.data import Mixture, Source

PARTS = ("anatomies", "labelmaps", "real")


def parts_of(text: str) -> frozenset[str]:
    """ "all", or parts with commas between them. Raises InputError."""
    chosen = [part.strip() for part in text.split(",") if part.strip()]
    if chosen == ["all"]:
        return frozenset(PARTS)
    if not chosen or set(chosen) - set(PARTS):
        raise InputError(f"{text!r} are no parts of the mixture", f"Give all, or some of {', '.join(PARTS)}")
    return frozenset(chosen)


def portion(source: Source, parts: frozenset[str]) -> Source | None:
    """What the parts leave of a source; None: nothing.

    Sources without the attribute `real` (chance of real pictures) are random anatomies. Of the others, `labelmaps`
    alone renders every picture, `real` alone takes real ones only.
    """
    real = getattr(source, "real", None)
    if real is None:
        return source if "anatomies" in parts else None
    if {"labelmaps", "real"} <= parts:
        return source
    if "labelmaps" in parts:
        return with_real(source, 0.0)
    return with_real(source, 1.0) if "real" in parts and real > 0 else None


def with_real(source: Source, chance: float) -> Source:
    """A copy that shares the patients."""
    made: Any = copy.copy(source)
    made.real = chance
    return made


def filtered(mixture: Mixture, parts: frozenset[str]) -> Mixture:
    """The mixture of these parts, shares in the same proportions. Raises InputError where nothing is left."""
    kept = [(name, share, portion(source, parts)) for name, share, source in mixture.sources]
    sources = tuple((name, share, source) for name, share, source in kept if source is not None)
    if not sources:
        raise InputError("Nothing is left to train on", "Give --data, or more parts of the mixture")
    return Mixture(sources)
