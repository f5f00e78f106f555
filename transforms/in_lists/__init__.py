"""Rows that travel in lists, where functions are called one after the other."""
