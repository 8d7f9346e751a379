"""How far a result can be trusted, without the truth: evidence, structural priors, expected Dice, slices to review."""
