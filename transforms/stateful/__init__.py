"""Transforms that remember: steps on keyed collections whose state lives in the checkpoint location."""
