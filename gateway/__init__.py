"""The front door: HTTP in, acknowledged records out; queries passed on to the workers."""
