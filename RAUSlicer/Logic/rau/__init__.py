"""RAUSlicer's engine: segment a target volume from annotated reference volumes.

Never imports slicer, qt or vtk. Heavy packages (torch, transformers, sam2) are imported inside the functions that
need them, so `import rau` and `rau --help` stay fast.
"""

__version__ = "0.1.0"
