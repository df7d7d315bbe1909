# SPDX-License-Identifier: Apache-2.0
"""How many experts a device takes: by the config, or by its memory."""

import shutil
import types

import jax
import numpy as np
import pytest

from experts import finetune, sample
from experts.farm import capacity, programs
from experts.farm.waves import map_experts
from suti.io.files import read_json
from suti.parallel.mesh import batch_sharding, flat_mesh, replicated
from suti.plan.preflight import Program
from tests.experts import inputs


@pytest.fixture
def mesh():
  return flat_mesh()


@pytest.fixture
def room(monkeypatch):
  """1000 bytes on each device, of which 900 are taken."""
  monkeypatch.setattr(capacity, "free_bytes", lambda device, counted: 1000)


def bytes_at(tune, num):
  """100 for what is shared, 90 an expert; mapped, 40."""
  return 100 + num * (90 if tune.inner == "vmap" else 40)


def settle(mesh, folder, *, bytes_at=bytes_at, num_clusters=1000, **fields):
  tune = inputs.make_config({}, **fields).finetune
  return capacity.settle(
    tune,
    mesh,
    bytes_at=bytes_at,
    shared={},
    num_clusters=num_clusters,
    folder=folder,
  )


def test_as_many_as_fit_on_each_of_eight_devices(mesh, room, tmp_path):
  auto = {"experts_per_device": "auto"}
  assert settle(mesh, tmp_path / "a", **auto).experts_per_wave == 8 * 8
  mapped = settle(mesh, tmp_path / "b", inner="map", **auto)
  assert (mapped.experts_per_wave, mapped.inner) == (20 * 8, "map")
  few = settle(mesh, tmp_path / "c", num_clusters=20, **auto)
  assert few.experts_per_wave == 3 * 8


def test_a_run_resumes_with_the_waves_it_began_with(mesh, room, tmp_path):
  auto = {"experts_per_device": "auto"}
  settle(mesh, tmp_path, **auto)

  def never(tune, num):
    raise AssertionError("it was decided before")

  again = settle(mesh, tmp_path, bytes_at=never, **auto)
  assert again.experts_per_wave == 64


def test_a_number_is_taken_as_it_is(mesh, tmp_path):
  tune = settle(mesh, tmp_path, experts_per_device=3)
  assert tune.experts_per_wave == 24
  assert not settle(mesh, tmp_path / "b").experts_per_device


def test_they_run_together_where_there_is_room(mesh, room, tmp_path):
  for num, inner in ((16, "vmap"), (64, "vmap"), (72, "map")):
    folder = tmp_path / str(num)
    tune = settle(mesh, folder, experts_per_wave=num, inner="auto")
    assert (tune.experts_per_wave, tune.inner) == (num, inner)
  # As large as the wave can become, not as the config lets it.
  tune = settle(
    mesh, tmp_path / "b", experts_per_wave=800, inner="auto", num_clusters=64
  )
  assert tune.inner == "vmap"


def test_of_two_workers_the_first_one_chooses_the_wave_size(
  mesh, room, tmp_path
):
  """And how it is run."""

  def slow(tune, num):
    (tmp_path / "packing.json").write_text(
      '{"experts_per_wave": 80, "inner": "map"}'
    )
    return bytes_at(tune, num)

  auto = {"experts_per_device": "auto", "inner": "auto"}
  tune = settle(mesh, tmp_path, bytes_at=slow, **auto)
  assert (tune.experts_per_wave, tune.inner) == (80, "map")


def test_an_expert_that_does_not_fit_is_one_line(mesh, room, tmp_path):
  with pytest.raises(ValueError) as caught:
    settle(
      mesh,
      tmp_path,
      bytes_at=lambda tune, num: num * 12_340_000_000,
      experts_per_device="auto",
    )
  assert str(caught.value) == (
    "An expert needs 12.34 GB, and a device has room for 0.00 GB: set "
    "config.finetune.remat=True or dtype and master_dtype to 'bfloat16', or "
    "lower config.finetune.batch_size or config.sample.batch_size."
  )
  assert not (tmp_path / "packing.json").exists()


def test_a_resumed_run_maps_experts_as_it_began(mesh, room, tmp_path, capsys):
  """Of 72, nine do not fit a device together; of 16, two do."""
  auto = {"inner": "auto"}
  few, many = tmp_path / "few", tmp_path / "many"
  settle(mesh, few, experts_per_wave=16, **auto)
  settle(mesh, many, experts_per_wave=72, **auto)

  def never(tune, num):
    raise AssertionError("it was decided before")

  # With less memory it is "map" from then on, with a message.
  def more(tune, num):
    return 1000 * bytes_at(tune, num) if tune.inner == "vmap" else 0

  assert settle(mesh, few, experts_per_wave=16, **auto).inner == "vmap"
  # With more room it stays as it was.
  again = settle(mesh, many, experts_per_wave=72, bytes_at=never, **auto)
  assert again.inner == "map"
  assert capsys.readouterr().err == ""
  again = settle(mesh, few, experts_per_wave=16, bytes_at=more, **auto)
  assert again.inner == "map"
  assert capsys.readouterr().err == (
    "This machine has too little memory to run the experts of a device in "
    "parallel, as the run began: they run one after the other, with the same "
    "results up to rounding.\n"
  )


