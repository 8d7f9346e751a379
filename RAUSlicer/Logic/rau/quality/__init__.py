"""How far a result can be trusted, without ground truth."""
