# SPDX-License-Identifier: Apache-2.0
"""The compiled step of a wave: what it computes once, keeps, and stops at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from experts.farm import train_step, wave_files, waves
from experts.farm.waves import map_experts
from suti.parallel.mesh import batch_sharding, flat_mesh
from tests.experts.farm.loops import NUM_STEPS, Loop


def mesh_of(num_devices):
  return flat_mesh(jax.devices()[:num_devices])


def products_of(jaxpr):
  """All products in a program, but for what convolutions have by platform."""
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "dot_general":
      yield eqn
    if eqn.primitive.name == "cond":
      continue
    for inner in jaxprs_in_params(eqn.params):
      yield from products_of(inner)


def test_low_rank_experts_share_the_products_of_their_base(loops, clusters):
  """One product over all experts' rows, not one for each expert."""
  loop, num = loops["lora"], 3
  data = loop.data(clusters[:8])
  batch = {"x_BHWC": data["x_KHWC"], "conditioning": data["conditioning"]}
  batch = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[:num, :2]), batch)

  def gradient(params, batch, key):
    return jax.grad(
      lambda params: loop.teacher.loss(
        loop.apply,
        loop.backbone,
        loop.frozen | params,
        batch,
        key,
        loop.config.finetune,
      )
    )(params)

  def shared_products(function, params, batch, key):
    """Sizes of results, of products that batch over nothing."""
    jaxpr = jax.make_jaxpr(function)(params, batch, key).jaxpr
    return sorted(
      eqn.outvars[0].aval.size
      for eqn in products_of(jaxpr)
      if eqn.params["dimension_numbers"][1] == ((), ())
      # Rank 3 is no width of the net: those are the experts' own.
      and all(3 not in v.aval.shape[-2:] for v in eqn.invars)
    )

  keys = jax.random.split(jax.random.key(0), num)
  alone = shared_products(
    gradient,
    loop.trainable,
    jax.tree.map(lambda x: x[0], batch),
    keys[0],
  )
  together = shared_products(
    jax.vmap(gradient),
    {name: jnp.stack([x] * num) for name, x in loop.trainable.items()},
    batch,
    keys,
  )
  assert len(alone) > 20
  assert together == [num * size for size in alone]


def test_low_rank_experts_share_the_convolutions_of_their_base(loops, filled):
  text = loops["lora"].program(filled)
  lines = [line for line in text.splitlines() if " convolution(" in line]
  assert lines
  # Two experts of a device, two pictures each.
  assert all("f32[4,8,8," in line for line in lines)
  assert "feature_group_count" not in text


@pytest.mark.parametrize("num_each", [1, 3])
def test_every_device_computes_the_same_whatever_their_number(num_each):
  """And a wave of twice the devices takes no device longer."""

  def step_expert(shared, x, key):
    noise = jax.random.normal(jax.random.wrap_key_data(key), x.shape)
    return jax.grad(lambda x: jnp.square((x + noise) @ shared).sum())(x)

  flops = []
  for num_devices in (1, 2, 4, 8):
    mesh = mesh_of(num_devices)
    num = num_each * num_devices
    wave = jax.jit(map_experts(step_expert, mesh, inner="vmap"))
    arrays = np.ones((num, 16, 32), np.float32), np.ones((num, 2), np.uint32)
    placed = jax.device_put(arrays, batch_sharding(mesh))
    compiled = wave.lower(np.ones((32, 32), np.float32), *placed).compile()
    flops.append(compiled.cost_analysis()["flops"])
  assert flops[0] > num_each * 2 * 2 * 16 * 32 * 32
  assert flops == [flops[0]] * 4


def test_pictures_that_are_not_there_change_no_bit(wave, loops, filled):
  """Clusters of three and of four pictures, in rows for ten."""
  loop = loops["full"]

  def spoil(data):
    sharding = batch_sharding(loop.mesh)

    def spoiled(x):
      x = np.array(x)
      for i, num in enumerate(np.asarray(data["num"])):
        x[i, num:] = np.nan
      return jax.device_put(x, sharding)

    parts = ("x_KHWC", "conditioning")
    return data | jax.tree.map(spoiled, {name: data[name] for name in parts})

  nums = np.asarray(loop.data(filled)["num"])
  assert set(nums) == {3, 4}
  state = loop.run(filled, change=spoil)
  jax.tree.map(np.testing.assert_array_equal, state, wave)


