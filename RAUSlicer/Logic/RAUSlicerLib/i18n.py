"""`tr` of Slicer where there is one; the text itself elsewhere."""

from __future__ import annotations

from typing import Callable


def _same(text: str) -> str:
    return text


try:
    from slicer.i18n import tr as _slicer_tr
except ImportError:
    _slicer_tr = _same

tr: Callable[[str], str] = _slicer_tr
