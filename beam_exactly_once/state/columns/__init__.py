"""Accumulators that are numbers, as whole columns: a faster way to what a ``CombineFn`` gives and to the same stored bytes."""
