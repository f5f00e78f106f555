"""The flags of ready-made pipelines: the arguments of a stream, its source and its sinks, by their own names."""
