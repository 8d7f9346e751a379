"""Training of the bundled models. Nothing here is needed to segment."""
