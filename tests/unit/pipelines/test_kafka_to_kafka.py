"""``kafka-to-kafka`` refuses to copy a topic to itself before it asks any broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from beam_exactly_once.pipelines import kafka_to_kafka


@pytest.mark.parametrize(
    "read",
    ["--topics=orders,copy", "--topic-pattern=co.*", '--topics={"copy": [0]}'],
    ids=["by name", "by pattern", "by partition"],
)
def test_an_output_that_is_read_is_refused(read: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--bootstrap-servers=127.0.0.1:1",
        read,
        "--output-topic=copy",
        f"--checkpoint-location={tmp_path}/checkpoint",
    ]
    assert kafka_to_kafka.main(arguments) == 2
    assert "--output-topic=copy is one of the topics that are read (topic" in capsys.readouterr().err
    assert not (tmp_path / "checkpoint").exists()
