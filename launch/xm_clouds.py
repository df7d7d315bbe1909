# SPDX-License-Identifier: Apache-2.0
"""XManager's executors on Google Cloud, for today's TPUs; see xm_launch.py.

What is sent is made by xm_specs.py and sent by the clients of Vertex AI and of
Kubernetes; the order of work units, and waiting for them, is XManager's.
"""

import argparse
import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from xm_specs import Unit, fail, kubernetes_job, parse_tpu, vertex_pool

# Vertex AI ends a job after 7 days unless it is given a limit; waves of a large
# farm take longer. What is left when a job ends is done by the next one.
LIMIT_S = 30 * 24 * 3600
# How often, and after how many seconds, a request is repeated that a server
# does not answer: an experiment takes days.
TRIES, AGAIN_S = 120, 5.0


async def patiently(
  request: Callable[[], Awaitable[Any]], errors: tuple[type[Exception], ...]
) -> Any:
  """Repeats a request that a server does not answer; raises the last error."""
  for _ in range(TRIES):
    with contextlib.suppress(*errors):
      return await request()
    await asyncio.sleep(AGAIN_S)
  return await request()


def message_of(error: Exception) -> str:
  """The message of a client's error, in one line."""
  text = str(error)
  # That of Kubernetes holds the server's answer and its headers.
  with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
    text = json.loads(error.body)["message"]  # type: ignore[attr-defined]
  line = " ".join(text.split())
  return line if len(line) <= 400 else f"{line[:400]} ..."


class Cloud:
  """Sends work units to a cloud; `show` prints what would be sent.

  Attributes of the subclasses:
    errors: what their clients raise where a server refuses or does not answer,
      or nobody has logged in.
  """

  def __init__(self, options: argparse.Namespace) -> None:
    """Sends nothing yet."""
    from xmanager import xm, xm_local

    self.options, self.tpu = options, parse_tpu(options.tpu)
    kinds = {"vertex": xm_local.Vertex, "kubernetes": xm_local.Kubernetes}
    resource = xm.ResourceType[self.tpu.generation.resource]
    self.executor = kinds[options.executor](
      requirements=xm.JobRequirements({resource: self.tpu.topology})
    )

  def executable(self, experiment: Any) -> Any:
    """The container as it is: packaging it would pull it and push a copy."""
    del experiment
    from xmanager.xm_local import executables

    return executables.GoogleContainerRegistryImage(
      name=self.options.name,
      image_path=self.options.image,
      args=[],
      env_vars={},
    )


class Vertex(Cloud):
  """Custom jobs of Vertex AI, sent by a client that knows today's TPUs."""

  @property
  def errors(self) -> tuple[type[Exception], ...]:
    """See above."""
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    return GoogleAPIError, GoogleAuthError

  def pool(self, unit: Unit) -> Any:
    """The slice that a unit runs on."""
    return vertex_pool(
      self.tpu, self.options.image, unit.args, nfs=self.options.nfs
    )

  @property
  def strategy(self) -> str:
    """Of scheduling."""
    return "SPOT" if self.options.spot else "STANDARD"

  def show(self, rows: Sequence[Sequence[Unit]]) -> str:
    """The jobs in the JSON of Vertex AI's interface."""
    jobs = []
    for unit in (unit for row in rows for unit in row):
      pool = self.pool(unit)
      text = type(pool).to_json(
        pool,
        use_integers_for_enums=False,
        always_print_fields_with_no_presence=False,
      )
      spec = {
        "workerPoolSpecs": [json.loads(text)],
        "scheduling": {"timeout": f"{LIMIT_S}s", "strategy": self.strategy},
      }
      if self.options.network:
        spec["network"] = self.options.network
      jobs.append({"displayName": self.title(unit), "jobSpec": spec})
    return json.dumps(jobs, indent=2)

  def title(self, unit: Unit) -> str:
    """What a job is called, which need not be its name alone."""
    return f"{self.options.name}_{unit.name}"

  def register(self, units: Mapping[str, Unit]) -> None:
    """Replaces XManager's client by ours; needs the project's name."""
    from google.cloud import aiplatform, aiplatform_v1
    from xmanager.cloud import auth, vertex

    launcher = self
    try:
      bucket = auth.get_bucket()
    except ValueError as error:
      fail(message_of(error))

    class Client(vertex.Client):
      def launch(self, name: str, jobs: Sequence[Any]) -> str:
        del name  # made of numbers
        (job,) = jobs
        custom = aiplatform.CustomJob(
          project=self.project,
          location=self.location,
          display_name=launcher.title(units[job.name]),
          worker_pool_specs=[launcher.pool(units[job.name])],
          staging_bucket=f"gs://{bucket}",
        )
        strategies = aiplatform_v1.Scheduling.Strategy
        custom.submit(
          network=launcher.options.network,
          timeout=LIMIT_S,
          scheduling_strategy=strategies[launcher.strategy],
        )
        return custom.resource_name

      async def wait_for_job(self, job_name: str) -> None:
        wait = super().wait_for_job
        await patiently(lambda: wait(job_name), launcher.errors)

    vertex.set_default_client(Client())


