"""SAM2 as the reference-to-target segmenter: the `sam2` package's own classes, configured by a preset."""
