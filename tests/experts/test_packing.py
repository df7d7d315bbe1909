# SPDX-License-Identifier: Apache-2.0
"""How many experts a device takes: what a config says, what its memory says."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experts import finetune, packing, sample
from experts.waves import map_experts
from suti.io.files import read_json
from suti.parallel.mesh import batch_sharding, flat_mesh
from tests.experts import inputs


@pytest.fixture
def mesh():
  return flat_mesh()


@pytest.fixture
def room(monkeypatch):
  """1000 bytes on each device, of which 900 are taken."""
  monkeypatch.setattr(packing, "free_bytes", lambda device, counted: 1000)


def bytes_at(tune, num):
  """100 for what is shared, 90 an expert; mapped, 40."""
  return 100 + num * (90 if tune.inner == "vmap" else 40)


def settle(mesh, folder, *, bytes_at=bytes_at, num_clusters=1000, **fields):
  tune = inputs.make_config({}, **fields).finetune
  return packing.settle(
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


def test_a_run_goes_on_with_the_waves_it_began_with(mesh, room, tmp_path):
  auto = {"experts_per_device": "auto"}
  settle(mesh, tmp_path, **auto)

  def never(tune, num):
    raise AssertionError("it was decided before")

  again = settle(mesh, tmp_path, bytes_at=never, **auto)
  assert again.experts_per_wave == 64


def test_a_number_is_taken_as_it_is(mesh, tmp_path):
  tune = settle(mesh, tmp_path, experts_per_device="3")
  assert tune.experts_per_wave == 24
  assert not settle(mesh, tmp_path / "b").experts_per_device


def test_they_run_at_once_where_there_is_room(mesh, room, tmp_path):
  for num, inner in ((16, "vmap"), (64, "vmap"), (72, "map")):
    folder = tmp_path / str(num)
    tune = settle(mesh, folder, experts_per_wave=num, inner="auto")
    assert (tune.experts_per_wave, tune.inner) == (num, inner)
    # They are drawn as they were tuned, whoever draws them.
    asked = inputs.make_config({}, inner="auto").finetune
    assert packing.inner_of(asked, folder) == inner
  # As large as the wave can become, not as the config lets it.
  tune = settle(
    mesh, tmp_path / "b", experts_per_wave=800, inner="auto", num_clusters=64
  )
  assert tune.inner == "vmap"


def test_of_two_workers_the_faster_one_says_how_large_a_wave_is(
  mesh, room, tmp_path
):
  """And the other decides anew how it runs those."""

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
    "lower config.finetune.batch_size."
  )
  assert not (tmp_path / "packing.json").exists()


def test_what_a_step_needs_is_of_one_device(mesh):
  """Eight devices: an expert more on each is its own bytes more."""

  def step_expert(shared, expert, data):
    return {"params": expert["params"] + (data @ shared).sum()}

  def make_step(tune):
    step_all = map_experts(step_expert, mesh, inner=tune.inner)

    def step_wave(state, shared, data):
      new = step_all(shared, {"params": state["params"]}, data)
      return new | {"step": state["step"] + 1}

    return jax.jit(step_wave, donate_argnums=0)

  def start(num):
    params = jnp.zeros((num, 1000), jnp.float32)
    return {
      "params": jax.device_put(params, batch_sharding(mesh)),
      "step": np.int32(0),
    }

  need = packing.make_bytes_at(
    make_step,
    start,
    np.ones((64, 64), np.float32),
    lambda num: jax.ShapeDtypeStruct((num, 16, 64), np.float32),
    mesh,
  )
  tune = inputs.make_config({}).finetune
  one, two, four = (need(tune, num) for num in (1, 2, 4))
  own = 4 * (1000 + 16 * 64)
  assert own + 4 * 64 * 64 <= one < own + 4 * 64 * 64 + 20_000
  assert own <= two - one < 3 * own
  assert 2 * own <= four - two < 6 * own


def test_a_stage_decides_by_the_memory(tuned, clusters, tmp_path, monkeypatch):
  """With room for two a device: the waves, and files, of a run told so."""
  whole, config = tuned
  inputs.write_stages(tmp_path, clusters)
  monkeypatch.setattr(packing, "free_bytes", lambda device, counted: 300)
  monkeypatch.setattr(
    packing, "make_bytes_at", lambda *_: lambda tune, num: 100 * num
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
  """Stands in for the drawing."""


@pytest.mark.parametrize("stage", [finetune, sample])
def test_a_wave_is_drawn_as_it_was_tuned(
  tuned, clusters, tmp_path, monkeypatch, stage
):
  """Room for one a device, of two: one after the other, then as well as now."""
  config = tuned[1].copy_and_resolve_references().unlock()
  config.finetune.update(inner="auto", draw_at_once=True)
  if stage is sample:
    shutil.copytree(tuned[0], tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "experts/sample", ignore_errors=True)
  else:
    inputs.write_stages(tmp_path, clusters)
  monkeypatch.setattr(packing, "free_bytes", lambda device, counted: 150)
  packing.settle(
    config.finetune,
    flat_mesh(),
    bytes_at=lambda tune, num: 100 * num,
    shared={},
    num_clusters=20,
    folder=tmp_path / "experts/finetune",
  )
  monkeypatch.setattr(
    packing, "make_bytes_at", lambda *_: lambda tune, num: 100 * num
  )

  def ask(*_, inner, **__):
    raise AskedError(inner)

  monkeypatch.setattr(sample, "make_draw_wave", ask)
  with pytest.raises(AskedError, match="map"):
    stage.run(config.lock(), tmp_path)
