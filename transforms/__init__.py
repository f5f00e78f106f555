"""Beam transforms: read Kafka, write exactly once. Their names are in :mod:`beam_exactly_once`."""
