"""What ``deploy/`` gives to users is what the tests run and what the library does."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from beam_exactly_once import errors
from beam_exactly_once.pipelines.kafka_to_files import PIPELINE
from services.launch import kafka_broker, minio
from services.streams.flink_streams import cluster_options

DEPLOY = Path(__file__).parents[1] / "deploy"


@pytest.fixture
def services() -> dict[str, Any]:
    composed: dict[str, Any] = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]
    return composed


def test_the_composed_versions_are_those_of_the_tests(services: dict[str, Any]) -> None:
    assert services["kafka"]["image"] == f"apache/kafka:{kafka_broker.KAFKA_VERSION}"
    project = (DEPLOY / "flink" / "pom.xml").read_text()
    (version,) = re.findall(r"<flink.version>(.*)</flink.version>", project)
    (image,) = re.findall(
        r"^FROM (flink:.*) AS cluster$", (DEPLOY / "compose" / "flink.Dockerfile").read_text(), re.MULTILINE
    )
    assert image.startswith(f"flink:{version}.")
    (beam,) = re.findall(r"<beam.version>(.*)</beam.version>", project)
    assert f"on Flink {version} with Beam's job server {beam} and" in (DEPLOY / "README.md").read_text()
    assert f"@{minio.MINIO_VERSION}\n" in (DEPLOY / "compose" / "minio.Dockerfile").read_text()


def test_every_task_manager_has_a_pool_in_its_network(services: dict[str, Any]) -> None:
    managers = {f"service:{name}" for name in services if "taskmanager" in name}
    assert {service.get("network_mode") for name, service in services.items() if "pool" in name} == managers


def options_of_the_guide() -> list[str]:
    guide = (DEPLOY / "README.md").read_text()
    (command,) = re.findall(r"```sh\n(python -m beam_exactly_once\.pipelines\.kafka_to_files .*?)```", guide, re.DOTALL)
    return shlex.split(command.replace("\\\n", " "))[3:]


def test_the_guide_and_the_composed_driver_have_the_options_of_the_tests(services: dict[str, Any]) -> None:
    tested = {option.partition("=")[0]: option for option in cluster_options("-", "-", "-")}
    guide = {option.partition("=")[0]: option for option in options_of_the_guide()}
    assert tested.keys() <= guide.keys()
    for flag in ("--runner", "--environment_type", "--parallelism", "--environment_cache_millis"):
        assert guide[flag] == tested[flag]
        assert tested[flag] in services["driver"]["command"]


def test_the_commands_are_understood(services: dict[str, Any], tmp_path: Path) -> None:
    properties = tmp_path / "kafka.properties"
    properties.write_text("security.protocol=SSL\n")
    cronjob = yaml.safe_load((DEPLOY / "kubernetes" / "cronjob.yaml").read_text())
    (container,) = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    dag = ast.parse((DEPLOY / "airflow" / "orders_to_lake.py").read_text())
    strings = [node.value for node in ast.walk(dag) if isinstance(node, ast.Constant) and str(node.value)[:2] == "--"]
    for command in (options_of_the_guide(), services["driver"]["command"][3:], container["args"][3:], strings):
        here = [re.sub(r"^(--client-config-file)=.*", rf"\1={properties}", flag) for flag in command]
        known, beams = PIPELINE.parser().parse(here)
        assert known["source"]["topics"] == ["orders"]
        assert {option.partition("=")[0] for option in beams if option.startswith("--")} <= {
            "--runner",
            "--flink_master",
            "--flink_job_server_jar",
            "--job_endpoint",
            "--artifact_endpoint",
            "--environment_type",
            "--environment_config",
            "--parallelism",
            "--environment_cache_millis",
        }


def test_schedulers_act_on_the_exit_codes_that_the_library_has() -> None:
    final = {errors.EXIT_CONFIGURATION, errors.EXIT_FENCED, errors.EXIT_DATA_LOSS, errors.EXIT_CHECKPOINT}
    cronjob = yaml.safe_load((DEPLOY / "kubernetes" / "cronjob.yaml").read_text())
    _, by_code = cronjob["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert set(by_code["onExitCodes"]["values"]) == final
    dag = ast.parse((DEPLOY / "airflow" / "orders_to_lake.py").read_text())
    constants = {
        target.id: ast.literal_eval(node.value)
        for node in dag.body
        if isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Name) and target.id != "COMMAND"
    }
    assert {constants["FENCED"], *constants["SOMEBODY_MUST_LOOK"]} == final
