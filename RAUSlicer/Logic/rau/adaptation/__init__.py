"""Adaptation at the moment of use: a small expert that is trained on the given references alone, in about a second."""
