# SPDX-License-Identifier: Apache-2.0
"""Multi-host runs: the processes of one command, one per host.

A slice of a TPU pod has many hosts, and the same command is started on each; on
a single host this module has no effect. A stage runs in one of three ways:

  first   the first process runs it, with the devices of its host; the others
          wait for it
  each    every process runs it, with the devices of its host: experts are
          independent, so hosts need not even be started together, and the
          others continue if one dies
  all     the processes run it together, over the devices of all hosts

For `first` and `all` they join by `jax.distributed`, and the first process
locks the workdir, prints, and writes shared files. The others follow it by
files in the workdir, which they must share. If one dies, `jax.distributed` ends
the others within two minutes; when started again, they resume.

Slices never communicate: each is a group of its own.

The group is detected here, although `jax.distributed.initialize` detects TPU
VMs and GKE: that joins all slices of a multi-slice job into one group; it also
detects Slurm clusters; and processes that run as `each` need their index, but
must not join, which would make them wait for each other.
"""

import contextlib
import dataclasses
import math
import os
import sys
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Literal, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from suti.io import files
from suti.io.paths import in_bucket

How = Literal["first", "each", "all"]

COORDINATOR = "SUTI_COORDINATOR"
COUNT = "SUTI_NUM_PROCESSES"
INDEX = "SUTI_PROCESS_ID"

_PORT = 8476  # of the first host, if no other is given
_SHARED_S = 300  # seconds in which a network disk must show a new file
_META = "http://{}/computeMetadata/v1/instance/attributes/{}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
  """The index of this process in a group, and how to join it.

  Attributes:
    coordinator: "HOST:PORT" of the first process.
    count: the number of processes.
    index: of this process, from 0.
  """

  coordinator: str
  count: int
  index: int


def find_process(env: Mapping[str, str] = os.environ) -> Place | None:
  """Detects a group by the environment, on GKE, then on a Cloud TPU VM.

  Args:
    env: SUTI_COORDINATOR, SUTI_NUM_PROCESSES and SUTI_PROCESS_ID, or what GKE
      sets; a TPU VM asks its metadata server, if it has a TPU.

  Returns:
    None on a single host.

  Raises:
    ValueError: some variables are missing, or are no numbers.
  """
  given = [name for name in (COORDINATOR, COUNT, INDEX) if env.get(name)]
  if given:
    place = _given_process(env, given)
  elif names := env.get("TPU_WORKER_HOSTNAMES"):
    place = _place_of(names.split(","), env.get("TPU_WORKER_ID", "0"))
  elif _has_tpu(env) and (names := _metadata("worker-network-endpoints", env)):
    # Newer servers list hosts, older ones NAME:ID:HOST.
    hosts = [name.split(":")[-1] for name in names.split(",")]
    place = _place_of(hosts, _metadata("agent-worker-number", env) or "0")
  else:
    return None
  return place if place.count > 1 else None


def _given_process(env: Mapping[str, str], given: list[str]) -> Place:
  """Reads the three variables."""
  missing = {COORDINATOR, COUNT, INDEX} - set(given)
  if missing:
    raise ValueError(
      f"{' and '.join(given)} without {' and '.join(sorted(missing))}: set all"
      " three, in every process, or none."
    )
  try:
    count, index = int(env[COUNT]), int(env[INDEX])
  except ValueError:
    count = index = 0
  if not 0 <= index < count:
    raise ValueError(
      f"{INDEX}={env[INDEX]} of {COUNT}={env[COUNT]}: numbers are expected, and"
      " processes are counted from 0."
    )
  coordinator = env[COORDINATOR]
  if ":" not in coordinator:
    coordinator += f":{_PORT}"
  return Place(coordinator=coordinator, count=count, index=index)


def _place_of(hosts: list[str], index: str) -> Place:
  """The process of a slice's host; the first host is the coordinator."""
  return Place(
    coordinator=f"{hosts[0]}:{_PORT}", count=len(hosts), index=int(index)
  )


def _has_tpu(env: Mapping[str, str]) -> bool:
  """Whether to query the metadata server at all."""
  platforms = env.get("JAX_PLATFORMS") or "tpu"
  if "tpu" not in platforms.split(",") or "TPU_SKIP_MDS_QUERY" in env:
    return False
  return _num_chips() > 0


def _num_chips() -> int:
  """The TPU chips of this host, by the device nodes of their driver."""
  nodes = ("accel[0-9]*", "vfio/[0-9]*")
  return sum(1 for node in nodes for _ in Path("/dev").glob(node))


def _metadata(name: str, env: Mapping[str, str]) -> str | None:
  """Queries the metadata server of Google Cloud; None elsewhere."""
  server = env.get("GCE_METADATA_IP", "metadata.google.internal")
  request = urllib.request.Request(
    _META.format(server, name), headers={"Metadata-Flavor": "Google"}
  )
  # A proxy would answer for another machine.
  opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
  try:
    with opener.open(request, timeout=5) as answer:
      return answer.read().decode().strip()
  except OSError:
    return None


