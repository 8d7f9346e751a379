"""Presets, the model store with its checksums, and the engine that keeps models loaded."""
