"""Sinks: how a committed batch becomes visible, once, in files, tables, topics and user code. No Beam."""
