"""The files of tools/cluster: in the words of whoever reads them; SLURM's runs on this machine."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import shlex
import subprocess
import sys
from typing import Any

import pytest

from tests.engine.work.machines import machines
from tests.sweep import harness

FILES = harness.ROOT / "tools" / "cluster"
SCONTROL = """#!/bin/sh
[ "$1 $2 $3" = 'show hostnames n[1-2]' ] && printf '{}\\n{}\\n'
"""
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
{} "$@" & first=$!
{} "$@" & second=$!
wait $first; status=$?
wait $second || status=$?
exit $status
"""


def read(name: str) -> list[Any]:
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all((FILES / name).read_text("utf-8")))


def test_a_ray_job_joins_its_own_cluster_with_a_token():
    job, policy = read("rayjob.yaml")
    assert (job["kind"], policy["kind"]) == ("RayJob", "NetworkPolicy")
    command = shlex.split(job["spec"]["entrypoint"])
    assert command[:3] == ["python", "-m", "svdjax.sweep"]
    assert "--workers=ray" in command
    (config,) = (part for part in command if part.startswith("--config="))
    assert (harness.ROOT / config.partition("/svdjax/")[2].partition(":")[0]).is_file()
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    images, mounts = set(), []
    for group in (head, workers):
        label = policy["spec"]["podSelector"]["matchLabels"]
        assert label.items() <= group["template"]["metadata"]["labels"].items()
        (container,) = group["template"]["spec"]["containers"]
        images.add(container["image"])
        mounts.append({mount["mountPath"] for mount in container["volumeMounts"]})
        volumes = {volume["name"] for volume in group["template"]["spec"]["volumes"]}
        assert volumes == {mount["name"] for mount in container["volumeMounts"]}
    assert len(images) == 1
    # What is read is on every node under one path, what is written on the head alone.
    assert mounts == [{"/models", "/runs"}, {"/models"}]
    assert workers["minReplicas"] == workers["replicas"] == workers["maxReplicas"]


def test_the_launcher_takes_its_file():
    (config,) = read("ray-up.yaml")
    jsonschema = pytest.importorskip("jsonschema")
    found = importlib.util.find_spec("ray")
    if found is None or not found.submodule_search_locations:
        pytest.skip("Ray is not installed")
    place = pathlib.Path(found.submodule_search_locations[0])
    jsonschema.validate(config, json.loads((place / "autoscaler/ray-schema.json").read_text()))
    assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}
    assert config["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    for start in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in start[-1]


def test_the_batch_script_is_bash():
    subprocess.run(["bash", "-n", FILES / "slurm.sbatch"], check=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_batch_job_on_two_machines(env, tmp_path):
    pytest.importorskip("ray")
    if not (pathlib.Path(sys.prefix) / "bin" / "activate").is_file():
        pytest.skip("Python is in no virtual environment")
    base, post = harness.square_pair(tmp_path)
    commands, workdir = tmp_path / "bin", tmp_path / "W"
    commands.mkdir()
    variables = env | {
        "PATH": f"{commands}:{env['PATH']}",
        "VENV": sys.prefix,
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_CPUS_ON_NODE": "1",
        # In which the second machine gives the first up, that is done with the job.
        "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
    }
    with machines(2, variables, tmp_path) as nodes:
        # symmetric-run ends all of Ray that it sees, and waits for what nobody has reaped.
        tasks = [nodes.inside(node, "sh", "-c", '"$@"; exit $?', "sh") for node in (1, 2)]
        texts = {
            "scontrol": SCONTROL.format(nodes.address(1), nodes.address(2)),
            "srun": SRUN.format(*map(shlex.join, tasks)),
        }
        for name, text in texts.items():
            (commands / name).write_text(text)
            (commands / name).chmod(0o755)
        # A batch script runs on the first node.
        script = ["ip", "netns", "exec", nodes.space(1), "bash", str(FILES / "slurm.sbatch")]
        arguments = [
            f"--config=configs/pair.py:base={base},post={post}",
            "--config.stages=('spectra',)",
            f"--workdir={workdir}",
        ]
        done = subprocess.run(
            [*script, *arguments], cwd=harness.ROOT, env=variables, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Connecting to Ray cluster at {nodes.address(1)}:6379..." in done.stdout
    assert "done: 1 pair(s)" in done.stdout
    state = json.loads((workdir / "sweep.json").read_text())
    assert state["status"] == "done"
    assert "machine1: cpu:0" in " ".join(state["devices"])
