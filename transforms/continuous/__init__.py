"""A stream as one unbounded pipeline: the step that plans, the window that is a batch, bundles that are of one batch."""
