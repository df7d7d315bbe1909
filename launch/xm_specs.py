# SPDX-License-Identifier: Apache-2.0
"""Requests for TPU slices on Vertex AI and Kubernetes; see xm_launch.py.

Types are those of Cloud TPU: "v4-128" has 128 cores, two a chip; "v5e-16" has
16 chips. What is built here is data: nothing is sent.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

MISTAKE = 2  # exit code of what only its user can mend: not tried again
RETRIES = 100  # of a host that was preempted
KEPT_S = 7 * 24 * 3600  # a job of Kubernetes that has ended
# Where all slices see the workdir: Vertex AI mounts there and nowhere else.
SHARED = "/mnt/nfs/suti"


def fail(line: str) -> NoReturn:
  """Ends with one line."""
  print(f"Error: {line}", file=sys.stderr)
  sys.exit(MISTAKE)


# --- TPUs ---------------------------------------------------------------------


# Chips -> how they are laid out, as slices can be had. On a plane, one chip and
# eight have a host of their own; all other hosts have four.
PLANE = {
  1: "1x1",
  4: "2x2",
  8: "2x4",
  16: "4x4",
  32: "4x8",
  64: "8x8",
  128: "8x16",
  256: "16x16",
}
CUBE = {
  4: "2x2x1",
  8: "2x2x2",
  16: "2x2x4",
  32: "2x4x4",
  64: "4x4x4",
  128: "4x4x8",
  256: "4x8x8",
  512: "8x8x8",
  1024: "8x8x16",
  2048: "8x16x16",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
  """A kind of TPU, by the names that Google Cloud gives it.

  Attributes:
    resource: of `xm.ResourceType`.
    cores: of a chip, where a type's number counts cores; else 1.
    topologies: of its slices, by their chips.
    gke: value of the node label gke-tpu-accelerator; None where a node cannot
      be requested in this way.
    vertex: machine type for training on Vertex AI, {} for the chips of a host;
      None if there is none.
  """

  resource: str
  cores: int
  topologies: Mapping[int, str]
  gke: str | None
  vertex: str | None


# Vertex AI has one host of v2 and v3.
GENERATIONS = {
  "v2": Generation(
    resource="TPU_V2",
    cores=2,
    topologies={4: "2x2"},
    gke=None,
    vertex="cloud-tpu",
  ),
  "v3": Generation(
    resource="TPU_V3",
    cores=2,
    topologies={4: "2x2"},
    gke=None,
    vertex="cloud-tpu",
  ),
  "v4": Generation(
    resource="TPU_V4",
    cores=2,
    topologies=CUBE,
    gke="tpu-v4-podslice",
    vertex=None,
  ),
  "v5e": Generation(
    resource="TPU_V5E",
    cores=1,
    topologies=PLANE,
    gke="tpu-v5-lite-podslice",
    vertex="ct5lp-hightpu-{}t",
  ),
  "v5p": Generation(
    resource="TPU_V5P",
    cores=2,
    topologies=CUBE,
    gke="tpu-v5p-slice",
    vertex=None,
  ),
  "v6e": Generation(
    resource="TPU_V6E",
    cores=1,
    topologies=PLANE,
    gke="tpu-v6e-slice",
    vertex="ct6e-standard-{}t",
  ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tpu:
  """A slice.

  Attributes:
    generation: its kind.
    chips: on all hosts.
  """

  generation: Generation
  chips: int

  @property
  def topology(self) -> str:
    """How the chips are laid out."""
    return self.generation.topologies[self.chips]

  @property
  def chips_each(self) -> int:
    """Chips of a host."""
    return self.chips if self.topology in ("1x1", "2x4") else 4

  @property
  def hosts(self) -> int:
    """Hosts of the slice."""
    return self.chips // self.chips_each


def parse_tpu(name: str) -> Tpu:
  """Reads an accelerator type: "v4-128", "v5e-16" or "v5litepod-16"."""
  kind, _, number = name.replace("v5litepod-", "v5e-").partition("-")
  if kind not in GENERATIONS or not number.isdecimal():
    known = ", ".join(f"{kind}-N" for kind in GENERATIONS)
    fail(f"--tpu={name}: expected is one of {known}.")
  generation = GENERATIONS[kind]
  sizes = {n * generation.cores: n for n in generation.topologies}
  if int(number) not in sizes:
    counted = "cores, two a chip" if generation.cores == 2 else "chips"
    fail(
      f"--tpu={name}: of {kind} the number counts {counted}, and can be"
      f" {', '.join(map(str, sizes))}."
    )
  return Tpu(generation=generation, chips=sizes[int(number)])


# --- Specs --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unit:
  """A work unit: one command, on one slice."""

  name: str
  args: tuple[str, ...]  # after `python`


def vertex_pool(
  tpu: Tpu, image: str, args: Sequence[str], *, nfs: str | None
) -> Any:
  """A worker pool of Vertex AI: a whole slice, with "SERVER:/PATH" mounted."""
  from google.cloud import aiplatform_v1

  generation = tpu.generation
  mounts = []
  if nfs:
    server, _, path = nfs.partition(":")
    point = SHARED.rpartition("/")[2]
    mounts.append(
      aiplatform_v1.NfsMount(server=server, path=path, mount_point=point)
    )
  if generation.cores == 2:
    machine = aiplatform_v1.MachineSpec(
      machine_type=generation.vertex,
      accelerator_type=generation.resource,
      accelerator_count=tpu.chips * generation.cores,
    )
  else:
    machine = aiplatform_v1.MachineSpec(
      machine_type=str(generation.vertex).format(tpu.chips_each),
      tpu_topology=tpu.topology,
    )
  return aiplatform_v1.WorkerPoolSpec(
    machine_spec=machine,
    replica_count=1,
    nfs_mounts=mounts,
    container_spec=aiplatform_v1.ContainerSpec(
      image_uri=image, command=["python"], args=list(args)
    ),
  )


def _pod(
  name: str,
  tpu: Tpu,
  image: str,
  args: Sequence[str],
  *,
  labels: Mapping[str, str],
  nfs: str | None,
  spot: bool,
) -> Any:
  """One host of a slice; arguments as `kubernetes_job`, `labels` beside."""
  from kubernetes import client

  chips = {"google.com/tpu": str(tpu.chips_each)}
  nodes = {
    "cloud.google.com/gke-tpu-accelerator": tpu.generation.gke,
    "cloud.google.com/gke-tpu-topology": tpu.topology,
  }
  if spot:
    nodes["cloud.google.com/gke-spot"] = "true"
  volumes = mounts = None
  if nfs:
    server, _, path = nfs.partition(":")
    disk = client.V1NFSVolumeSource(server=server, path=path)
    volumes = [client.V1Volume(name="shared", nfs=disk)]
    mounts = [client.V1VolumeMount(name="shared", mount_path=SHARED)]
  container = client.V1Container(
    name="suti",
    image=image,
    command=["python"],
    args=list(args),
    ports=[client.V1ContainerPort(container_port=8476)],
    resources=client.V1ResourceRequirements(requests=chips, limits=chips),
    volume_mounts=mounts,
  )
  return client.V1PodTemplateSpec(
    metadata=client.V1ObjectMeta(labels={"app": "suti", **labels}),
    spec=client.V1PodSpec(
      subdomain=name,
      restart_policy="Never",
      node_selector=nodes,
      containers=[container],
      volumes=volumes,
    ),
  )


def kubernetes_job(
  name: str,
  tpu: Tpu,
  image: str,
  args: Sequence[str],
  *,
  nfs: str | None,
  spot: bool,
) -> tuple[Any, Any]:
  """A job with a pod for each host of a slice, and the service that names them.

  Args:
    name: of the job.
    tpu: the slice.
    image, args: what runs.
    nfs: "SERVER:/PATH" of the disk with the workdir, if it is on one.
    spot: whether the nodes may be taken away.

  Returns: a headless service, by which GKE names to each pod the others
    (TPU_WORKER_HOSTNAMES, TPU_WORKER_ID), and the job.
  """
  from kubernetes import client

  selector = {"suti-job": name}
  meta = client.V1ObjectMeta(name=name, labels={"app": "suti"})
  service = client.V1Service(
    api_version="v1",
    kind="Service",
    metadata=meta,
    spec=client.V1ServiceSpec(cluster_ip="None", selector=selector),
  )
  pod = _pod(name, tpu, image, args, labels=selector, nfs=nfs, spot=spot)
  mistake = client.V1PodFailurePolicyRule(
    action="FailJob",
    on_exit_codes=client.V1PodFailurePolicyOnExitCodesRequirement(
      operator="In", values=[MISTAKE]
    ),
  )
  job = client.V1Job(
    api_version="batch/v1",
    kind="Job",
    metadata=meta,
    spec=client.V1JobSpec(
      completion_mode="Indexed",  # a pod for each host
      completions=tpu.hosts,
      parallelism=tpu.hosts,
      backoff_limit=RETRIES * tpu.hosts,
      pod_failure_policy=client.V1PodFailurePolicy(rules=[mistake]),
      ttl_seconds_after_finished=KEPT_S,
      template=pod,
    ),
  )
  return service, job
