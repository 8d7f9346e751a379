"""References: annotated volumes, their slice descriptors and retrieval."""
