"""The files under cluster/, judged by whoever reads them: Ray's launcher, EC2's own parameter model, Ray on Kubernetes."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import pytest
import yaml
from botocore.validate import ParamValidator
from click import ClickException
from packaging.requirements import Requirement
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

REPOSITORY = Path(__file__).parents[2]
CLUSTER = REPOSITORY / "cluster"
RAY_VERSION = importlib.metadata.version("ray")
Change = Callable[[dict[str, Any]], object]


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((CLUSTER / name).read_text())
    return content


def launch(config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` makes of a file before it asks the cloud."""
    prepared: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("name", ["aws-gpu.yaml", "local.yaml"])
def test_ray_takes_the_cluster_file(name: str) -> None:
    prepared = launch(load(name))
    assert prepared["cluster_name"] == "taggants"
    commands = json.dumps(prepared)
    assert "wheels/latest" not in commands, "Ray's default would install its nightly build"
    for start in (prepared["head_start_ray_commands"], prepared["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in start[-1]
    assert "dashboard-host=0.0.0.0" not in commands


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("aws-gpu.yaml", lambda config: config.update(max_worker=3)),
        ("aws-gpu.yaml", lambda config: config["available_node_types"]["gpu"].update(spot=True)),
        ("aws-gpu.yaml", lambda config: config["available_node_types"]["gpu"].pop("resources")),
        ("aws-gpu.yaml", lambda config: config["available_node_types"]["gpu"]["resources"].update(GPU=0.5)),
        ("aws-gpu.yaml", lambda config: config["available_node_types"]["gpu"].update(min_workers=9)),
        ("aws-gpu.yaml", lambda config: config.update(head_node_type="cpu")),
        ("aws-gpu.yaml", lambda config: config["docker"].pop("container_name")),
        ("local.yaml", lambda config: config.update(rsync_excludes=[])),
        ("local.yaml", lambda config: config["provider"].pop("worker_ips")),
        ("local.yaml", lambda config: config["provider"].pop("head_ip")),
    ],
)
def test_ray_refuses_a_broken_cluster_file(name: str, change: Change) -> None:
    config = load(name)
    change(config)
    with pytest.raises((jsonschema.ValidationError, ValueError, AssertionError, ClickException)):
        launch(config)


def run_instances_errors(node_config: dict[str, Any]) -> str:
    model = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances")
    given = {"MinCount": 1, "MaxCount": 1, **node_config}
    report: str = ParamValidator().validate(given, model.input_shape).generate_report()
    return report


def test_ec2_knows_every_field_of_the_node_types() -> None:
    for node_type in load("aws-gpu.yaml")["available_node_types"].values():
        assert run_instances_errors(node_type["node_config"]) == ""
    assert "Unknown parameter" in run_instances_errors({"InstanceTypes": "g6.2xlarge"})
    assert "Unknown parameter" in run_instances_errors({"InstanceMarketOptions": {"Market": "spot"}})


def test_head_takes_no_work_and_gpu_workers_are_spot_and_come_with_the_work() -> None:
    node_types = launch(load("aws-gpu.yaml"))["available_node_types"]
    assert node_types["head"]["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in node_types["head"]["node_config"]
    gpu = node_types["gpu"]
    assert (gpu["min_workers"], gpu["resources"]["GPU"]) == (0, 1)
    assert gpu["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert gpu["node_config"]["IamInstanceProfile"] != node_types["head"]["node_config"]["IamInstanceProfile"]


def validate_rayjob(job: dict[str, Any]) -> None:
    schema = json.loads((Path(__file__).parent / "rayjob_schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(job, schema, cls=jsonschema.Draft202012Validator)


def test_rayjob_has_the_documented_fields() -> None:
    job = load("kuberay/rayjob.yaml")
    validate_rayjob(job)
    spec = job["spec"]
    assert spec["backoffLimit"] >= 1, "its default is 0: a lost head would end the job"
    assert spec["shutdownAfterJobFinishes"]
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert spec["rayClusterSpec"]["rayVersion"] == RAY_VERSION


@pytest.mark.parametrize(
    "change",
    [
        lambda job: job["spec"].update(backofLimit=3),
        lambda job: job["spec"].update(backoffLimit="3"),
        lambda job: job["spec"].pop("entrypoint"),
        lambda job: job["spec"]["rayClusterSpec"]["authOptions"].update(mode="tokens"),
        lambda job: job["spec"]["rayClusterSpec"].pop("headGroupSpec"),
        lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].update(replica=1),
        lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0].pop(
            "image"
        ),
    ],
)
def test_broken_rayjob_is_refused(change: Change) -> None:
    job = load("kuberay/rayjob.yaml")
    change(job)
    with pytest.raises(jsonschema.ValidationError):
        validate_rayjob(job)


def test_rays_autoscaler_reads_the_pods_as_meant() -> None:
    spec = load("kuberay/rayjob.yaml")["spec"]["rayClusterSpec"]
    config = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "c", "namespace": "n"}, "spec": spec})
    validate_config(config)
    assert config["available_node_types"]["headgroup"]["resources"]["CPU"] == 0
    gpu = config["available_node_types"]["gpu"]
    assert (gpu["min_workers"], gpu["max_workers"], gpu["resources"]["CPU"], gpu["resources"]["GPU"]) == (0, 8, 4, 1)
    assert config["idle_timeout_minutes"] == 5


def test_actors_fit_the_nodes() -> None:
    job = load("kuberay/rayjob.yaml")["spec"]
    wanted = {name: float(value) for name, value in re.findall(r"execution\.num_(\w+)=(\d+)", job["entrypoint"])}
    limits = job["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert wanted["cpus"] <= float(limits["cpu"])
    assert wanted["gpus"] <= float(limits["nvidia.com/gpu"])
    assert wanted["workers"] <= job["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"]
    # Else actors would hold GPUs and compute on CPUs, and the head, which has none, would train.
    for section in ("crafting", "surrogate", "evaluation.training"):
        assert f"--set {section}.device=cuda" in job["entrypoint"]
    assert "--set surrogate.num_workers=1" in job["entrypoint"]


def pinned() -> dict[str, Requirement]:
    lines = (CLUSTER / "requirements.txt").read_text().splitlines()
    return {line.name: line for line in (Requirement(text) for text in lines if text and not text.startswith("#"))}


def test_pins_are_exact_and_answer_the_project() -> None:
    pins = pinned()
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert set(pins) == {Requirement(text).name for text in project["dependencies"]}
    for text in project["dependencies"]:
        needed, pin = Requirement(text), pins[Requirement(text).name]
        [exact] = pin.specifier
        assert exact.operator == "=="
        assert needed.specifier.contains(exact.version), f"{text} against {pin}"
        assert needed.extras <= pin.extras


def test_one_version_of_ray_everywhere() -> None:
    assert str(pinned()["ray"].specifier) == f"=={RAY_VERSION}"
    image = f"rayproject/ray:{RAY_VERSION}-py311-gpu"
    assert load("aws-gpu.yaml")["docker"]["image"] == image
    assert f"FROM {image}\n" in (CLUSTER / "Dockerfile").read_text()


def test_files_hold_no_credentials() -> None:
    for path in CLUSTER.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert not re.search(
                r"AKIA[0-9A-Z]{16}|aws_secret_access_key\s*[=:]\s*\S|BEGIN [A-Z ]*PRIVATE KEY", text, re.I
            ), path
            assert "RAY_AUTH_TOKEN=" not in text, path
