"""Masks of single slices to one label map in the target's grid."""
