"""What flows: schemas, topics, codecs, settings and the batch transport. Imports nothing, so that a client stays light."""
