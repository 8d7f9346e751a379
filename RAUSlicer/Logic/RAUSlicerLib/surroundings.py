"""The environment variables that Slicer itself was started with: what other programs are to see."""

from __future__ import annotations

import os

import slicer


def surroundings() -> dict[str, str]:
    """Slicer's own without what its launcher put in; RAU_ variables as they are now."""
    try:
        base = dict(slicer.util.startupEnvironment())
    except AttributeError:  # no launcher: an application without one
        base = dict(os.environ)
    return {**base, **{name: value for name, value in os.environ.items() if name.startswith("RAU_")}}
