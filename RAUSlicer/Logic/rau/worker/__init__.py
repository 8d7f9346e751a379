"""The worker: a process that segments for the panel, over its standard streams (`protocol`, `process`)."""
