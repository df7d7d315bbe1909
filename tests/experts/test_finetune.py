# SPDX-License-Identifier: Apache-2.0
"""Waves of experts: independent, without communication, resumable."""

import dataclasses
import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from experts import finetune, teacher
from experts.farm import train_step, wave_files
from experts.farm.wave_checkpoints import WaveCheckpoints
from experts.farm.waves import make_waves, padded_pictures, wave_data
from suti.io.checkpoint import Checkpoints
from suti.io.files import read_json, write_json
from suti.parallel.mesh import batch_sharding
from suti.pipeline.backbone import load_backbone
from suti.runtime import preemption
from tests.experts import inputs
from tests.experts.farm.loops import (
  COLLECTIVE,
  NUM_STEPS,
  Loop,
  assert_same_expert,
)


def test_an_expert_of_a_wave_is_the_expert_alone(wave, loops, clusters):
  for i in (0, 3):
    assert_same_expert(wave, i, loops["alone"].run([clusters[i]]), 0)
  # And it moved, to somewhere of its own.
  base = loops["alone"].backbone.params
  moved = [
    np.abs(x[0] - np.asarray(base[name])).max()
    for name, x in wave["params"].items()
  ]
  assert min(moved) > 1e-6
  apart = [np.abs(x[0] - x[3]).max() for x in wave["params"].values()]
  assert min(apart) > 1e-6


def test_slot_and_padding_change_nothing(wave, loops, clusters):
  other = loops["full"].run([clusters[0]] * 6 + clusters[9::-1])
  for i in range(10):
    assert_same_expert(wave, i, other, 15 - i)


def test_mapped_one_by_one_they_are_the_same(loops, filled):
  vmapped, mapped = (loops[name].run(filled) for name in ("lora", "mapped"))
  for i in range(10):
    assert_same_expert(vmapped, i, mapped, i)
  base = loops["lora"].trainable
  moved = [
    np.abs(x[0] - np.asarray(base[name])).max()
    for name, x in mapped["params"].items()
    if name.endswith("lora_B.weight")
  ]
  assert min(moved) > 1e-6


@pytest.mark.parametrize("name", ["full", "lora", "mapped", "narrow"])
def test_a_compiled_wave_has_no_collective(loops, name, filled):
  text = loops[name].program(filled)
  assert "num_partitions=8" in text
  assert not COLLECTIVE.findall(text)


def test_the_search_for_collectives_finds_one(loops):
  sharding = batch_sharding(loops["full"].mesh)
  x = jax.device_put(np.ones((8, 4), np.float32), sharding)
  program = jax.jit(lambda x: x - x.sum(0)).lower(x).compile().as_text()
  assert COLLECTIVE.findall(program)


def test_an_expert_that_turns_nan_is_alone_in_it(wave, loops, filled):
  loop = loops["full"]

  def spoil(data):
    x = np.array(data["x_KHWC"])
    x[2] = np.nan
    return data | {"x_KHWC": jax.device_put(x, batch_sharding(loop.mesh))}

  state = loop.run(filled, change=spoil)
  np.testing.assert_array_equal(state["failed_E"], [-1, -1, 0] + [-1] * 13)
  for i in (0, 1, *range(3, 10)):
    assert_same_expert(wave, i, state, i)
  for name, x in state["params"].items():
    np.testing.assert_array_equal(x[2], loop.backbone.params[name])


