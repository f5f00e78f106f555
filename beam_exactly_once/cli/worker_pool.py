"""``beam-exactly-once worker-pool``: Python workers for the task managers of a Flink cluster."""

from __future__ import annotations

import signal
import threading

import click


@click.command("worker-pool", short_help="Start Python workers for a runner, at once.")
@click.option("--port", type=click.IntRange(0, 65535), required=True, help="Where task managers ask for workers.")
@click.option(
    "--host",
    default="localhost",
    show_default=True,
    help="Whom it listens to; 0.0.0.0 is everybody, who may run code here.",
)
@click.option("--preload", "modules", multiple=True, metavar="MODULE", help="What your steps import. Repeatable.")
def worker_pool(port: int, host: str, modules: tuple[str, ...]) -> None:
    """Serve Beam's service of external workers: --environment_type=EXTERNAL --environment_config=HOST:PORT.

    Workers are forked from a process that has imported Beam, this library and each MODULE, so they are there at once. What was
    imported is imported anew when its files change. Workers have the environment variables of the pool. It ends at SIGTERM or
    SIGINT, and so do its workers, also if it is killed.
    """
    from beam_exactly_once.pipelines.worker_pool.pool import running_worker_pool

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with running_worker_pool(host, port, modules) as found:
        click.echo(f"workers at {host}:{found}")
        stop.wait()
