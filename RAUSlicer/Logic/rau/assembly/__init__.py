"""From the slices of one or three planes to one label a voxel."""
