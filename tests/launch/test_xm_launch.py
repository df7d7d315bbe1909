# SPDX-License-Identifier: Apache-2.0
"""launch/xm_launch.py: what it sends elsewhere, and a run on this machine."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from suti.io.files import read_json

ROOT = pathlib.Path(__file__).parent.parent.parent
STAGES = (
  "experts.mine",
  "experts.prompts",
  "experts.finetune",
  "experts.sample",
  "experts.filter",
  "experts.pack",
  "apprentice.train",
  "suti.cli",
)
ELSEWHERE = ("--config", "c.py", "--workdir", "/gcs/data/w", "--image", "i")


def launch(*args, **env) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, str(ROOT / "launch" / "xm_launch.py"), *map(str, args)],
    cwd=ROOT,
    env=os.environ | env,
    capture_output=True,
    text=True,
    check=False,
  )


def shown(*args) -> str:
  result = launch(*args, "--dry-run")
  assert result.returncode == 0, result.stderr
  return result.stdout


# --- Mistakes -----------------------------------------------------------------


@pytest.mark.parametrize(
  ("args", "line"),
  [
    ((), "the following arguments are required: --config, --workdir (see"),
    (("--slices", "0"), "--slices=0: 1 or more are expected."),
    (("--slice", "2"), "unknown argument '--slice' (see --help)."),
    (("--config.seed",), "--config.seed: write --config.seed=VALUE."),
    (("--name", "A b"), "--name=A b: lower-case letters, digits and dashes"),
    (
      ("--tpu", "v4-8"),
      "--tpu with --executor local, which runs on this machine: give",
    ),
    (("--executor", "borg"), "argument --executor: invalid choice: 'borg'"),
    (("--executor", "vertex"), "--executor vertex needs --tpu."),
    (
      ("--executor", "vertex", "--tpu", "v6e-8"),
      "--executor vertex needs --image.",
    ),
    (
      ("--executor", "vertex", "--tpu", "v4-128", "--image", "i"),
      "--tpu=v4-128: Vertex AI trains on v2, v3, v5e and v6e alone: give one",
    ),
    (
      ("--executor", "kubernetes", "--tpu", "v3-8", "--image", "i"),
      "--tpu=v3-8: on Kubernetes v4, v5e, v5p and v6e are supported.",
    ),
    (
      ("--executor", "kubernetes", "--tpu", "v4-12", "--image", "i"),
      "--tpu=v4-12: of v4 the number counts cores, two a chip, and can be 8, ",
    ),
    (
      ("--executor", "kubernetes", "--tpu", "v9-8", "--image", "i"),
      "--tpu=v9-8: expected is one of v2-N, v3-N, v4-N, v5e-N, v5p-N, v6e-N.",
    ),
    (
      ("--executor", "kubernetes", "--tpu", "v4-8", "--image", "i"),
      "--workdir=runs: a folder that all slices see is expected, such as",
    ),
  ],
)
def test_a_mistake_is_one_line(args, line):
  whole = ("--config", "c.py", "--workdir", "runs", *args) if args else ()
  result = launch(*whole)
  assert result.returncode == 2
  assert result.stderr.startswith(f"Error: {line}")
  assert result.stderr.count("\n") == 1


# --- Specs --------------------------------------------------------------------


@pytest.mark.xm
def test_here_workers_run_at_once_and_stages_in_a_row():
  args = ("--config", "c.py:a", "--workdir", "my runs", "--slices", "2")
  lines = shown(*args, "--config.seed=3").splitlines()
  flags = "--config c.py:a --workdir 'my runs' --config.seed=3"
  commands = [f"{sys.executable} -m {name} {flags}" for name in STAGES[:-1]]
  tune, draw = (command + " &" for command in commands[2:4])
  assert lines == [
    *commands[:2],
    *[tune, tune, "wait"],
    *[draw, draw, "wait"],
    *commands[4:],
    f"{sys.executable} -m suti.cli run {flags}",
  ]


@pytest.mark.xm
@pytest.mark.parametrize(
  ("tpu", "machine"),
  [
    ("v5e-16", {"machineType": "ct5lp-hightpu-4t", "tpuTopology": "4x4"}),
    ("v6e-8", {"machineType": "ct6e-standard-8t", "tpuTopology": "2x4"}),
    ("v6e-1", {"machineType": "ct6e-standard-1t", "tpuTopology": "1x1"}),
    (
      "v3-8",
      {
        "machineType": "cloud-tpu",
        "acceleratorType": "TPU_V3",
        "acceleratorCount": 8,
      },
    ),
  ],
)
def test_vertex_is_asked_for_a_slice_for_each_unit(tpu, machine):
  args = ("--executor", "vertex", "--tpu", tpu, "--slices", "3", "--spot")
  jobs = json.loads(shown(*ELSEWHERE, *args))
  names = [job["displayName"] for job in jobs]
  assert names == [
    *("suti_mine", "suti_prompts"),
    *("suti_finetune-0", "suti_finetune-1", "suti_finetune-2"),
    *("suti_sample-0", "suti_sample-1", "suti_sample-2"),
    *("suti_filter", "suti_pack", "suti_train", "suti_report"),
  ]
  spec = jobs[2]["jobSpec"]
  (pool,) = spec["workerPoolSpecs"]
  assert pool["machineSpec"] == machine
  assert pool["containerSpec"] == {
    "imageUri": "i",
    "command": ["python"],
    "args": [
      *("-m", "experts.finetune", "--config", "c.py"),
      *("--workdir", "/gcs/data/w"),
    ],
  }
  assert spec["scheduling"] == {"strategy": "SPOT"}


@pytest.mark.xm
@pytest.mark.parametrize(
  ("tpu", "kind", "topology", "hosts", "chips"),
  [
    ("v4-128", "tpu-v4-podslice", "4x4x4", 16, "4"),
    ("v5p-8", "tpu-v5p-slice", "2x2x1", 1, "4"),
    ("v5litepod-16", "tpu-v5-lite-podslice", "4x4", 4, "4"),
    ("v6e-8", "tpu-v6e-slice", "2x4", 1, "8"),
  ],
)
def test_kubernetes_gets_a_pod_for_each_host(tpu, kind, topology, hosts, chips):
  yaml = pytest.importorskip("yaml")
  args = ("--executor", "kubernetes", "--tpu", tpu, "--slices", "2", "--spot")
  parts = list(yaml.safe_load_all(shown(*ELSEWHERE, *args)))
  assert [part["kind"] for part in parts] == ["Service", "Job"] * 10
  service, job = parts[4:6]  # of the first worker of experts.finetune
  name = "suti-finetune-0"
  assert job["metadata"]["name"] == service["metadata"]["name"] == name
  spec = job["spec"]
  assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == (
    "Indexed",
    hosts,
    hosts,
  )
  # A user's mistake ends the job, a preemption does not.
  (rule,) = spec["podFailurePolicy"]["rules"]
  assert rule["action"] == "FailJob"
  assert rule["onExitCodes"] == {"operator": "In", "values": [2]}
  assert spec["backoffLimit"] >= 100
  pod = spec["template"]["spec"]
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": kind,
    "cloud.google.com/gke-tpu-topology": topology,
    "cloud.google.com/gke-spot": "true",
  }
  # GKE names the hosts by the headless service that the pods belong to.
  assert pod["subdomain"] == name and service["spec"]["clusterIP"] == "None"
  labels = spec["template"]["metadata"]["labels"]
  assert service["spec"]["selector"].items() <= labels.items()
  (container,) = pod["containers"]
  assert container["resources"]["limits"] == {"google.com/tpu": chips}
  assert container["args"][:2] == ["-m", "experts.finetune"]
  assert container["volumeMounts"] == [
    {"name": "data", "mountPath": "/gcs/data"}
  ]
  assert pod["volumes"][0]["csi"]["volumeAttributes"]["bucketName"] == "data"


# --- A run --------------------------------------------------------------------


@pytest.mark.xm
def test_two_workers_and_all_stages_run_on_this_machine(tmp_path):
  """XManager itself, the quickstart's smallest size, two processes a wave."""
  args = ("--config", "configs/quickstart.py:tiny", "--workdir", tmp_path / "w")
  few = ("--config.benchmark.num_expert_subjects=0",)
  result = launch(*args, *few, "--slices", "2", HOME=str(tmp_path))
  assert result.returncode == 0, result.stdout + result.stderr
  assert "[finetune-0, finetune-1]" in result.stdout
  for name in STAGES[:-1]:
    folder = tmp_path / "w" / name.replace(".", "/")
    assert (folder / "done.json").is_file(), name
  assert read_json(tmp_path / "w" / "report" / "metrics.json")


@pytest.mark.xm
def test_a_stage_that_fails_ends_the_experiment(tmp_path):
  args = ("--config", "configs/no_such.py", "--workdir", tmp_path / "w")
  result = launch(*args, HOME=str(tmp_path))
  assert result.returncode == 1
  assert "--config=configs/no_such.py cannot be read" in result.stdout
  assert "Error: a stage failed (" in result.stderr
  assert "[prompts]" not in result.stdout