def test_a_quarantined_expert_is_named_and_all_are_an_error(
  wave, tmp_path, clusters
):
  (one_wave,) = make_waves(
    [c.key for c in clusters[:7]], experts_per_wave=8, num_devices=8
  )
  failed_E = np.array([-1, 2] + [-1] * 6)
  loss_ET = wave["loss_ET"][:8].copy()
  loss_ET[1, 2] = np.nan

  def write(state):
    record = wave_files.describe(
      one_wave, state, teacher="dreambooth", damaged={}
    )
    wave_files.write_wave(tmp_path, one_wave, record, params=[])

  write(wave | {"failed_E": failed_E, "loss_ET": loss_ET})
  summary = wave_files.summarise(tmp_path, [one_wave])
  assert summary["experts"] == 6
  assert summary["quarantined"] == (
    f"{clusters[1].key} (loss or gradient not finite at step 2)"
  )
  expert = wave_files.read_experts(tmp_path, one_wave.name)[1]
  assert (expert.status, expert.steps) == ("quarantined", 2)
  assert np.isfinite(expert.loss)

  write(wave | {"failed_E": np.zeros(8, np.int32)})
  with pytest.raises(ValueError, match=r"All 7 experts were quarantined"):
    wave_files.summarise(tmp_path, [one_wave])


def test_a_run_writes_real_experts_and_their_losses(tuned, clusters):
  folder = tuned[0] / "experts/finetune"
  weights = [load_file(p) for p in sorted(folder.glob("*.safetensors"))]
  spec = load_backbone(tuned[1].backbone).params
  assert [len(next(iter(w.values()))) for w in weights] == [16, 4]
  for wave in weights:
    assert {k: x.shape[1:] for k, x in wave.items()} == {
      k: x.shape for k, x in spec.items()
    }
  records = [read_json(p) for p in sorted(folder.glob("wave-*.json"))]
  experts = [e for r in records for e in r["experts"]]
  assert [e["cluster"] for e in experts] == [c.key for c in clusters]
  assert all(len(curve) == 4 for r in records for curve in r["losses"])
  assert [r["steps"] for r in records] == [4, 4]
  assert not (folder / "checkpoints").exists()


def test_a_wave_resumes_with_other_numbers_of_devices(
  loops, clusters, tmp_path
):
  """8, then 4, then 1: another padding each time, the same experts."""
  keys = [cluster.key for cluster in clusters[:10]]
  whole = loops["mapped"].run([*clusters[:10], *clusters[9:10] * 6])
  backbone = loops["mapped"].backbone
  state = None
  for last, num_devices in ((2, 8), (3, 4), (NUM_STEPS, 1)):
    loop = (
      loops["mapped"]
      if num_devices == 8
      else Loop(
        backbone,
        num_devices=num_devices,
        teacher="lora",
        rank=3,
        inner="map",
        remat=True,
      )
    )
    (wave,) = make_waves(keys, experts_per_wave=16, num_devices=num_devices)
    assert wave.num_slots == {8: 16, 4: 12, 1: 10}[num_devices]
    data = loop.data([*clusters[:10], *clusters[9:10] * (wave.num_slots - 10)])
    with WaveCheckpoints(
      tmp_path, wave, worker=f"on-{num_devices}"
    ) as checkpoints:
      state = checkpoints.restore(loop.describe(wave.num_slots))
      if state is None:
        state = loop.start(wave.num_slots)
      for _ in range(int(state["step"]), last):
        state = loop.step(state, loop.frozen, data)
      assert int(state["step"]) == last
      checkpoints.save(last, state)
    (left,) = (tmp_path / wave.name).iterdir()
    assert left.name == f"on-{num_devices}", "its predecessors' are gone"
  for name in ("params", "loss_ET", "failed_E"):
    for one, two in zip(
      jax.tree.leaves(whole[name]), jax.tree.leaves(state[name]), strict=True
    ):
      # Not bitwise: XLA compiles a map over two experts and over ten otherwise;
      # 1e-10 was seen.
      np.testing.assert_allclose(
        one[:10], np.asarray(two)[:10], rtol=1e-4, atol=1e-8
      )


