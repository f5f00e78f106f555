"""Windows of event time: what falls into which, and what is remembered of each. Without Beam."""
