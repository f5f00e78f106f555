"""Exactly-once streams from Kafka for Apache Beam, without a JVM, a receiver or a consumer group.

Where to begin: :mod:`beam_exactly_once.pipelines` has the stream and its triggers, :mod:`beam_exactly_once.transforms`
the sources and sinks, :mod:`beam_exactly_once.testing` a kit to test streams of your own. This package itself imports
nothing of them, so that each command loads only what it uses.
"""

from pathlib import Path as _Path

# In a checkout, two subpackages stand beside this folder; only an installation puts them into it. `python -m` in the
# root of a clone finds this folder first, and must find them, too.
_root = _Path(__file__).parent.parent
if (_root / "setup.cfg").is_file() and (_root / "transforms" / "stream_graph.py").is_file():
    __path__.append(str(_root))
