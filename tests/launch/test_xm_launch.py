# SPDX-License-Identifier: Apache-2.0
"""launch/xm_launch.py: what it sends elsewhere, and a run on this machine."""

import asyncio
import http.server
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import types

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
)
ELSEWHERE = (
  *("--config", "c.py", "--workdir", "/mnt/nfs/suti/w"),
  *("--image", "i", "--nfs", "10.0.0.2:/share"),
)
KUBERNETES = (*ELSEWHERE[4:], "--executor", "kubernetes", "--tpu")
VERTEX = ("--executor", "vertex", "--network", "projects/1/global/networks/n")


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


@pytest.fixture
def xm_launch(monkeypatch):
  """The script as a module."""
  monkeypatch.syspath_prepend(str(ROOT / "launch"))
  return importlib.import_module("xm_launch")


# --- Mistakes -----------------------------------------------------------------


@pytest.mark.parametrize(
  ("args", "line"),
  [
    ((), "the following arguments are required: --config, --workdir (see"),
    (("--slices", "0"), "--slices=0: 1 or more are expected."),
    (("--slice", "2"), "unknown argument '--slice' (see --help)."),
    (("--config.seed",), "--config.seed: write --config.seed=VALUE."),
    (("--name", "A b"), "--name=A b: lower-case letters, digits and dashes"),
    (("--name", 33 * "a"), f"--name={33 * 'a'}: lower-case letters, digits"),
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
      (*VERTEX[:2], "--tpu", "v6e-8", "--image", "i", "--nfs", "a:/"),
      "--executor vertex needs --network.",
    ),
    (
      (*VERTEX, *ELSEWHERE[4:], "--tpu", "v4-128"),
      "--tpu=v4-128: Vertex AI trains on v2, v3, v5e and v6e alone: give one",
    ),
    (
      (*KUBERNETES, "v3-8"),
      "--tpu=v3-8: on Kubernetes v4, v5e, v5p and v6e are supported.",
    ),
    (
      (*KUBERNETES, "v4-12"),
      "--tpu=v4-12: of v4 the number counts cores, two a chip, and can be 8, ",
    ),
    (
      (*KUBERNETES, "v4-²"),
      "--tpu=v4-²: expected is one of v2-N, v3-N, v4-N, v5e-N, v5p-N, v6e-N.",
    ),
    (
      (*KUBERNETES, "v9-8"),
      "--tpu=v9-8: expected is one of v2-N, v3-N, v4-N, v5e-N, v5p-N, v6e-N.",
    ),
    (
      (*KUBERNETES, "v4-8", "--nfs", "share"),
      "--nfs=share: expected is SERVER:/PATH.",
    ),
    (
      (*KUBERNETES, "v4-8", "--workdir", "gs://b/w"),
      "--nfs with --workdir=gs://b/w: give one of them.",
    ),
    (
      (*KUBERNETES, "v4-8"),
      "--workdir=runs: a folder of the disk that all slices see is expected, ",
    ),
  ],
)
def test_a_mistake_is_one_line(xm_launch, capsys, args, line):
  whole = ("--config", "c.py", "--workdir", "runs", *args) if args else ()
  with pytest.raises(SystemExit) as caught:
    xm_launch.main(whole)
  assert caught.value.code == 2
  text = capsys.readouterr().err
  assert text.startswith(f"Error: {line}") and text.count("\n") == 1


def test_a_mistake_is_the_commands_exit_code():
  result = launch("--config", "c.py", "--workdir", "runs", "--slices", "0")
  assert result.returncode == 2
  assert result.stderr == "Error: --slices=0: 1 or more are expected.\n"


# --- Specs --------------------------------------------------------------------


