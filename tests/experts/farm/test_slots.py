# SPDX-License-Identifier: Apache-2.0
"""Experts that follow each other in a place: the same, in fewer steps."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from experts import finetune, sample
from experts.farm import train_step
from experts.farm.slots import Slots
from experts.farm.wave_checkpoints import WaveCheckpoints
from experts.farm.waves import make_waves
from suti.io.checkpoint import Checkpoints
from suti.io.files import read_json
from suti.parallel.mesh import batch_sharding, flat_mesh
from tests.experts import inputs
from tests.experts.farm.loops import COLLECTIVE, NUM_STEPS

KEYS = [f"{i:012x}" for i in range(20)]
BASE = {"weight": np.float32([[1, 2], [3, 4]]), "bias": np.float32([5, 6])}
STOPPING = {  # as the loop "narrow", which shares its program
  "dtype": "bfloat16",
  "master_dtype": "bfloat16",
  "stop_window": 1,
  "stop_gain": 0.0,
}


class Farm:
  """A wave of experts whose steps are made up, on some devices."""

  def __init__(self, folder, *, num_devices=8, absent=(), worker="one"):
    self.mesh = flat_mesh(jax.devices()[:num_devices])
    kind = {"num_steps": NUM_STEPS}
    (self.wave,) = make_waves(
      KEYS, experts_per_wave=20, experts_per_slot=4, num_devices=num_devices
    )
    made = (BASE, optax.adam(1e-3), self.mesh)
    self.restart = train_step.make_restart(*made, **kind)
    self.checkpoints = WaveCheckpoints(folder, self.wave, worker=worker)
    self.slots = Slots(
      self.wave,
      self.checkpoints.folder,
      restart=self.restart,
      base=BASE,
      absent=absent,
    )
    shapes = train_step.describe_start(
      *made, num_experts=self.wave.num_slots, **kind
    )
    self.state = self.checkpoints.restore(shapes)
    if self.state is None:
      self.state = train_step.make_start(*made, **kind)(self.wave.num_slots)

  def work(self):
    """Each place writes the number of its expert all over it."""
    number_P = jnp.asarray(np.asarray(self.state["number_E"]))

    def written(x):
      shape = (-1, *[1] * (x.ndim - 1))
      new = np.broadcast_to(np.asarray(number_P).reshape(shape), x.shape)
      return jax.device_put(new.astype(x.dtype), x.sharding)

    done = {name: self.state[name] for name in ("params", "step_E", "loss_ET")}
    self.state |= jax.tree.map(written, done)
    self.state["step"] += 1

  @property
  def numbers(self):
    return np.asarray(self.state["number_E"])[: self.wave.num_active].tolist()

  def refill(self, *slots):
    done_P = np.isin(np.arange(self.wave.num_active), slots)
    new = self.slots.refill(self.state, done_P)
    if new is not None:
      self.state = new
    return self.numbers


def test_slots_of_finished_experts_are_refilled_in_order(tmp_path):
  farm = Farm(tmp_path)
  farm.work()
  assert farm.numbers == [0, 1, 2, 3, 4]
  assert farm.slots.refill(farm.state, np.zeros(5, bool)) is None
  assert farm.refill(3, 1) == [0, 5, 2, 6, 4]
  # Those two are at their start, the others where they were.
  for place, number in enumerate(farm.numbers):
    is_new = number >= 5
    weight = np.asarray(farm.state["params"]["weight"])[place]
    np.testing.assert_array_equal(
      weight, BASE["weight"] if is_new else np.full((2, 2), number)
    )
    assert farm.state["step_E"][place] == (0 if is_new else number)
    assert np.asarray(farm.state["failed_E"])[place] == -1
  farm.work()
  assert farm.refill(*range(5)) == [7, 8, 9, 10, 11]
  assert not farm.slots.are_over(farm.state, np.ones(5, bool))
  farm.work()
  assert farm.refill(*range(5)) == [12, 13, 14, 15, 16]
  farm.work()
  assert farm.refill(0, 2, 3) == [17, 13, 18, 19, 16]
  assert not farm.slots.are_over(farm.state, np.arange(5) != 1)
  assert farm.slots.are_over(farm.state, np.ones(5, bool))
  farm.work()
  assert farm.refill(*range(5)) == [17, 13, 18, 19, 16]

  results = farm.slots.results(farm.state)
  np.testing.assert_array_equal(results["step_E"], range(20))
  np.testing.assert_array_equal(results["loss_ET"][:, 1], range(20))
  groups = list(farm.slots.groups(farm.state, batch_sharding(farm.mesh)))
  assert [len(x["bias"]) for x in groups] == [8, 8, 8]
  found = np.concatenate([np.asarray(x["bias"]) for x in groups])
  np.testing.assert_array_equal(found[:20, 0], range(20))
  np.testing.assert_array_equal(found[20:, 0], [19] * 4)
  assert not farm.state, "its room is given up"


def test_a_wave_resumes_in_the_slots_of_other_devices(tmp_path):
  """8, then 4, then 1: five active slots, of eight, eight and five."""
  for num_devices, done, expected in (
    (8, (1, 4), [0, 5, 2, 3, 6]),
    (4, (0,), [7, 5, 2, 3, 6]),
    (1, (2, 3), [7, 5, 8, 9, 6]),
  ):
    farm = Farm(tmp_path, num_devices=num_devices, worker=f"on-{num_devices}")
    farm.work()
    assert farm.refill(*done) == expected
    with farm.checkpoints as checkpoints:
      checkpoints.save(int(farm.state["step"]), farm.state)
  assert farm.wave.num_slots == 5
  for place, number in ((0, None), (1, 5), (4, 6)):
    weight = np.asarray(farm.state["params"]["weight"])[place]
    if number:
      np.testing.assert_array_equal(weight, np.full((2, 2), number))
  files = sorted((tmp_path / farm.wave.name / "finished").iterdir())
  assert [file.stem for file in files] == [f"{n:05d}" for n in range(5)]


def test_a_lost_file_is_made_again_and_a_lost_cluster_gets_no_slot(tmp_path):
  farm = Farm(tmp_path, absent=[6, 19])
  farm.work()
  assert farm.refill(0, 1, 2) == [5, 7, 8, 3, 4]
  (farm.checkpoints.folder / "finished/00001.safetensors").unlink()
  with farm.checkpoints as checkpoints:
    checkpoints.save(1, farm.state)
  farm = Farm(tmp_path, absent=[6, 19], worker="two")
  farm.work()
  assert farm.refill(4) == [5, 7, 8, 3, 1]
  for _ in range(4):
    farm.work()
    farm.refill(*range(5))
  farm.work()
  assert farm.slots.are_over(farm.state, np.ones(5, bool))
  results = farm.slots.results(farm.state)
  expected = np.where(np.isin(np.arange(20), [6, 19]), 0, np.arange(20))
  np.testing.assert_array_equal(results["step_E"], expected)
  first, *_, last = farm.slots.groups(farm.state, batch_sharding(farm.mesh))
  np.testing.assert_array_equal(first["weight"][6], BASE["weight"])
  np.testing.assert_array_equal(first["weight"][1], np.full((2, 2), 1))
  np.testing.assert_array_equal(last["bias"][3], BASE["bias"])


def test_a_refill_is_of_each_device_alone_and_in_place(tmp_path):
  farm = Farm(tmp_path)
  experts = {name: x for name, x in farm.state.items() if name != "step"}
  program = jax.jit(
    lambda state, number_E, fresh_E: farm.restart(
      state | {"step": jnp.int32(0)}, number_E, fresh_E
    ),
    donate_argnums=0,
  ).lower(
    experts,
    *jax.device_put(
      (np.arange(8, dtype=np.int32), np.zeros(8, bool)),
      batch_sharding(farm.mesh),
    ),
  )
  text = program.compile().as_text()
  assert "num_partitions=8" in text
  assert not COLLECTIVE.findall(text)
  donated = re.search(r"input_output_alias=\{(.*?)\}, entry", text)
  num = len(jax.tree.leaves(experts))
  # All but the numbers, which are given anew.
  assert donated is not None and donated.group(1).count("alias)") >= num - 1


def test_an_expert_is_the_same_in_any_slot_at_any_time(loops, filled):
  """Bitwise: with others beside it, on another device, begun later."""
  loop, num = loops["narrow"], len(filled)
  kind = {"num_steps": NUM_STEPS, "dtype": "bfloat16"}
  tx = train_step.make_optimizer(loop.config.finetune)
  restart = train_step.make_restart(loop.trainable, tx, loop.mesh, **kind)
  whole = loop.run(filled)
  state = loop.start(num)
  number_P = np.roll(np.arange(num), 5)
  first_P = np.arange(num) % 2 == 0
  # Half of the slots begin two steps later, with other experts than before.
  for fresh_P in (np.ones(num, bool), ~first_P):
    state = restart(state, number_P.astype(np.int32), fresh_P)
    data = loop.data([filled[number] for number in number_P])
    for _ in range(2):
      state = loop.step(state, loop.frozen, data)
    number_P = np.where(first_P, number_P, number_P[::-1])
  for _ in range(2):
    state = loop.step(state, loop.frozen, data)
  state = jax.tree.map(np.asarray, state)
  assert state["done_E"].all()
  for place, number in enumerate(state["number_E"]):
    for name in ("params", "opt", "step_E", "failed_E", "loss_ET"):
      jax.tree.map(
        lambda one, two, i=number, j=place: np.testing.assert_array_equal(
          one[i], two[j]
        ),
        whole[name],
        state[name],
      )


@pytest.fixture(scope="module")
def runs(models, clusters, tmp_path_factory):
  """The same experts in two waves, and in one of 20 that share 16 slots."""
  found = {}
  for name, fields in (
    ("waves", {"experts_per_wave": 16}),
    ("turns", {"experts_per_wave": 32, "experts_per_slot": 2}),
  ):
    workdir = tmp_path_factory.mktemp(name)
    inputs.write_stages(workdir, clusters)
    config = inputs.make_config(
      models, log_every=1, sample_after_tuning=True, **STOPPING, **fields
    )
    found[name] = (workdir, config, run(config, workdir))
    sample.run(config, workdir)  # All is sampled: it only checks that.
  return found


def run(config, workdir):
  """Runs the stage; returns how many steps the devices took."""
  steps = []
  make_step = train_step.make_step

  def counted(*args):
    step = make_step(*args)
    return lambda *inputs: (steps.append(1), step(*inputs))[1]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train_step, "make_step", counted)
    finetune.run(config, workdir)
  return len(steps)


def experts_of(workdir):
  """{cluster: its record, losses and parameters}."""
  folder, found = workdir / "experts/finetune", {}
  for path in sorted(folder.glob("wave-*.json")):
    record, params = (
      read_json(path),
      load_file(path.with_suffix(".safetensors")),
    )
    rows = zip(record["experts"], record["losses"], strict=True)
    for i, (expert, losses) in enumerate(rows):
      row = {name: x[i].tobytes() for name, x in params.items()}
      found[expert["cluster"]] = (expert, losses, row)
  return found


def test_experts_of_refilled_slots_are_those_of_waves(runs):
  (waves, _, slow), (turns, _, fast) = runs["waves"], runs["turns"]
  names = {p.name for p in (turns / "experts/finetune").glob("wave-*.json")}
  assert names == {"wave-00000.json"}
  assert experts_of(turns) == experts_of(waves)
  drawn = [
    {c.key: c.image.tobytes() for f in sample.open_candidates(w) for c in f}
    for w in (turns, waves)
  ]
  assert drawn[0] == drawn[1]
  assert fast < slow


def test_experts_of_refilled_slots_are_sampled_later_as_well(runs, tmp_path):
  turns, config, _ = runs["turns"]
  name = "wave-00000.array_record"
  together = (turns / "experts/sample" / name).read_bytes()
  for kind in ("mine", "prompts", "finetune"):
    (tmp_path / "experts").mkdir(exist_ok=True)
    (tmp_path / "experts" / kind).symlink_to(turns / "experts" / kind)
  sample.run(config, tmp_path)
  assert (tmp_path / "experts/sample" / name).read_bytes() == together


class KilledError(BaseException):
  """Stands for kill -9."""


def test_a_run_that_is_killed_after_a_refill_ends_in_the_same_files(
  runs, clusters, tmp_path, monkeypatch
):
  turns, config, steps = runs["turns"]
  inputs.write_stages(tmp_path, clusters)
  save = Checkpoints.save

  def save_then_die(checkpoints, step, state, data=None):
    save(checkpoints, step, state, data)
    if max(np.asarray(state["number_E"])) > 16:
      raise KilledError

  with monkeypatch.context() as patch:
    patch.setattr(Checkpoints, "save", save_then_die)
    with pytest.raises(KilledError):
      finetune.run(config, tmp_path)
  folder = tmp_path / "experts/finetune"
  assert list(folder.glob("checkpoints/wave-00000/finished/*"))
  assert run(config, tmp_path) < steps
  for stage, kind in (
    ("finetune", "json"),
    ("finetune", "safetensors"),
    ("sample", "array_record"),
  ):
    path = f"experts/{stage}/wave-00000.{kind}"
    assert (tmp_path / path).read_bytes() == (turns / path).read_bytes()
  assert not (folder / "checkpoints").exists()
