"""Streams, their triggers, and ready-made pipelines. Names are in :mod:`beam_exactly_once`."""
