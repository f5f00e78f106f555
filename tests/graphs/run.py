"""Random graphs until one goes wrong, or as many as are asked for.

    python tests/graphs/run.py --graphs 100 --seed 1
    python tests/graphs/run.py --one 17 --shrink
    python tests/graphs/run.py --graphs 20 --runner processes --without deferred,timers
    python tests/services/run.py prism -- python tests/graphs/run.py --graphs 20 --runner prism

Each seed is one graph and the starts of its stream. Exits with 1 if a sink has other rows than the same graph in plain
Python, or if a start fails. Graphs that are refused because their steps wait for each other are counted.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # not this folder: its names are its own

from graphs.checking import Outcome, outcome_of  # noqa: E402
from graphs.drawing import story as drawn  # noqa: E402
from graphs.evaluation import KINDS  # noqa: E402
from graphs.model import Story  # noqa: E402
from graphs.runners import RUNNERS, Runner, flink, prism  # noqa: E402
from graphs.shrinking import smallest  # noqa: E402

VARIABLES = {"prism": "PRISM_LOCATION", "flink": "FLINK_JOB_ENDPOINT"}
"""Where another program is."""
MAX_TEXT_LETTERS = 1500


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=100, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="the first; others count up from it")
    parser.add_argument("--one", type=int, metavar="SEED", help="this one only, and print it")
    parser.add_argument("--max_nodes", type=int, default=9, help="most steps of a graph")
    parser.add_argument("--runner", choices=[*RUNNERS, "prism", "flink"], default="in_process")
    parser.add_argument("--without", type=_kinds, default=(), metavar="KIND,…", help=", ".join(KINDS))
    parser.add_argument("--shrink", action="store_true", help="make what goes wrong as small as it can be")
    parser.add_argument("--go_on", action="store_true", help="do not end with the first that goes wrong")
    parser.add_argument("--verbose", action="store_true", help="let the stream and Beam log")
    arguments = parser.parse_args(argv)
    variable = VARIABLES.get(arguments.runner)
    if variable is not None and variable not in os.environ:
        parser.error(f"${variable} is not set; see above for the way to run on {arguments.runner}")
    return arguments


def _kinds(names: str) -> tuple[str, ...]:
    unknown = set(names.split(",")) - KINDS.keys()
    if unknown:
        raise argparse.ArgumentTypeError(f"no kinds: {', '.join(sorted(unknown))}")
    return tuple(names.split(","))


def _runner(name: str) -> Runner:
    return {"prism": prism, "flink": flink}[name]() if name in ("prism", "flink") else RUNNERS[name]


def main(argv: Sequence[str]) -> int:
    """Returns the exit code."""
    arguments = _arguments(argv)
    if not arguments.verbose:
        logging.disable(logging.CRITICAL)
    runner = _runner(arguments.runner)
    seeds = [arguments.one] if arguments.one is not None else range(arguments.seed, arguments.seed + arguments.graphs)
    outcomes: Counter[str] = Counter()
    batches, began_s = 0, time.monotonic()
    for count, seed in enumerate(seeds, start=1):
        story = drawn(seed, arguments.without, max_nodes=arguments.max_nodes)
        if arguments.one is not None:
            print(f"seed {seed}:\n{story}", flush=True)
        outcome = outcome_of(story, runner)
        outcomes[outcome.kind] += 1
        batches += outcome.batches
        ms = (time.monotonic() - began_s) * 1000 / count
        _progress(f"{count} graphs, {batches} batches, {ms:.0f} ms a graph, seed {seed}: {outcome.kind}")
        if outcome.is_wrong:
            _tell(seed, story, outcome, runner, shrink=arguments.shrink)
            if not arguments.go_on:
                break
    _progress("")
    print(
        f"{sum(outcomes.values())} graphs, {batches} batches: "
        + ", ".join(f"{n} {what}" for what, n in outcomes.items())
    )
    return int(bool(set(outcomes) - {"right", "refused"}))


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
    elif line:
        print(line, file=sys.stderr, flush=True)


def _tell(seed: int, story: Story, outcome: Outcome, runner: Runner, *, shrink: bool) -> None:
    print(f"\nseed {seed} goes wrong:\n{story}\n{_shortened(outcome)}", flush=True)
    if not shrink:
        return

    def still_fails(smaller: Story) -> bool:
        return outcome_of(smaller, runner).kind == outcome.kind

    story = smallest(story, still_fails, lambda one: _progress(f"smaller: {len(one.graph)} nodes"))
    print(f"\nthe smallest form of seed {seed}:\n{story}\n{_shortened(outcome_of(story, runner))}", flush=True)


def _shortened(outcome: Outcome) -> str:
    text = outcome.text if len(outcome.text) <= MAX_TEXT_LETTERS else f"… {outcome.text[-MAX_TEXT_LETTERS:]}"
    return f"{outcome.kind}: {text}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
