"""Pipelines that are killed, and what is counted afterwards: of this library, and of two older designs."""
