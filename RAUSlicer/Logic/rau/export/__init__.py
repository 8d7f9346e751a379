"""Results as files: label maps, segmentations, overlay pictures."""