@pytest.mark.xm
def test_here_workers_run_together_and_stages_in_a_row():
  args = ("--config", "c.py:a", "--workdir", "my runs", "--slices", "2")
  lines = shown(*args, "--config.seed=3").splitlines()
  flags = "--config c.py:a --workdir 'my runs' --config.seed=3"
  python = f"{sys.executable} -m"
  tune = f"{python} experts.finetune {flags} &"
  draw = f"{python} experts.sample {flags} &"
  assert lines == [
    f"{python} suti.cli run --until experts.prompts {flags}",
    *[tune, tune, "wait"],
    *[draw, draw, "wait"],
    f"{python} suti.cli run --until experts.pack {flags}",
    f"{python} apprentice.train {flags}",
    f"{python} suti.cli run {flags}",
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
  args = (*VERTEX, "--tpu", tpu, "--slices", "3", "--spot")
  jobs = json.loads(shown(*ELSEWHERE, *args))
  names = [job["displayName"] for job in jobs]
  assert names == [
    "suti_prepare",
    *("suti_finetune-0", "suti_finetune-1", "suti_finetune-2"),
    *("suti_sample-0", "suti_sample-1", "suti_sample-2"),
    *("suti_pack", "suti_train", "suti_report"),
  ]
  spec = jobs[1]["jobSpec"]
  (pool,) = spec["workerPoolSpecs"]
  assert pool["machineSpec"] == machine
  assert pool["containerSpec"] == {
    "imageUri": "i",
    "command": ["python"],
    "args": [
      *("-m", "experts.finetune", "--config", "c.py"),
      *("--workdir", "/mnt/nfs/suti/w"),
    ],
  }
  assert spec["scheduling"] == {"timeout": "2592000s", "strategy": "SPOT"}
  assert pool["nfsMounts"] == [
    {"server": "10.0.0.2", "path": "/share", "mountPoint": "suti"}
  ]
  assert spec["network"] == "projects/1/global/networks/n"


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
  text = shown(*ELSEWHERE, *args)
  assert text.startswith("# When sent, all names end in the experiment's numb")
  parts = list(yaml.safe_load_all(text))
  assert [part["kind"] for part in parts] == ["Service", "Job"] * 8
  service, job = parts[2:4]  # of the first worker of experts.finetune
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
  (mount,) = container["volumeMounts"]
  assert mount == {"name": "shared", "mountPath": "/mnt/nfs/suti"}
  assert pod["volumes"] == [
    {"name": "shared", "nfs": {"server": "10.0.0.2", "path": "/share"}}
  ]


@pytest.mark.xm
def test_for_a_workdir_in_a_bucket_no_disk_is_mounted():
  yaml = pytest.importorskip("yaml")
  given = ("--config", "c.py", "--workdir", "gs://b/w", "--image", "i")
  text = shown(*given, "--executor", "kubernetes", "--tpu", "v4-8")
  _, job = list(yaml.safe_load_all(text))[:2]
  pod = job["spec"]["template"]["spec"]
  assert "volumes" not in pod and "volumeMounts" not in pod["containers"][0]
  assert pod["containers"][0]["args"][-2:] == ["--workdir", "gs://b/w"]
  text = shown(*given, "--executor", "vertex", "--tpu", "v5e-8")
  spec = json.loads(text)[0]["jobSpec"]
  assert "network" not in spec
  assert "nfsMounts" not in spec["workerPoolSpecs"][0]


# --- Sent ---------------------------------------------------------------------


class Cluster(http.server.ThreadingHTTPServer):
  """What answers for a Kubernetes cluster: jobs end as soon as they are asked.

  Attributes:
    posted: what was created, in order, as (path, body).
    failing: the name of a unit whose job fails.
    refused: the name of a unit whose job is not accepted.
    silent: how many more times it says nothing of a job.
  """

  def __init__(self, folder: pathlib.Path) -> None:
    self.posted: list[tuple[str, dict]] = []
    self.failing = self.refused = "none"
    self.silent = 0
    cluster = self

    class Handler(http.server.BaseHTTPRequestHandler):
      def do_POST(self):
        size = int(self.headers["Content-Length"])
        body = json.loads(self.rfile.read(size))
        name = body["metadata"]["name"]
        if body["kind"] == "Job" and f"-{cluster.refused}-" in name:
          self.answer({"message": f"{name} is forbidden:\nquota"}, code=403)
          return
        cluster.posted.append((self.path, body))
        self.answer(body)

      def do_GET(self):
        name = self.path.split("/")[-2]
        if cluster.silent:
          cluster.silent -= 1
          self.answer({}, code=503)
          return
        kind = "Failed" if f"-{cluster.failing}-" in name else "Complete"
        state = {"type": kind, "status": "True"}
        self.answer({"status": {"conditions": [state]}})

      def answer(self, body, *, code=200):
        text = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

      def log_message(self, *_):
        pass

    super().__init__(("127.0.0.1", 0), Handler)
    server = f"http://127.0.0.1:{self.server_port}"
    self.config = folder / "kubeconfig"
    self.config.write_text(
      json.dumps(
        {
          "current-context": "here",
          "contexts": [{"name": "here", "context": {"cluster": "here"}}],
          "clusters": [{"name": "here", "cluster": {"server": server}}],
          "users": [],
        }
      )
    )


@pytest.fixture
def cluster(tmp_path):
  with Cluster(tmp_path) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


def send(cluster, tmp_path):
  args = ("--executor", "kubernetes", "--tpu", "v5e-16", "--slices", "2")
  return launch(
    *ELSEWHERE, *args, HOME=str(tmp_path), KUBECONFIG=str(cluster.config)
  )


@pytest.mark.xm
def test_xmanager_creates_the_jobs_of_a_stage_when_the_last_has_ended(
  cluster, tmp_path
):
  cluster.silent = 1
  result = send(cluster, tmp_path)
  assert result.returncode == 0, result.stderr
  assert cluster.silent == 0
  jobs = [body for path, body in cluster.posted if path.endswith("/jobs")]
  names = [job["metadata"]["name"] for job in jobs]
  # With the experiment's number, so that another one can be sent at any time.
  names = [re.fullmatch(r"suti-(.*)-\d+", name)[1] for name in names]
  assert names[0] == "prepare"
  assert sorted(names[1:3]) == ["finetune-0", "finetune-1"]
  assert names[5:] == ["pack", "train", "report"]
  assert jobs[0]["spec"]["completions"] == 4
  services = [x for path, x in cluster.posted if path.endswith("/services")]
  assert len(services) == len(jobs) == 8


@pytest.mark.xm
def test_a_job_that_fails_ends_the_experiment(cluster, tmp_path):
  """XManager's own wait would go on for ever."""
  cluster.failing = "prepare"
  result = send(cluster, tmp_path)
  assert result.returncode == 1
  assert "Error: a stage failed (job suti-prepare-" in result.stderr
  assert len(cluster.posted) == 2


@pytest.mark.xm
def test_a_job_that_is_refused_is_one_line(cluster, tmp_path):
  cluster.refused = "prepare"
  result = send(cluster, tmp_path)
  assert result.returncode == 2
  assert re.fullmatch(
    r"Error: --executor=kubernetes: suti-prepare-\d+ is forbidden: quota. "
    "Mend it, then start the same command again.\n",
    result.stderr,
  )


@pytest.mark.xm
@pytest.mark.parametrize(
  ("executor", "line"),
  [
    (KUBERNETES[4:6], "--executor=kubernetes: Invalid kube-config file."),
    (VERTEX, "--executor=vertex: Your default credentials were not found."),
  ],
)
def test_who_has_not_logged_in_reads_one_line(tmp_path, executor, line):
  env = {"HOME": tmp_path, "KUBECONFIG": tmp_path / "none"}
  env |= {"NO_GCE_CHECK": "true", "GOOGLE_CLOUD_BUCKET_NAME": "b"}
  env = {name: str(value) for name, value in env.items()}
  result = launch(*ELSEWHERE, *executor, "--tpu", "v5e-16", **env)
  assert result.returncode == 2
  assert result.stderr.startswith(f"Error: {line}"), result.stderr
  assert result.stderr.count("\n") == 1


def test_a_server_that_is_away_is_asked_again_for_a_while(
  xm_launch, monkeypatch
):
  clouds = sys.modules[xm_launch.message_of.__module__]
  monkeypatch.setattr(clouds, "AGAIN_S", 0.0)

  def asked(times: int) -> bool:
    answers = [False] * times + [True]

    async def ask() -> bool:
      if not answers.pop(0):
        raise TimeoutError
      return True

    return asyncio.run(clouds.patiently(ask, (TimeoutError,)))

  assert asked(clouds.TRIES)
  with pytest.raises(TimeoutError):
    asked(clouds.TRIES + 1)


@pytest.mark.xm
def test_vertex_is_sent_what_was_shown(xm_launch, monkeypatch):
  """With a client that keeps what it is given: there is no other Vertex AI."""
  aiplatform = pytest.importorskip("google.cloud.aiplatform")
  auth = importlib.import_module("xmanager.cloud.auth")
  vertex = importlib.import_module("xmanager.cloud.vertex")
  sent = {}

  class Job:
    resource_name = "projects/p/jobs/1"

    def __init__(self, **kw):
      sent.update(kw)

    def submit(self, *, network, scheduling_strategy, timeout):
      sent["strategy"], sent["network"] = scheduling_strategy.name, network
      sent["timeout"] = f"{timeout}s"

  def start(client):
    client.project, client.location = "p", "us-central1"

  monkeypatch.setattr(aiplatform, "CustomJob", Job)
  monkeypatch.setattr(auth, "get_bucket", lambda: "b")
  monkeypatch.setattr(vertex.Client, "__init__", start)
  args = (*VERTEX, "--tpu", "v6e-16", "--spot")
  options, overrides, _ = xm_launch.read_arguments([*ELSEWHERE, *args])
  launcher = xm_launch.Vertex(options)
  units = {u.name: u for row in xm_launch.plan(options, overrides) for u in row}
  launcher.register(units)
  job = types.SimpleNamespace(name="finetune")
  name = vertex.get_default_client().launch("suti_1", [job])
  assert name == Job.resource_name
  show = launcher.show([[units["finetune"]]])
  (shown,) = json.loads(show)
  assert sent["display_name"] == shown["displayName"] == "suti_finetune"
  for name, value in shown["jobSpec"]["scheduling"].items():
    assert sent[name] == value
  assert sent["worker_pool_specs"] == [launcher.pool(units["finetune"])]
  assert sent["staging_bucket"] == "gs://b"
  assert sent["network"] == "projects/1/global/networks/n"


# --- A run --------------------------------------------------------------------


@pytest.mark.xm
def test_two_workers_and_all_stages_run_on_this_machine(tmp_path):
  """XManager itself, the quickstart's smallest size, two processes a wave."""
  args = ("--config", "configs/quickstart.py:tiny", "--workdir", tmp_path / "w")
  few = ("--config.benchmark.num_expert_subjects=0",)
  result = launch(*args, *few, "--slices", "2", HOME=str(tmp_path))
  assert result.returncode == 0, result.stdout + result.stderr
  assert "[finetune-0, finetune-1]" in result.stdout
  for name in STAGES:
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
  assert "[finetune]" not in result.stdout
