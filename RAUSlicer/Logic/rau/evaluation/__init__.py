"""Metrics, evaluation sets and their tables."""
