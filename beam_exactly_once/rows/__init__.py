"""Rows of any kind as Arrow columns, under their shards, with those put aside that do not fit."""