def test_adafactor_keeps_rows_and_columns_of_each_expert():
  """Of kernels too: means over their inputs and over their outputs."""
  shapes = {
    "kernel": (3, 3, 128, 256),
    "matrix": (256, 128),
    "narrow": (3, 3, 8, 256),
    "bias": (256,),
  }
  base = {name: jnp.zeros(shape) for name, shape in shapes.items()}
  config = {"optimizer": "adafactor", "learning_rate": 1e-5}
  tx = train_step.make_optimizer(_Fields(config))
  start = train_step.make_start(base, tx, mesh_of(1), num_steps=2)
  state = start(5)
  kept = {
    jax.tree_util.keystr(path): x.shape
    for path, x in jax.tree_util.tree_leaves_with_path(state["opt"])
  }

  def of(name):
    found = {k: s for k, s in kept.items() if f"'{name}'" in k}
    return sorted(s for s in found.values() if np.prod(s) > 5)

  assert of("kernel") == [(5, 3, 3, 128), (5, 3, 3, 256)]
  assert of("matrix") == [(5, 128), (5, 256)]
  assert of("narrow") == [(5, 3, 3, 8, 256)]  # eight rows are not worth it
  assert of("bias") == [(5, 256)]


class _Fields(dict):
  __getattr__ = dict.__getitem__


def test_experts_kept_in_bfloat16_follow_those_in_float32(
  wave, loops, clusters, filled
):
  """Along the way that float32 took, where the nearest would stand still."""
  narrow = loops["narrow"].run(filled)
  base = loops["full"].backbone.params
  along, length, stuck, total = 0.0, 0.0, 0, 0
  for i in np.flatnonzero(narrow["step_E"][:10] == NUM_STEPS):
    for name, x in wave["params"].items():
      start = np.asarray(base[name].astype(jnp.bfloat16), np.float32)
      way = x[i] - np.asarray(base[name])
      moved = np.asarray(narrow["params"][name][i], np.float32) - start
      # Nowhere is a step more than half of what is between two neighbours.
      small = np.abs(start) * 2**-9 > np.abs(way) / 2
      along += float((way * moved)[small].sum())
      length += float(np.square(way[small]).sum())
      stuck += int(small.sum())
      total += way.size
  assert narrow["params"][name].dtype == jnp.bfloat16
  assert stuck > 0.3 * total
  assert along / length == pytest.approx(1.0, abs=0.2)
  leaves = jax.tree.leaves(narrow["opt"])
  assert all(x.dtype in (np.float32, np.int32) for x in leaves)


def test_an_expert_stops_where_its_own_loss_no_longer_falls(loops, filled):
  state = loops["narrow"].run(filled)
  stops = set()
  for step, loss_T in zip(state["step_E"], state["loss_ET"], strict=True):
    rises = [t + 1 for t in (1, 2) if loss_T[t] > loss_T[t - 1]]
    assert step == min([*rises, NUM_STEPS])
    assert (loss_T[:step] > 0).all() and (loss_T[step:] == 0).all()
    stops.add(int(step))
  assert state["done_E"].all() and len(stops) > 1
  np.testing.assert_array_equal(state["failed_E"], -1)


def test_windows_are_compared_once_in_a_window():
  config = _Fields(num_steps=12, stop_window=2, stop_gain=0.1)

  def steps(losses):
    loss_T = np.zeros(12, np.float32)
    for step in range(1, 13):
      loss_T[step - 1] = losses[step - 1]
      if train_step._is_enough(jnp.asarray(loss_T), jnp.int32(step), config):
        return step
    return None

  falling = 0.8 ** np.arange(12)
  assert steps(falling) == 12
  assert steps(np.ones(12)) == 4
  # Below by a tenth of what was: 0.91 is enough, 0.89 is not.
  assert steps([1, 1, 0.91, 0.91, *falling[:8]]) == 4
  assert steps([1, 1, 0.89, 0.89, *[0.5] * 8]) == 8
  never = _Fields(config | {"stop_window": 0})
  assert not train_step._is_enough(jnp.ones(12), jnp.int32(8), never)


