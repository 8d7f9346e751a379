"""The closer look: small structures are visited again in crops of the original pixels (papers.md C3)."""
