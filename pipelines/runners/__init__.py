"""Beam's runners, as a stream runs its one graph on them again and again."""
