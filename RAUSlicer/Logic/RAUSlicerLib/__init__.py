"""The Slicer side of RAUSlicer: nodes and arrays, the worker process, the state of a run.

Imports nothing but Python, numpy and what Slicer brings; `protocol`, `environment`, `worker_client`, `exchange`, `run`
and `wording` do without Slicer as well.
"""