class Group:
  """The processes of this command; a single one is a group as well.

  Attributes:
    index: of this process, from 0.
  """

  def __init__(self, workdir: Path, *, index: int = 0, name: str = "") -> None:
    """Made by `join`.

    Args:
      workdir: shared by all processes.
      index: of this process.
      name: unique to this group; "" if no process follows another.
    """
    self.index, self._workdir = index, workdir
    self._folder = workdir / ".hosts" / name if name else None
    self._points = 0
    self._poll_s = 2.0 if in_bucket(workdir) else 0.2  # requests are billed

  @property
  def first(self) -> bool:
    """Whether this process prints, and writes shared files."""
    return self.index == 0

  @contextlib.contextmanager
  def opened(
    self, context: Callable[[], contextlib.AbstractContextManager]
  ) -> Iterator[None]:
    """Enters a context in the first process; the others wait until it has.

    Raises:
      ValueError: the workdir is not shared.
    """
    if self.first or self._folder is None:
      with context():
        self._tell()
        yield
      return
    if not self._follow(limit_s=_SHARED_S):
      raise ValueError(
        f"--workdir={self._workdir} of process {self.index} is not that of"
        " process 0: give a folder that all hosts share, on a network disk or"
        " in a bucket."
      )
    yield

  def run(self, body: Callable[[], Any], *, how: How) -> None:
    """Runs a stage in one of the three ways."""
    if how != "first" or self.first:
      body()
    if self.first:
      self._tell()
    else:
      self._follow()  # Processes that joined end together.

  def end(self, code: int) -> None:
    """Ends this process's part, with the exit code of its command.

    A process that failed does not wait, as the others may be waiting for it:
    they end because it does.
    """
    if self._folder is None:
      return
    if code == 0:
      jax.distributed.shutdown()  # waits for all
    elif self.first:
      # On a full disk no file can be written: then the connection ends.
      with contextlib.suppress(OSError, ValueError):
        files.write_json(self._folder / "failed", code)
        time.sleep(2.0 + self._poll_s)  # for the others to read it
    if self.first:
      files.remove_folder(self._folder)
      with contextlib.suppress(OSError):  # it holds files of other groups
        self._folder.parent.rmdir()
    if code:
      _exit(code)

  def _tell(self) -> None:
    """Signals that the first process has reached its next sync point."""
    self._points += 1
    if self._folder is not None:
      files.write_json(self._folder / str(self._points), None)

  def _follow(self, *, limit_s: float = math.inf) -> bool:
    """Waits until the first process has reached this process's next sync point.

    By files: a stage takes hours, and collectives would time out.

    Returns: whether it did within the limit.
    """
    self._points += 1
    if self._folder is None:
      return True
    end = time.monotonic() + limit_s
    while not (self._folder / str(self._points)).is_file():
      if (self._folder / "failed").is_file():
        _exit(files.read_json(self._folder / "failed"))
      if time.monotonic() > end:
        return False
      time.sleep(self._poll_s)
    return True


def _exit(code: int) -> NoReturn:
  """Ends this process without JAX's barrier at exit."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


_joined: Group | None = None


def join(workdir: Path, *, how: How) -> Group:
  """Joins the other processes of this command, before JAX is used.

  Args:
    workdir: of the command.
    how: its stage runs: "first", "each" or "all".

  Raises:
    ValueError: the environment is inconsistent, or a process is missing.
  """
  global _joined
  place = find_process()
  if place is None:
    return Group(workdir)
  if how == "each":
    stand_alone()
    return Group(workdir, index=place.index)
  # It would replace the SIGTERM handler of suti.runtime.preemption.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    # JAX would also detect Slurm, and give each process one device.
    jax.distributed.initialize(
      place.coordinator,
      place.count,
      place.index,
      cluster_detection_method="deactivate",
    )
  except RuntimeError as error:
    raise ValueError(
      f"Process {place.index} of {place.count} could not join the others at"
      f" {place.coordinator} ({str(error).splitlines()[0]}): start the same"
      " command on every host, and let the hosts reach each other."
    ) from error
  name = f"{_agree_on_number():08x}"
  _joined = Group(workdir, index=jax.process_index(), name=name)
  return _joined


def stand_alone(env: MutableMapping[str, str] = os.environ) -> None:
  """Makes the chips of this host a slice of their own, if they are TPUs.

  Otherwise libtpu would wait for all hosts of the slice before it starts. With
  TPU_PROCESS_BOUNDS set already nothing is changed.

  Args:
    env: the environment that libtpu reads.
  """
  # One, four or eight chips on a host: there are no others.
  bounds = {1: "1,1,1", 4: "2,2,1", 8: "2,4,1"}.get(_num_chips())
  if bounds is None or "TPU_PROCESS_BOUNDS" in env:
    return
  env["TPU_PROCESS_BOUNDS"] = env["TPU_HOST_BOUNDS"] = "1,1,1"
  env["TPU_CHIPS_PER_PROCESS_BOUNDS"] = bounds
  env["TPU_CHIPS_PER_HOST_BOUNDS"] = bounds
  env["TPU_WORKER_HOSTNAMES"], env["TPU_WORKER_ID"] = "localhost", "0"


def end(code: int) -> None:
  """Ends the group, if this process joined one; see `Group.end`."""
  if _joined is not None:
    if sys.exc_info()[0] is not None:
      traceback.print_exc()  # Python would print it too late.
    _joined.end(code)


def _agree_on_number() -> int:
  """A random number, the same in all processes."""
  number = np.frombuffer(os.urandom(4), np.uint32)
  return int(multihost_utils.broadcast_one_to_all(number)[0])


def gather(arrays: Mapping[str, jax.Array]) -> dict[str, Any]:
  """Copies arrays to the first process, also those that hosts share.

  All processes must call it.

  Args:
    arrays: by name, in the same order everywhere.

  Returns:
    NumPy arrays by name; {} in the other processes.
  """
  copies = {}
  for name, x in arrays.items():
    if not (x.is_fully_addressable or x.is_fully_replicated):
      x = multihost_utils.process_allgather(x, tiled=True)
    if jax.process_index() == 0:
      copies[name] = np.asarray(x)
  return copies
