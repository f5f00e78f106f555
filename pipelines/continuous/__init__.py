"""Streams as one unbounded pipeline, and the driver that watches over it."""
