"""How offset ranges of a log are read in a graph: one splittable DoFn, and what travels to it and from it."""
