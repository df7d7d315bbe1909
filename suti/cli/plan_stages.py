# SPDX-License-Identifier: Apache-2.0
"""The stages that `suti plan` compiles, each as it would run on a slice.

Every host tunes experts and samples them by itself, on its own devices; judges
take one device, sampling of the apprentice the devices of the first host;
training alone takes the whole slice. What a config leaves to the machine is
decided as the stages decide it, by the chip's memory.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

import apprentice.programs
import experts.farm.programs
from experts.farm import capacity
from experts.farm.waves import count_slots
from experts.teacher import find
from suti.parallel.mesh import check_batch, flat_mesh, make_mesh, num_hosts
from suti.pipeline.backbone import Backbone
from suti.plan import preflight
from suti.plan.chips import Topology
from suti.plan.memory import SHARE, fit_size

MOST = 4096  # of a batch on a device; larger ones make no stage faster
_SEARCH = "--search finds what does"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
  """What is planned, and where.

  Attributes:
    config: the whole config.
    backbone: described.
    judges: folders of the judges, by their field of the config.
    topology: the slice.
    devices: its devices.
    num_subjects: how many are to be done.
    search: whether to look for the most that fits, whatever the config says.
    inspect: program -> report.
  """

  config: Any
  backbone: Backbone
  judges: Mapping[str, Path]
  topology: Topology
  devices: Sequence[Any]
  num_subjects: int
  search: bool
  inspect: Callable[[preflight.Program], preflight.Report]

  @property
  def host(self) -> Mesh:
    """The devices of the first host."""
    first = self.devices[0].process_index
    return flat_mesh([d for d in self.devices if d.process_index == first])

  @property
  def room(self) -> int:
    """Bytes of a chip that a program may take."""
    return self.topology.chip.program_bytes

  @property
  def chosen_room(self) -> int:
    """The same where a size is chosen by it."""
    return int(SHARE * self.room)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
  """A stage's program as it would run, compiled.

  Attributes:
    program, report: of it.
    size: how many experts or examples a device takes together; None if that is
      no field of the config.
    room: bytes that it may take of a device.
    remedy: what to do if it takes more.
  """

  program: preflight.Program
  report: preflight.Report
  size: int | None = None
  room: int
  remedy: str


Job = tuple[str, Callable[[], Planned]]


def make_jobs(here: Setting) -> list[Job]:
  """(module, the function that compiles it) of each of `config.plan.stages`.

  Raises:
    ValueError: the devices cannot share a batch evenly, or `config.mesh` does
      not fit the slice.
  """
  # Shared by both stages that a wave goes through.
  wave = functools.cache(lambda: _choose_wave(here))
  jobs: dict[str, Callable[[], list[Job]]] = {
    "finetune": lambda: (
      [("experts.finetune", lambda: _tune(here, *wave()))]
      if find(here.config.finetune.teacher).loss is not None
      else []  # Such a teacher tunes nothing.
    ),
    "sample": lambda: [("experts.sample", lambda: _sample(here, *wave()))],
    "filter": lambda: [
      (f"experts.filter {field}", functools.partial(_judge, here, field))
      for field in here.judges
    ],
    "train": lambda: [
      (
        "apprentice.train",
        _of_batch(
          here,
          "train.batch_size",
          apprentice.programs.train,
          make_mesh(here.config.mesh, devices=here.devices),
          remedy="split its parameters over more chips, config.mesh.fsdp",
        ),
      )
    ],
    "apprentice_sample": lambda: [
      (
        "apprentice.sample",
        _of_batch(
          here,
          "apprentice_sample.batch_size",
          apprentice.programs.sample,
          here.host,
          remedy="each chip has the whole net to sample with, so take chips "
          "with more memory",
        ),
      )
    ],
  }
  return [job for name in here.config.plan.stages for job in jobs[name]()]


def _choose_wave(here: Setting) -> tuple[Any, str, int, int]:
  """What `experts.finetune` would choose.

  Returns: `config.finetune` as it is planned, how experts run, slots of a
    device, and experts of a wave (the other slots are padding).
  """
  tune = here.config.finetune.copy_and_resolve_references().unlock()
  if here.search:
    with tune.ignore_type():  # A number may stand there.
      tune.experts_per_device = "auto"
  size, inner = capacity.choose(
    tune,
    here.host,
    bytes_at=_bytes_at(here),
    room=here.chosen_room,
    num_clusters=here.num_subjects,
  )
  # Of a size of 0, where not one fits, one is planned, to say what it needs.
  _, slots = count_slots(
    here.num_subjects,
    experts_per_wave=max(1, size),
    num_devices=here.host.size,
    experts_per_slot=tune.experts_per_slot,
  )
  real = max(1, min(size, here.num_subjects))
  return tune, inner, slots // here.host.size, real


def _bytes_at(here: Setting, **kw: Any) -> capacity.BytesAt:
  return capacity.make_bytes_at(
    here.config,
    here.backbone,
    here.host,
    inspect=lambda program: here.inspect(program).total_bytes,
    **kw,
  )


def _compiled(
  here: Setting, make: Callable[..., preflight.Program], inner: str, num: int
) -> tuple[preflight.Program, preflight.Report]:
  """A program of experts, which runs on each host."""
  config = here.config.copy_and_resolve_references().unlock()
  config.finetune.inner = inner
  program = make(config.lock(), here.backbone, here.host, per_device=num)
  program = dataclasses.replace(program, replicas=num_hosts(here.devices))
  return program, here.inspect(program)


def _tune(here: Setting, tune: Any, inner: str, num: int, real: int) -> Planned:
  program, report = _compiled(here, experts.farm.programs.finetune, inner, num)
  chosen = tune.experts_per_device == "auto"
  return Planned(
    program=_of_wave(program, here, num, real),
    report=report,
    size=num,
    room=here.chosen_room if chosen else here.room,
    remedy=capacity.REMEDY if chosen or num == 1 else _SEARCH,
  )


def _sample(
  here: Setting, tune: Any, inner: str, num: int, real: int
) -> Planned:
  """As many together as are tuned together, and in the same way if it fits."""
  if not tune.sample_after_tuning:
    inner = capacity.choose_sampling(
      tune,
      inner,
      bytes_at=_bytes_at(here, tuned=True),
      room=here.chosen_room,
      num=num,
    )
  program, report = _compiled(here, experts.farm.programs.sample, inner, num)
  return Planned(
    program=_of_wave(program, here, num, real),
    report=report,
    size=num,
    room=here.room,
    remedy="lower config.sample.batch_size, or tune fewer experts together, "
    "config.finetune.experts_per_device",
  )


def _of_wave(
  program: preflight.Program, here: Setting, num: int, real: int
) -> preflight.Program:
  """A program of `num` experts a device, run for all experts of a wave."""
  turns = -(-real // (num * here.host.size))
  return dataclasses.replace(
    program, calls=program.calls * turns, subjects=real
  )


def _judge(here: Setting, field: str) -> Planned:
  program = experts.farm.programs.judge(
    here.config, here.judges[field], flat_mesh(here.devices[:1])
  )
  return Planned(
    program=program,
    report=here.inspect(program),
    room=here.room,
    remedy=f"give a smaller judge as config.{field}",
  )


def _of_batch(
  here: Setting,
  field: str,
  make: Callable[..., preflight.Program],
  mesh: Mesh,
  *,
  remedy: str,
) -> Callable[[], Planned]:
  """Of a stage whose devices share a batch.

  Raises:
    ValueError: they cannot share it evenly.
  """
  section, name = field.split(".")
  total = here.config[section][name]
  if not here.search:
    check_batch(f"config.{field}", total, mesh)

  @functools.cache
  def compiled(num: int) -> tuple[preflight.Program, preflight.Report]:
    program = make(here.config, here.backbone, mesh, per_device=num)
    return program, here.inspect(program)

  def plan() -> Planned:
    num = total // mesh.size
    if here.search:
      num = fit_size(
        lambda num: compiled(num)[1].total_bytes, here.chosen_room, most=MOST
      )
    program, report = compiled(num or 1)
    return Planned(
      program=program,
      report=report,
      size=num or 1,
      room=here.room,
      remedy=remedy if here.search or num == 1 else _SEARCH,
    )

  return plan
