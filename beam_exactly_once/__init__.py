"""Exactly-once streams from Kafka for Apache Beam, without a JVM, a receiver or a consumer group.

Where to begin: :mod:`beam_exactly_once.pipelines` has the stream and its triggers, :mod:`beam_exactly_once.transforms`
the sources and sinks, :mod:`beam_exactly_once.testing` a kit to test streams of your own. This package itself imports
nothing, so that each command loads only what it uses.
"""
