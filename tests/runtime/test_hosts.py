# SPDX-License-Identifier: Apache-2.0
"""Several processes of one command: how they are found, and what they do."""

import contextlib
import http.server
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from suti.runtime import hosts
from suti.runtime.hosts import Place, find_process

ONE_OF_TWO = pathlib.Path(__file__).with_name("one_of_two.py")


def given(coordinator="host-0:1234", count="2", index="1"):
  return {
    hosts.COORDINATOR: coordinator,
    hosts.COUNT: count,
    hosts.INDEX: index,
  }


# --- Where this process stands ------------------------------------------------


def test_a_machine_without_variables_is_alone():
  assert find_process({}) is None
  assert find_process({"JAX_PLATFORMS": "cpu"}) is None


def test_three_variables_say_it():
  assert find_process(given()) == Place(
    coordinator="host-0:1234", count=2, index=1
  )
  assert find_process(given("host-0")).coordinator == "host-0:8476"
  assert find_process(given(count="1", index="0")) is None


def test_gke_sets_the_process():
  env = {"TPU_WORKER_HOSTNAMES": "a-0.a,a-1.a,a-2.a", "TPU_WORKER_ID": "2"}
  assert find_process(env) == Place(coordinator="a-0.a:8476", count=3, index=2)
  # A slice of one host.
  assert find_process({"TPU_WORKER_HOSTNAMES": "localhost"}) is None


@pytest.fixture
def metadata(monkeypatch):
  """A server like that of each machine of Google Cloud, and a TPU."""
  answers: dict[str, str] = {}

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      answer = answers.get(self.path.rpartition("/")[2])
      flavor = self.headers["Metadata-Flavor"] == "Google"
      self.send_response(200 if answer is not None and flavor else 404)
      self.end_headers()
      self.wfile.write((answer or "").encode())

    def log_message(self, *_):
      pass

  monkeypatch.setattr(hosts, "_num_chips", lambda: 4)
  with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield answers, {"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"}
    server.shutdown()
    thread.join()


@pytest.mark.parametrize(
  "endpoints",
  ["10.0.0.7,10.0.0.8", "suti:1:10.0.0.7,suti:2:10.0.0.8"],
)
def test_a_tpu_vm_queries_its_metadata_server(metadata, endpoints):
  answers, env = metadata
  answers["worker-network-endpoints"] = endpoints
  answers["agent-worker-number"] = "1\n"
  assert find_process(env) == Place(
    coordinator="10.0.0.7:8476", count=2, index=1
  )
  for platforms in ("", "tpu", "tpu,cpu"):
    assert find_process(env | {"JAX_PLATFORMS": platforms}) is not None, (
      platforms
    )
  # A process on the CPU does not wait for other hosts.
  assert find_process(env | {"JAX_PLATFORMS": "cpu"}) is None
  answers["worker-network-endpoints"] = "10.0.0.7"
  assert find_process(env) is None
  answers.clear()
  assert find_process(env) is None


@pytest.mark.parametrize(
  ("env", "line"),
  [
    (
      {hosts.COORDINATOR: "a:1"},
      "SUTI_COORDINATOR without SUTI_NUM_PROCESSES and SUTI_PROCESS_ID: set "
      "all three, in every process, or none.",
    ),
    (given(index="2"), "SUTI_PROCESS_ID=2 of SUTI_NUM_PROCESSES=2: numbers"),
    (given(count="two"), "SUTI_PROCESS_ID=1 of SUTI_NUM_PROCESSES=two: "),
  ],
)
def test_incomplete_variables_are_refused(env, line):
  with pytest.raises(ValueError) as caught:
    find_process(env)
  assert str(caught.value).startswith(line)


# --- For itself ---------------------------------------------------------------


def test_a_single_host_is_a_slice_of_its_own(monkeypatch):
  monkeypatch.setattr(hosts, "_num_chips", lambda: 4)
  env = {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}
  hosts.stand_alone(env)
  assert env["TPU_PROCESS_BOUNDS"] == "1,1,1"
  assert env["TPU_CHIPS_PER_PROCESS_BOUNDS"] == "2,2,1"
  assert find_process(env) is None
  chosen = {"TPU_PROCESS_BOUNDS": "2,1,1"}
  hosts.stand_alone(chosen)
  assert chosen == {"TPU_PROCESS_BOUNDS": "2,1,1"}


def test_without_a_tpu_nothing_is_set(monkeypatch):
  monkeypatch.setattr(hosts, "_num_chips", lambda: 0)
  env: dict[str, str] = {}
  hosts.stand_alone(env)
  assert not env


def test_each_runs_alone(monkeypatch, tmp_path):
  """It would wait for the other process for five minutes."""
  for name, value in given().items():
    monkeypatch.setenv(name, value)
  group = hosts.join(tmp_path, how="each")
  assert (group.index, group.first) == (1, False)
  ran = []
  with group.opened(lambda: contextlib.nullcontext(ran.append("held"))):
    group.run(lambda: ran.append("run"), how="each")
  assert ran == ["held", "run"]
  group.end(0)


# --- Together -----------------------------------------------------------------


def test_a_workdir_that_is_not_shared_is_named(monkeypatch, tmp_path):
  monkeypatch.setattr(hosts, "_SHARED_S", 0.3)
  group = hosts.Group(tmp_path, index=1, name="abc")
  with (
    pytest.raises(ValueError, match=r"of process 1 is not that of process 0"),
    group.opened(contextlib.nullcontext),
  ):
    pass


def start(workdir, *args) -> list[subprocess.Popen]:
  """Starts the two processes of one command."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    coordinator = f"127.0.0.1:{free.getsockname()[1]}"
  return [
    subprocess.Popen(
      [sys.executable, str(ONE_OF_TWO), str(workdir), *args],
      env=os.environ
      | given(coordinator, "2", str(index))
      | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": str(ONE_OF_TWO.parent.parent.parent),
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in (0, 1)
  ]


def finish(processes) -> list[subprocess.CompletedProcess]:
  """What they printed until their end."""
  results = []
  for process in processes:
    out, error = process.communicate(timeout=120)
    code = process.returncode
    results.append(subprocess.CompletedProcess([], code, out, error))
  return results


def test_two_processes_join_follow_and_gather(place):
  results = finish(start(place))
  assert [r.returncode for r in results] == [0, 0], results
  first, second = (json.loads(r.stdout.splitlines()[-1]) for r in results)
  for seen in (first, second):
    # The second came no sooner to either point than the first.
    assert seen["held"] and seen["done"]
    assert seen["devices"] == [4, 2]
  assert (first["index"], second["index"]) == (0, 1)
  assert first["copies"] == {
    "spread": [[0, 1], [2, 3], [4, 5], [6, 7]],
    "here": [1, 1],
  }
  assert second["copies"] == {}
  assert not (place / ".hosts").exists()


def test_a_mistake_in_the_first_process_ends_both(tmp_path):
  first, second = finish(start(tmp_path, "fail"))
  assert (first.returncode, second.returncode) == (2, 2)
  assert "model.json is not there: fetch or make it." in first.stderr
  assert "Error" not in second.stderr


def test_sigterm_to_the_first_process_ends_both(tmp_path):
  processes = start(tmp_path, "sleep")
  deadline = time.monotonic() + 60
  while not (tmp_path / "asleep").exists() and time.monotonic() < deadline:
    time.sleep(0.05)
  processes[0].send_signal(signal.SIGTERM)
  first, second = finish(processes)
  assert (first.returncode, second.returncode) == (143, 143), first.stderr
  assert "Stopped by SIGTERM." in first.stderr
