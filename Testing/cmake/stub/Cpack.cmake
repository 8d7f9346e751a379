# Packaging belongs to the real Slicer build.
