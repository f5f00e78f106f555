"""Rows of two sides that are near each other in event time: which match, and what is remembered of each. Without Beam."""