def test_a_worker_that_was_away_leaves_what_its_successor_saved(
  loops, clusters, tmp_path
):
  loop = loops["mapped"]
  (wave,) = make_waves(
    [c.key for c in clusters[:16]], experts_per_wave=16, num_devices=8
  )
  early, late = loop.start(16), loop.start(16)
  late["step"] = late["step"] + 3
  with (
    WaveCheckpoints(tmp_path, wave, worker="away") as away,
    WaveCheckpoints(tmp_path, wave, worker="successor") as successor,
  ):
    successor.save(3, late)
    away.save(2, early)
    assert int(away.restore(early)["step"]) == 3


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
  loops, clusters, tmp_path, capsys
):
  loop = loops["mapped"]
  (wave,) = make_waves(
    [c.key for c in clusters[:16]], experts_per_wave=16, num_devices=8
  )
  state, data = loop.start(16), loop.data(clusters[:16])
  with WaveCheckpoints(tmp_path, wave, worker="first") as checkpoints:
    for step in (1, 2):
      state = loop.step(state, loop.frozen, data)
      checkpoints.save(step, state)
  newest = tmp_path / wave.name / "first" / "2"
  for file in (newest / "state").rglob("*"):
    if file.is_file():
      file.write_bytes(b"")
  with WaveCheckpoints(tmp_path, wave, worker="second") as checkpoints:
    assert int(checkpoints.restore(loop.describe(16))["step"]) == 1
  assert (
    "Step 2 of wave-00000 is lost: The checkpoint " in capsys.readouterr().err
  )


class KilledError(BaseException):
  """Stands for kill -9."""


def test_a_killed_run_ends_in_the_same_files(
  tuned, clusters, tmp_path, monkeypatch
):
  whole, config = tuned
  workdir = tmp_path / "killed"
  inputs.write_stages(workdir, clusters)
  save, saved = Checkpoints.save, []

  def save_then_die(checkpoints, step, state, data=None):
    save(checkpoints, step, state, data)
    saved.append(step)
    if len(saved) == 2:
      raise KilledError

  with monkeypatch.context() as patch:
    patch.setattr(Checkpoints, "save", save_then_die)
    with pytest.raises(KilledError):
      finetune.run(config, workdir)
  assert saved == [2, 2]  # in the first wave, then in the second
  assert not (workdir / "experts/finetune/wave-00001.json").exists()

  steps = []
  make_step = train_step.make_step

  def counted(*args):
    step = make_step(*args)
    return lambda *inputs: (steps.append(1), step(*inputs))[1]

  monkeypatch.setattr(train_step, "make_step", counted)
  finetune.run(config, workdir)
  assert len(steps) == 2  # of the second wave's four
  for name in ("wave-00000", "wave-00001"):
    for kind in ("json", "safetensors"):
      path = f"experts/finetune/{name}.{kind}"
      assert (whole / path).read_bytes() == (workdir / path).read_bytes(), path
  assert finetune.run(config, workdir)["experts"] == 20
  shutil.rmtree(workdir)


def test_sigterm_costs_no_step(tuned, clusters, tmp_path, monkeypatch):
  whole, config = tuned
  config = config.copy_and_resolve_references().unlock()
  config.finetune.checkpoint_every = 100  # no checkpoint but the last
  inputs.write_stages(tmp_path, clusters)
  make_step, steps = train_step.make_step, []

  def counted(*args):
    step = make_step(*args)

    def step_and_count(*inputs):
      steps.append(1)
      if len(steps) == 3:
        os.kill(os.getpid(), signal.SIGTERM)
      return step(*inputs)

    return step_and_count

  monkeypatch.setattr(train_step, "make_step", counted)
  with pytest.raises(preemption.TerminatedError), preemption.watched():
    finetune.run(config, tmp_path)
  folder = tmp_path / "experts/finetune"
  assert len(steps) == 3
  assert not list((folder / "leases").iterdir())
  finetune.run(config, tmp_path)
  assert len(steps) == 2 * NUM_STEPS
  for name in ("wave-00000", "wave-00001"):
    path = f"experts/finetune/{name}.safetensors"
    assert (whole / path).read_bytes() == (tmp_path / path).read_bytes()


def test_a_full_disk_is_one_line_and_the_wave_is_given_back(
  tuned, clusters, tmp_path, monkeypatch
):
  inputs.write_stages(tmp_path, clusters)

  def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(wave_files, "save_file", full)
  with pytest.raises(ValueError, match=r"The disk of .* is full: free some sp"):
    finetune.run(tuned[1], tmp_path)
  folder = tmp_path / "experts/finetune"
  assert not list((folder / "leases").iterdir())
  assert not list(folder.glob("wave-*"))


