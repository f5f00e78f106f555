"""An Airflow DAG: every ten minutes read what Kafka has by then, write it exactly once, stop.

The exit code of the driver decides what Airflow does. A retry, a cleared task and a second run of the same hour are all
safe: a run goes on from the checkpoint, and an older one that still runs stops by itself.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

COMMAND = [
    sys.executable,
    *("-m", "beam_exactly_once.pipelines.kafka_to_files"),
    "--bootstrap-servers=kafka:9092",
    "--topics=orders",
    "--output-location=s3://lake/orders",
    "--checkpoint-location=s3://checkpoints/orders",
    "--listeners=json_lines=-",
]
FENCED = 3
SOMEBODY_MUST_LOOK = {2: "configuration", 4: "data loss", 5: "checkpoint"}


def act_on(code: int) -> None:
    """Raises what makes Airflow skip, fail or retry the task."""
    if code == FENCED:
        raise AirflowSkipException("a newer driver has this stream")
    if code in SOMEBODY_MUST_LOOK:
        raise AirflowFailException(f"{SOMEBODY_MUST_LOOK[code]}: the last line of the log says what to do")
    if code:
        raise AirflowException(f"exit code {code}: the same command is started again")


@dag(schedule="*/10 * * * *", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1)
def orders_to_lake() -> None:
    """One task: the driver in a process of its own."""

    @task(retries=5, retry_delay=timedelta(seconds=30), retry_exponential_backoff=True)
    def run() -> None:
        act_on(subprocess.run(COMMAND, check=False).returncode)

    run()


orders_to_lake()