@pytest.mark.parametrize(
  ("fields", "needs", "asked"),
  [
    ({"inner": "auto"}, 900, ["vmap"]),
    ({"inner": "auto"}, 901, ["vmap", "map"]),
    ({"experts_per_device": "auto"}, 901, ["vmap", "map"]),
    # Explicit values of a config are used.
    ({}, 901, ["vmap"]),
    ({"inner": "map", "experts_per_device": "auto"}, 901, ["map"]),
  ],
)
def test_sampling_from_disk_fits_as_well(
  mesh, room, tmp_path, capsys, fields, needs, asked
):
  """As it was tuned, or else one after the other."""
  settle(mesh, tmp_path, experts_per_wave=16, **fields)
  inner = capacity.settle_sampling(
    inputs.make_config({}, **fields).finetune,
    mesh,
    bytes_at=lambda tune, num: needs if (tune.inner, num) == ("vmap", 2) else 0,
    shared={},
    num=2,
    folder=tmp_path,
  )
  assert inner == asked[-1]
  assert ("too little memory" in capsys.readouterr().err) == (len(asked) == 2)


def test_a_wave_needs_what_its_largest_program_needs(monkeypatch):
  """Beside a step there is the autoencoder, an argument of sampling."""
  found = {"finetune": 500, "keep": 700, "sample": 650}
  for name in found:
    monkeypatch.setattr(programs, name, lambda *_, name=name, **__: name)
  params = {"decoder.weight": np.ones(25, np.float32)}
  codec = types.SimpleNamespace(params=params)

  def need(*, tuned=False, **fields):
    config = inputs.make_config({}, **fields)
    bytes_at = capacity.make_bytes_at(
      config,
      types.SimpleNamespace(codec=codec),
      None,
      tuned=tuned,
      inspect=lambda name: found[name],
    )
    return bytes_at(config.finetune, 1)

  assert need() == 600
  assert need(sample_after_tuning=True) == 650
  assert need(keep="difference", sample_after_tuning=True) == 800
  assert need(tuned=True, keep="difference") == 650


def test_what_a_wave_needs_is_of_one_device(mesh, monkeypatch):
  """Eight devices: an expert more on each is its own bytes more."""

  def step_expert(shared, params, data):
    return params + (data @ shared).sum()

  def make(config, backbone, mesh, *, per_device):
    num, each = per_device * mesh.size, batch_sharding(mesh)
    step = map_experts(step_expert, mesh, inner=config.finetune.inner)
    shapes = ((64, 64), (num, 1000), (num, 16, 64))
    return Program(
      function=jax.jit(step, donate_argnums=1),
      arguments=[
        jax.ShapeDtypeStruct(shape, np.float32, sharding=where)
        for shape, where in zip(
          shapes, (replicated(mesh), each, each), strict=True
        )
      ],
      num_parameters=0,
      batch_size=num,
    )

  monkeypatch.setattr(programs, "finetune", make)
  config = inputs.make_config({})
  backbone = types.SimpleNamespace(codec=types.SimpleNamespace(params={}))
  need = capacity.make_bytes_at(config, backbone, mesh)
  one, two, four = (need(config.finetune, num) for num in (1, 2, 4))
  own = 4 * (1000 + 16 * 64)
  assert own + 4 * 64 * 64 <= one < own + 4 * 64 * 64 + 20_000
  assert own <= two - one < 3 * own
  assert 2 * own <= four - two < 6 * own


def test_a_stage_decides_by_the_memory(tuned, clusters, tmp_path, monkeypatch):
  """With room for two a device: the waves and files of a run given two."""
  whole, config = tuned
  inputs.write_stages(tmp_path, clusters)
  monkeypatch.setattr(capacity, "free_bytes", lambda device, counted: 300)
  monkeypatch.setattr(
    capacity, "make_bytes_at", lambda *_, **__: lambda tune, num: 100 * num
  )
  config = config.copy_and_resolve_references().unlock()
  config.finetune.update(experts_per_device="auto", experts_per_wave=8)
  finetune.run(config.lock(), tmp_path)
  folder = "experts/finetune"
  assert read_json(tmp_path / folder / "packing.json") == {
    "experts_per_wave": 16,
    "inner": "vmap",
  }
  for name in ("wave-00000", "wave-00001"):
    for kind in ("json", "safetensors"):
      path = f"{folder}/{name}.{kind}"
      assert (whole / path).read_bytes() == (tmp_path / path).read_bytes()


class AskedError(Exception):
  """A fake of the sample function."""


@pytest.mark.parametrize("stage", [finetune, sample])
def test_a_wave_is_sampled_as_it_was_tuned(
  tuned, clusters, tmp_path, monkeypatch, stage
):
  """Room for one a device, of two: one after the other, then as well as now."""
  config = tuned[1].copy_and_resolve_references().unlock()
  config.finetune.update(inner="auto", sample_after_tuning=True)
  if stage is sample:
    shutil.copytree(tuned[0], tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "experts/sample", ignore_errors=True)
  else:
    inputs.write_stages(tmp_path, clusters)
  monkeypatch.setattr(capacity, "free_bytes", lambda device, counted: 150)
  capacity.settle(
    config.finetune,
    flat_mesh(),
    bytes_at=lambda tune, num: 100 * num,
    shared={},
    num_clusters=20,
    folder=tmp_path / "experts/finetune",
  )
  monkeypatch.setattr(
    capacity, "make_bytes_at", lambda *_, **__: lambda tune, num: 100 * num
  )

  def refuse(*_, inner, **__):
    raise AskedError(inner)

  monkeypatch.setattr(sample, "make_sample_wave", refuse)
  with pytest.raises(AskedError, match="map"):
    stage.run(config.lock(), tmp_path)
