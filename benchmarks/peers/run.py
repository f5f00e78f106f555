"""The same job by this library and by its peers: Kafka, JSON, Parquet files.

    python benchmarks/peers/run.py [--records 1000000] [--rounds 3] [--peers bytewax pyspark] [--json] [--write]

Every way is a program of its own in programs/, set up as the peer's documentation shows, in an environment of its own: made at
first use below ~/.cache/beam_exactly_once/peers, or $BEAM_EXACTLY_ONCE_PEERS_CACHE. Kafka is the one of --bootstrap-servers or
$KAFKA_BOOTSTRAP_SERVERS, or else started for it, as tests/services/run.py does.

Each way reads one topic from its beginning to its end, as a whole process, in turn, round after round. A second, small topic
shows what the process costs before it reads much: figures by record leave that out. What was written is compared with what was
sent, value by value, after every run. With --write the table and the picture go into docs/.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # not this folder: peers.<module>, as programs of other folders import it

from peers.environments import CannotPrepare, python_of, variables, with_kafka  # noqa: E402
from peers.measuring import ProgramFailed, run_measured  # noqa: E402
from peers.report import Sample, document, figures_of, table  # noqa: E402
from peers.rows import WrongRows, count_repeated, fill  # noqa: E402
from peers.ways import HERE, WAYS, Way  # noqa: E402

FEW = 1_000
"""Records of the small topic."""
TIMEOUT_S = 900.0


def measure(way: Way, bootstrap_servers: str, topic: str, records: int) -> Sample:
    """One run of a way, checked by value.

    Raises:
        CannotPrepare: its environment cannot be made.
        ProgramFailed: it did not end well.
        WrongRows: records are missing from what it wrote, or changed.
    """
    # Without other letters than these: Quix refuses some in the name of a folder.
    with tempfile.TemporaryDirectory(prefix="peers") as folder:
        command = [str(python_of(way.environment)), str(Path(__file__).parent / "programs" / f"{way.program}.py")]
        command += [bootstrap_servers, topic, str(records), secrets.token_hex(8), *([way.parser] if way.parser else [])]
        run = run_measured(command, Path(folder), variables(way.environment), TIMEOUT_S)
        return Sample(**vars(run), repeated=count_repeated(Path(folder, "output"), records))


def compare(
    ways: Sequence[Way], bootstrap_servers: str, records: int, rounds: int
) -> dict[Way, list[tuple[Sample, Sample]]]:
    """What each way cost in each round: with the small topic, and with all records."""
    run = secrets.token_hex(4)
    few, many = f"peers-few-{run}", f"peers-many-{run}"
    fill(bootstrap_servers, few, FEW)
    fill(bootstrap_servers, many, records)
    ways = [way for way in ways if _runs(way, bootstrap_servers, few)]
    samples: dict[Way, list[tuple[Sample, Sample]]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in ways:
            pair = measure(way, bootstrap_servers, few, FEW), measure(way, bootstrap_servers, many, records)
            samples[way].append(pair)
            print(
                f"round {number + 1}: {way.title}: {pair[1].seconds:.1f} s, {pair[1].cpu_seconds:.1f} s of CPU",
                file=sys.stderr,
            )
    return samples


def _runs(way: Way, bootstrap_servers: str, few: str) -> bool:
    """Whether a peer runs on this machine; its first run compiles, and Spark's downloads. This library must."""
    try:
        measure(way, bootstrap_servers, few, FEW)
    except (CannotPrepare, ProgramFailed) as error:
        if way.environment is HERE:
            raise
        print(f"left out: {way.title}: {error}", file=sys.stderr)
        return False
    return True


def main(argv: Sequence[str]) -> int:
    """Compare, print, and write if asked to."""
    flags = _flags(argv)
    bootstrap_servers = flags.bootstrap_servers or os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if bootstrap_servers is None:
        return with_kafka([__file__, *argv])
    ways = [
        way for way in WAYS if way.environment is HERE or flags.peers is None or way.environment.name in flags.peers
    ]
    try:
        samples = compare(ways, bootstrap_servers, flags.records, flags.rounds)
    except (CannotPrepare, ProgramFailed, WrongRows) as error:
        print(error, file=sys.stderr)
        return 1
    figures = figures_of(samples, FEW, flags.records)
    print("\n".join(table(figures)))
    if flags.json:
        print(json.dumps({"records": flags.records, "rounds": flags.rounds, "ways": [vars(one) for one in figures]}))
    if flags.write:
        peers = ["--peers", *flags.peers] if flags.peers is not None else []
        words = ["--records", str(flags.records), "--rounds", str(flags.rounds), *peers, "--write"]
        document(figures, " ".join(["python benchmarks/peers/run.py", *words]))
    return 0


def _flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap-servers")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    names = sorted({way.environment.name for way in WAYS} - {HERE.name})
    parser.add_argument(
        "--peers", nargs="*", choices=names, help="besides this library and the raw loop; all of them if not given"
    )
    parser.add_argument("--json", action="store_true", help="one JSON line at the end")
    parser.add_argument("--write", action="store_true", help="into docs/performance.md and docs/peers.svg")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
