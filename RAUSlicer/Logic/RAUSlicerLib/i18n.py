"""`tr` of Slicer where there is one; the text itself elsewhere."""

from __future__ import annotations

from typing import Callable

tr: Callable[[str], str]

try:
    from slicer.i18n import tr
except ImportError:

    def tr(text: str) -> str:
        return text
