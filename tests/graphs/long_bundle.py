"""A program: a stream whose bundles last longer than Beam's worker threads wait until they send what they have.

    python tests/graphs/long_bundle.py one_thread

Prints what was published, as JSON. A program of its own, since what is read behind half an element may be anything, and
Beam's reader then holds the interpreter for ever.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # not this folder: its names are its own

import apache_beam as beam  # noqa: E402

from graphs.known_streams import NumberStream, number_stream  # noqa: E402
from graphs.steps import SlowCoder, SlowToEncode, product_of_pair, slow_pair  # noqa: E402

ENCODING_TAKES_S = 1.2
"""Beam's threads send after a second."""


def build(numbers: beam.PCollection[int], to: NumberStream) -> None:
    pairs = numbers | "Pair" >> beam.Map(slow_pair).with_output_types(tuple[int, SlowToEncode])
    to.write(pairs | beam.Reshuffle() | beam.Map(product_of_pair))


def main(runner: str) -> None:
    SlowCoder.waits_s = ENCODING_TAKES_S
    with number_stream(runner) as stream:
        stream.send([1, 2])
        stream.start(build)
        print(json.dumps(stream.published()))


if __name__ == "__main__":
    main(sys.argv[1])