def test_a_loss_far_above_where_it_began_is_seen_once_in_a_window():
  config = _Fields(diverged=3.0, batch_size=4)
  window = waves.DIVERGENCE_WINDOW
  num_steps = 4 * window + 5

  def seen(losses, *, config=config, end=num_steps):
    loss_T = jnp.asarray(losses, jnp.float32)
    return [
      step
      for step in range(1, end + 1)
      if train_step._has_diverged(
        loss_T, jnp.int32(step), config, ends=jnp.bool(step == end)
      )
    ]

  begun = np.ones(window)
  rest = num_steps - window
  assert seen(np.ones(num_steps)) == []
  assert seen([*begun, *np.full(rest, 2.9)]) == []
  risen = [*begun, *np.full(rest, 3.1)]
  assert seen(risen) == [2 * window, 3 * window, 4 * window, num_steps]
  assert seen(risen, config=_Fields(diverged=0.0)) == []
  # An expert that stops early is checked then, if it is of two windows.
  assert seen(risen, end=2 * window + 3) == [2 * window, 2 * window + 3]
  assert seen(risen, end=window - 1) == []
  # One wild loss is noise; what comes after the last whole window counts too.
  assert seen([*begun, 40, *np.ones(rest - 1)]) == []
  late = [*np.ones(4 * window), *np.full(5, 1e30)]
  assert seen(late) == [num_steps]
  assert seen([*begun, *np.full(rest, 3e38)])[0] == 2 * window  # inf together

  # At too high a rate the first window is wild as well, but for its first loss:
  # 12.5 times 3 times that is too much of four pictures, not of one.
  wild = [0.25, *np.full(window, 10.0), *np.full(rest - 1, 2.5)]
  assert seen(wild) == [window]
  assert seen(wild, config=_Fields(config | {"batch_size": 1})) == []
  assert seen([0.25, *np.full(num_steps - 1, 9.0)]) == []


def test_an_expert_that_diverges_is_alone_in_it(
  loops, filled, monkeypatch, tmp_path
):
  """It stops there, named with its cause; its neighbours change no bit."""
  monkeypatch.setattr(train_step, "DIVERGENCE_WINDOW", 1)
  monkeypatch.setattr(wave_files, "DIVERGENCE_WINDOW", 1)
  # The fixture knows programs by their config, not by the window.
  loop = Loop(loops["full"].backbone, diverged=20.0)
  data = loop.data(filled)
  x = np.array(data["x_KHWC"])
  x[2] *= 100  # finite: its loss rises, and nothing else is wrong with it
  wild = data | {"x_KHWC": jax.device_put(x, batch_sharding(loop.mesh))}

  def run(batches):
    state = loop.start(len(filled))
    for batch in batches:
      state = loop.step(state, loop.frozen, batch)
    return jax.tree.map(np.asarray, state)

  whole = run([data] * NUM_STEPS)
  assert not whole["diverged_E"].any() and (whole["failed_E"] == -1).all()
  state = run([data, data, wild, wild])
  others = np.arange(16) != 2
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a[others], b[others]),
    {name: x for name, x in state.items() if name != "step"},
    {name: x for name, x in whole.items() if name != "step"},
  )
  # Seen after its third step, it takes no fourth.
  stopped = run([data, data, wild])
  for name in ("diverged_E", "done_E", "failed_E", "step_E", "loss_ET"):
    np.testing.assert_array_equal(state[name][2], stopped[name][2])
  assert state["diverged_E"][2] and state["done_E"][2]
  assert state["failed_E"][2] == state["step_E"][2] == 3
  for name, x in state["params"].items():
    np.testing.assert_array_equal(x[2], stopped["params"][name][2])
    assert np.isfinite(x[2]).all()

  (wave,) = waves.make_waves(
    [f"{i:012x}" for i in range(10)], experts_per_wave=10, num_devices=8
  )
  record = wave_files.describe(wave, state, teacher="dreambooth", damaged={})
  wave_files.write_wave(tmp_path, wave, record, params=[])
  expert = wave_files.read_experts(tmp_path, wave.name)[2]
  losses = state["loss_ET"][2].astype(float)
  cause = (
    f"loss {losses[2]:.3g} at step 3, far above {losses[0]:.3g} at its first"
  )
  assert (expert.status, expert.steps, expert.cause) == (
    "quarantined",
    3,
    cause,
  )
  summary = wave_files.summarise(tmp_path, [wave])
  assert summary["experts"] == 9
  assert summary["quarantined"] == f"{wave.keys[2]} ({cause})"
  assert wave_files.count_experts(tmp_path, wave.name) == (9, 1)


def test_sync_leaves_out_failed_experts():
  """Two of three have a loss; one of them has taken a step less."""
  state = {
    "step_E": np.array([0, 2, 1]),
    "done_E": np.array([True, True, False]),
    "loss_ET": np.float32([[np.nan, 0, 0], [5, 3, 0], [7, 0, 0]]),
  }
  loss, done_E = train_step.sync_metrics(state, num=3)
  assert loss == 5.0
  np.testing.assert_array_equal(done_E, [True, True, False])
  # Padding slots do not count.
  loss, done_E = train_step.sync_metrics(state, num=2)
  assert loss == 3.0 and done_E.all()
  lost = {"step_E": np.array([0]), "done_E": np.array([True])}
  lost |= {"loss_ET": np.float32([[np.nan] * 3])}
  loss, done_E = train_step.sync_metrics(lost, num=1)
  assert np.isnan(loss) and done_E.all()
