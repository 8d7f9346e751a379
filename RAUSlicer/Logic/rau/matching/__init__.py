"""Boxes and structures assigned to each other, all at once."""