class Kubernetes(Cloud):
  """Jobs of a cluster on GKE, one pod for each host."""

  @property
  def errors(self) -> tuple[type[Exception], ...]:
    """See above."""
    from kubernetes.client import ApiException
    from kubernetes.config import ConfigException
    from urllib3.exceptions import HTTPError

    return ApiException, ConfigException, HTTPError

  def parts(self, unit: Unit, *, suffix: str = "") -> tuple[Any, Any]:
    """The service and the job of a unit."""
    return kubernetes_job(
      f"{self.options.name}-{unit.name}{suffix}",
      self.tpu,
      self.options.image,
      unit.args,
      nfs=self.options.nfs,
      spot=self.options.spot,
    )

  def show(self, rows: Sequence[Sequence[Unit]]) -> str:
    """The manifests, as kubectl reads them."""
    import yaml
    from kubernetes import client

    as_json = client.ApiClient().sanitize_for_serialization
    units = [unit for row in rows for unit in row]
    parts = [as_json(part) for unit in units for part in self.parts(unit)]
    note = (
      "# When sent, all names end in the experiment's number, such as"
      f" {self.options.name}-{units[0].name}-1700000000000.\n"
    )
    return note + yaml.safe_dump_all(parts, sort_keys=False)

  def register(self, units: Mapping[str, Unit]) -> None:
    """Has XManager create our jobs for its Kubernetes executor."""
    from kubernetes import client
    from xmanager import xm, xm_local
    from xmanager.cloud import kubernetes
    from xmanager.xm_local import registry

    errors = self.errors

    class Handle(kubernetes.KubernetesHandle):
      async def wait(self) -> None:
        """Waits for the end; XManager's own waits for success, for ever."""
        for job in self.jobs:
          name = job.metadata.name
          while not await patiently(lambda: has_ended(name), errors):  # noqa: B023
            await asyncio.sleep(5)

    def batch() -> Any:
      return client.BatchV1Api(kubernetes.client().api_client)

    async def has_ended(name: str) -> bool:
      status = batch().read_namespaced_job_status(name, "default").status
      states = {c.type for c in status.conditions or () if c.status == "True"}
      if "Failed" in states:
        raise RuntimeError(f"job {name} failed: kubectl logs job/{name}")
      return "Complete" in states

    async def launch(unit: Any, group: Any) -> list[Any]:
      created = []
      for job in xm.job_operators.flatten_jobs(group):
        service, body = self.parts(
          units[job.name], suffix=f"-{unit.experiment_id}"
        )
        core = client.CoreV1Api(kubernetes.client().api_client)
        core.create_namespaced_service("default", service)
        created.append(batch().create_namespaced_job("default", body))
      return [Handle(jobs=created)]

    registry.register(
      xm_local.Kubernetes,
      launch=launch,
      create_handle=registry.get_create_handle_method(xm_local.Kubernetes),
    )
