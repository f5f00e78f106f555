"""Exactly-once streams from Kafka for Apache Beam, without a JVM, a receiver or a consumer group.

Where to begin: :mod:`beam_exactly_once.pipelines` has the stream and its triggers, :mod:`beam_exactly_once.transforms`
the sources and sinks, :mod:`beam_exactly_once.testing` a kit to test streams of your own. This package itself imports
nothing of them, so that each command loads only what it uses.
"""

from pathlib import Path as _Path

# In a checkout, two subpackages stand beside this folder, and links lead to them, for tools as for `python -m` in the root of a
# clone. Where Git made no links, as on Windows, they are found so. An installation has them here.
_here = _Path(__file__).parent
if not (_here / "transforms").is_dir() and (_here.parent / "transforms" / "stream_graph.py").is_file():
    __path__.append(str(_here.parent))
