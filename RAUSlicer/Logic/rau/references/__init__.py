"""Annotated volumes: what they are, how their slices are described, found again and remembered."""
