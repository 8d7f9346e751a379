"""Modules that exist only once the host has been started."""

from __future__ import annotations

import importlib
from typing import Any


def slicer() -> Any:
    return importlib.import_module("slicer")


def qt() -> Any:
    return importlib.import_module("qt")


def vtk() -> Any:
    return importlib.import_module("vtk")


def module(name: str) -> Any:
    """A module file that the host has loaded."""
    return importlib.import_module(name)
