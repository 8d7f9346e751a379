"""Measured appearance and position of structures, as JSON and as prose. `describe` is the way in."""

from rau.description.describing import Description, describe

__all__ = ["Description", "describe"]
