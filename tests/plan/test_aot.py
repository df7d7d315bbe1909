# SPDX-License-Identifier: Apache-2.0
"""Stages' programs, compiled by TPUs' compiler for slices that are not here.

  pip install -e '.[tpu]' && pytest -m aot

Tiny nets: what is tested is that the compiler takes the programs and that what
it writes is read rightly. The sizes of real ones are docs/plans.md's.
"""

import json

import jax
import jax.numpy as jnp
import pytest

import apprentice.programs
import experts.farm.programs
from configs import quickstart
from suti.parallel.mesh import (
  batch_sharding,
  flat_mesh,
  make_mesh,
  num_hosts,
  replicated,
)
from suti.pipeline.backbone import describe_backbone
from suti.plan import preflight
from suti.plan.chips import CHIPS, parse_topology
from suti.plan.estimate import fits
from suti.plan.preflight import Program, devices, inspect
from tests.commands import start
from tests.tiny import SIZE_PX

pytestmark = pytest.mark.aot
SLICES = ("v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2")


def make_config(**mesh):
  config = quickstart.get_config("tiny").unlock()
  config.size_px = SIZE_PX
  config.mesh.update(**mesh)
  config.method.num_heads = 2
  config.train.batch_size = config.apprentice_sample.batch_size = 4
  return config.lock()


def product(topology, *, size):
  """A product of two square matrices on each device."""
  mesh = flat_mesh(devices(topology))
  x = jax.ShapeDtypeStruct(
    (mesh.size * size, size), jnp.bfloat16, sharding=batch_sharding(mesh)
  )
  w = jax.ShapeDtypeStruct(
    (size, size), jnp.bfloat16, sharding=replicated(mesh)
  )
  return Program(
    function=jax.jit(lambda x, w: x @ w),
    arguments=(x, w),
    num_parameters=size**2,
    batch_size=mesh.size,
  )


@pytest.mark.parametrize("name", SLICES)
def test_a_device_is_a_chip_and_a_large_product_runs_near_its_peak(name):
  """By the compiler's cycles: the clock in the table is the chip's."""
  topology = parse_topology(name)
  assert len(devices(topology)) == topology.num_chips == 4
  assert num_hosts(devices(topology)) == 1
  report = inspect(product(topology, size=4096), topology)
  costs, chip = report.costs, topology.chip
  assert costs.flops == 2 * 4096**3
  least = costs.flops / chip.peak_flops
  assert 0.95 * least < costs.cycles / chip.clock_hz < 1.3 * least
  assert not costs.collectives


@pytest.mark.parametrize("kind", CHIPS)
def test_what_does_not_fit_is_told_with_its_size(kind):
  topology = parse_topology(f"{kind}:{'x'.join('1' * CHIPS[kind].num_axes)}")
  program = product(topology, size=2**18)  # 128 GB each
  report = inspect(program, topology)
  assert not fits(report, topology.chip.program_bytes)
  assert 128 * 2**30 < report.total_bytes < 2**40
  # The room in the table is what the compiler says.
  assert f"{topology.chip.program_bytes / 2**30:.2f}G" in report.too_large


def test_experts_of_a_slice_send_each_other_nothing(tiny_backbone):
  topology = parse_topology("v5e:2x2")
  config = make_config()
  mesh = flat_mesh(devices(topology))
  backbone = describe_backbone(tiny_backbone)
  one, two = (
    inspect(
      experts.farm.programs.finetune(config, backbone, mesh, per_device=num),
      topology,
    )
    for num in (1, 2)
  )
  for report in (one, two):
    assert fits(report, topology.chip.program_bytes)
    assert not report.costs.collectives
    assert report.costs.unknown_loops == 0
  assert two.costs.flops == pytest.approx(2 * one.costs.flops, rel=0.1)


def test_the_whole_command(
  tiny_backbone, tiny_clip, root, tmp_path, capsys, monkeypatch
):
  """Training over `fsdp` sends; what is compiled once is read from then on."""
  out = tmp_path / "plan.json"
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
  command = (
    "plan",
    f"--config={root / 'configs/quickstart.py'}:tiny",
    "--topology=v5e:2x4",
    f"--config.backbone={tiny_backbone}",
    f"--config.clip={tiny_clip}",
    f"--config.identity={tiny_clip}",
    f"--config.size_px={SIZE_PX}",
    "--config.mesh.fsdp=8",
    "--config.method.num_heads=2",
    "--config.train.batch_size=8",
    "--config.finetune.experts_per_wave=4",
    f"--json={out}",
  )
  assert start(*command) == 0
  stages = json.loads(out.read_text())["stages"]
  assert [row["stage"] for row in stages] == [
    "experts.finetune",
    "experts.sample",
    "experts.filter clip",
    "experts.filter identity",
    "apprentice.train",
    "apprentice.sample",
  ]
  assert all(row["fits"] for row in stages)
  sends = {row["stage"] for row in stages if row["collective_bytes"]}
  assert sends == {"apprentice.train"}
  assert {row["stage"]: row["batch_size"] for row in stages} == {
    "experts.finetune": 4,
    "experts.sample": 16,
    "experts.filter clip": 64,
    "experts.filter identity": 64,
    "apprentice.train": 8,
    "apprentice.sample": 4,
  }
  said = capsys.readouterr().out
  monkeypatch.setattr(preflight, "_compile", None)  # would fail if called
  assert start(*command) == 0
  assert capsys.readouterr().out == said


def test_training_reports_a_share_of_the_whole_batch(tiny_backbone):
  """A device computes its share: four take a quarter each."""
  config = make_config(data=-1)
  backbone = describe_backbone(tiny_backbone)
  flops = {}
  for name, each in (("v5e:1x1", 4), ("v5e:2x2", 1)):
    topology = parse_topology(name)
    mesh = make_mesh(config.mesh, devices=devices(topology))
    program = apprentice.programs.train(config, backbone, mesh, per_device=each)
    assert program.batch_size == 4
    flops[name] = inspect(program, topology).costs.flops
  assert flops["v5e:2x2"] == pytest.approx(flops["v5e:1x1"] / 4, rel=0.1)
