"""The examples for clusters: what Kubernetes is asked for, and what SLURM is."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / "workflows" / "cohort"

_NAMED = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
_QUANTITIES = {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}
_POD = {
    "type": "object",
    "required": ["containers"],
    "additionalProperties": False,
    "properties": {
        "containers": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "image", "command"],
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string"},
                    "image": {"type": "string"},
                    "command": {"type": "array", "items": {"type": "string"}},
                    "resources": {
                        "additionalProperties": False,
                        "properties": {"requests": _QUANTITIES, "limits": _QUANTITIES},
                    },
                    "volumeMounts": {"items": {**_NAMED, "required": ["name", "mountPath"]}},
                    "ports": {"items": {**_NAMED, "required": ["name", "containerPort"]}},
                },
            },
        },
        "volumes": {"items": {**_NAMED, "required": ["name", "persistentVolumeClaim"]}},
    },
}
#: The part of the operator's resource (kubernetes.dask.org/v1) and of Kubernetes' PodSpec that is used here.
SCHEMA = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "kubernetes.dask.org/v1"},
        "kind": {"const": "DaskCluster"},
        "metadata": _NAMED,
        "spec": {
            "required": ["worker", "scheduler"],
            "additionalProperties": False,
            "properties": {
                "worker": {
                    "required": ["replicas", "spec"],
                    "additionalProperties": False,
                    "properties": {"replicas": {"type": "integer", "minimum": 1}, "spec": _POD},
                },
                "scheduler": {
                    "required": ["spec", "service"],
                    "additionalProperties": False,
                    "properties": {
                        "spec": _POD,
                        "service": {"required": ["type", "selector", "ports"]},
                    },
                },
            },
        },
    },
}


def test_kubernetes_is_asked_for_what_the_image_can_do() -> None:
    cluster = yaml.safe_load((EXAMPLES / "kubernetes.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(cluster, SCHEMA)
    worker, scheduler = (cluster["spec"][part]["spec"] for part in ("worker", "scheduler"))
    for pod in (worker, scheduler):
        (container,) = pod["containers"]
        # The entry point of the image is medvit itself.
        assert container["command"][0] == "dask" and "args" not in container
        assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    (container,) = worker["containers"]
    assert "--no-nanny" in container["command"] and "GPU=1" in container["command"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    service = cluster["spec"]["scheduler"]["service"]
    assert service["selector"]["dask.org/cluster-name"] == cluster["metadata"]["name"]
    ports = {port["name"]: port["containerPort"] for port in scheduler["containers"][0]["ports"]}
    assert {port["targetPort"]: port["port"] for port in service["ports"]} == ports


def test_slurm_is_asked_for_jobs_of_one_study_each(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Cluster:
        scheduler_address = "tcp://scheduler:8786"

        def __init__(self, **options: Any) -> None:
            asked.update(options)

        def __enter__(self) -> Cluster:
            return self

        def __exit__(self, *_: object) -> None:
            asked["ended"] = True

        def scale(self, jobs: int) -> None:
            asked["jobs"] = jobs

    stand_in = ModuleType("dask_jobqueue")
    monkeypatch.setattr(stand_in, "SLURMCluster", Cluster, raising=False)
    monkeypatch.setitem(sys.modules, "dask_jobqueue", stand_in)
    spec = importlib.util.spec_from_file_location("slurm_example", EXAMPLES / "slurm.py")
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    ran: dict[str, Any] = {}
    monkeypatch.setattr(
        example, "run_cohort", lambda *given, **options: ran.update(options, given=given) or 3
    )
    arguments = ["slurm.py", "segformer3d_brain", "in1", "in2", "out", "--jobs", "8", "--partition", "gpu"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert example.main() == 3
    assert (asked["jobs"], asked["queue"], asked["cores"], asked["nanny"]) == (8, "gpu", 1, False)
    assert asked["job_extra_directives"] == ["--gres=gpu:1"] and asked["ended"]
    bundle, inputs, output = ran["given"]
    assert (bundle.name, inputs, output) == ("segformer3d_brain", ["in1", "in2"], "out")
    assert ran["scheduler"] == Cluster.scheduler_address and ran["gpu"] is True
