"""Sections of state kept on this machine, where the next batch finds them. Nothing depends on it."""
