"""Which job servers are started as those that stage nothing, and what the log says of others."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import pytest

from beam_exactly_once.pipelines.runners.unstaged_jars import LOADER, without_staging

DEPLOY = Path(__file__).parents[3] / "deploy"


def command_of(jar: Path) -> list[str]:
    return ["/usr/bin/java", "-Dusers=1", "-jar", str(jar), "--flink-master", "http://flink:8081"]


def jar_with(folder: Path, *names: str) -> Path:
    path = folder / "job-server.jar"
    with zipfile.ZipFile(path, "w") as jar:
        for name in names:
            jar.writestr(name, b"")
    return path


def test_the_job_server_of_this_library_gets_its_class_loader(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    command = command_of(jar_with(tmp_path, f"{LOADER}.class"))
    java, *options, users, _, _, _, _ = without_staging(command, is_local=False)
    assert [java, users] == command[:2], "what users set comes last, and holds"
    assert options[0] == f"-Djava.system.class.loader={LOADER}"
    assert without_staging(command, is_local=False)[len(options) + 1 :] == command[1:]
    assert caplog.messages == []


def test_any_other_stays_as_it_is_and_the_log_says_what_it_costs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jar = jar_with(tmp_path, "org/apache/beam/runners/flink/FlinkJobServerDriver.class")
    with caplog.at_level(logging.WARNING):
        assert without_staging(command_of(jar), is_local=False) == command_of(jar)
    (line,) = caplog.messages
    assert str(jar) in line
    assert "deploy/README.md" in line
    assert "\n## A fast batch\n" in (DEPLOY / "README.md").read_text()


@pytest.mark.parametrize("content", [None, b"no jar"])
def test_what_is_no_jar_is_left_to_java(tmp_path: Path, content: bytes | None) -> None:
    jar = tmp_path / "job-server.jar"
    if content is not None:
        jar.write_bytes(content)
    assert without_staging(command_of(jar), is_local=False) == command_of(jar)


def test_a_flink_inside_the_job_server_is_sent_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    jar = jar_with(tmp_path, "org/apache/beam/runners/flink/FlinkJobServerDriver.class")
    assert without_staging(command_of(jar), is_local=True) == command_of(jar)
    assert caplog.messages == []


def test_the_class_loader_has_the_name_that_is_looked_for() -> None:
    assert f"public final class {LOADER} extends URLClassLoader" in (DEPLOY / "flink" / f"{LOADER}.java").read_text()