def test_a_size_that_the_backbone_does_not_make_is_refused(tuned, tmp_path):
  config = inputs.make_config({"backbone": tuned[1].backbone}).unlock()
  config.size_px = 64
  with pytest.raises(ValueError, match=r"config.size_px=64, but .* set config"):
    teacher.open_backbone(config)


def test_pictures_past_the_limit_are_left_out(loops, clusters):
  many = dataclasses.replace(
    clusters[0],
    images=clusters[0].images * 3,
    captions=clusters[0].captions * 3,
  )
  backbone = loops["alone"].backbone
  data = wave_data([clusters[0], many], backbone, num_pictures=4, seed=0)
  np.testing.assert_array_equal(data["num"], [len(clusters[0].images), 4])
  np.testing.assert_array_equal(data["x_KHWC"][0][:3], data["x_KHWC"][1][:3])
  fewer = wave_data([many], backbone, num_pictures=4, seed=0, most=2)
  np.testing.assert_array_equal(fewer["num"], [2])
  np.testing.assert_array_equal(fewer["x_KHWC"][0][:2], data["x_KHWC"][1][:2])
  np.testing.assert_array_equal(fewer["x_KHWC"][0][2], data["x_KHWC"][1][1])


def test_waves_are_padded_to_what_their_experts_use(tuned):
  config = tuned[1].copy_and_resolve_references().unlock()
  config.mine.max_images = 1000
  assert padded_pictures(config) == 1000
  config.finetune.num_pictures = 12
  assert padded_pictures(config) == 12
  config.finetune.num_pictures = 4
  assert padded_pictures(config) == 10


def test_an_experts_time_is_that_of_the_steps_that_were_taken(tmp_path):
  """Of three experts, two in a wave that stopped at its 30th step."""
  waves = make_waves("abc", experts_per_wave=2, num_devices=1)
  for wave, steps in zip(waves, (30, 60), strict=True):
    write_json(tmp_path / f"{wave.name}.json", {"steps": steps})
  assert wave_files.mean_steps(tmp_path, waves) == 40
  write_json(tmp_path / "wave-00001.json", {})
  with pytest.raises(ValueError, match=r"wave-00001.json does not say how man"):
    wave_files.mean_steps(tmp_path, waves)


@pytest.mark.processes
def test_two_processes_tune_what_one_does(
  tuned, models, clusters, tmp_path, root
):
  """Each takes waves, with its own devices: the files are equal to the byte."""
  whole, _ = tuned
  inputs.write_stages(tmp_path, clusters)
  config = tmp_path / "config.py"
  config.write_text(
    "from tests.experts.inputs import make_config\n\n"
    f"MODELS = { {name: str(path) for name, path in models.items()}!r}\n\n"
    "def get_config():\n  return make_config(MODELS)\n"
  )
  processes = [
    subprocess.Popen(
      [
        sys.executable,
        *("-m", "experts.finetune", "--config", str(config)),
        *("--workdir", str(tmp_path)),
      ],
      cwd=root,
      env=os.environ
      | {
        "SUTI_COORDINATOR": "127.0.0.1:9",  # nobody listens there
        "SUTI_NUM_PROCESSES": "2",
        "SUTI_PROCESS_ID": str(index),
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in (0, 1)
  ]
  outputs = [process.communicate(timeout=400) for process in processes]
  assert [process.returncode for process in processes] == [0, 0], outputs
  folder = pathlib.Path("experts/finetune")
  for name in ("wave-00000", "wave-00001"):
    for kind in ("json", "safetensors"):
      path = folder / f"{name}.{kind}"
      assert (whole / path).read_bytes() == (tmp_path / path).read_bytes(), path
  # The first process prints the results of the waves of all.
  assert "experts/finetune: experts 20, " in outputs[0][0]
  assert outputs[1] == ("", "")
