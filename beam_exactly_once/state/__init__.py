"""State that survives a batch: what operators remember of each key, in the checkpoint location.

A commit marker names the complete list of live sections (``state_list``), so output and state move together. Nobody else names
them: to be named is their publish.
"""
