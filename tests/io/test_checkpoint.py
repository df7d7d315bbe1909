# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: resume equals going on, kills leave whole ones, others refused.

Shape legend: `B` batch, `D` width.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from suti.io.checkpoint import Checkpoints
from suti.parallel.mesh import make_mesh

# Optax raises a float to an int power, which strict promotion forbids.
pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture
def standard_promotion():
  with jax.numpy_dtype_promotion("standard"):
    yield


TX = optax.adafactor(1e-2)


def start():
  params = {
    "down_blocks.0.conv.weight": jnp.ones((8, 4)),
    "conv_out.bias": jnp.zeros((4,)),
  }
  return {
    "params": params,
    "ema": jax.tree.map(jnp.copy, params),
    "opt": TX.init(params),
    "step": jnp.zeros((), jnp.int32),
    "key": jax.random.key(7),
  }


@functools.partial(jax.jit, donate_argnums=0)
def step(state):
  key = jax.random.fold_in(state["key"], state["step"])
  x_BD = jax.random.normal(key, (16, 8))

  def loss_of(params):
    y = x_BD @ params["down_blocks.0.conv.weight"] + params["conv_out.bias"]
    return jnp.square(y - 1.0).mean()

  loss, grads = jax.value_and_grad(loss_of)(state["params"])
  updates, opt = TX.update(grads, state["opt"], state["params"])
  params = optax.apply_updates(state["params"], updates)
  ema = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, state["ema"], params)
  return {
    "params": params,
    "ema": ema,
    "opt": opt,
    "step": state["step"] + 1,
    "key": state["key"],
  }, loss


def train(folder, num_steps, *, save_every=2):
  """A loop as the real ones are; returns its losses and its last state."""
  checkpoints = Checkpoints(folder)
  state = checkpoints.restore(start())
  losses = {}
  for number in range(int(state["step"]), num_steps):
    state, loss = step(state)
    losses[number] = float(loss)
    if (number + 1) % save_every == 0:
      checkpoints.save(number + 1, state, data={"next_index": number + 1})
  checkpoints.close()
  return losses, state


def numbers(state):
  return jax.tree.map(
    np.asarray, state | {"key": jax.random.key_data(state["key"])}
  )


def test_a_resumed_run_equals_an_unbroken_one(tmp_path):
  unbroken, last = train(tmp_path / "unbroken", 10)
  first, _ = train(tmp_path / "broken", 5)  # Saved at 2 and 4.
  second, resumed = train(tmp_path / "broken", 10)
  assert sorted(second) == [4, 5, 6, 7, 8, 9]
  assert first | second == unbroken
  jax.tree.map(np.testing.assert_array_equal, numbers(last), numbers(resumed))
  assert jax.tree.structure(last) == jax.tree.structure(resumed)


def test_nothing_saved_gives_back_what_the_loop_made(tmp_path):
  checkpoints = Checkpoints(tmp_path / "none")
  state = start()
  assert checkpoints.restore(state) is state
  assert checkpoints.latest is None
  assert checkpoints.data is None
  checkpoints.close()


def test_data_travels_and_old_ones_go(tmp_path):
  train(tmp_path, 8)
  checkpoints = Checkpoints(tmp_path)
  assert checkpoints.latest == 8
  checkpoints.restore(start())
  assert checkpoints.data == {"next_index": 8}
  kept = sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit())
  assert kept == ["6", "8"]
  # A loop that ends on a multiple of its interval saves this step twice.
  checkpoints.save(8, start(), data={"next_index": 0})
  assert Checkpoints(tmp_path).latest == 8
  checkpoints.restore(start())
  assert checkpoints.data == {"next_index": 8}
  checkpoints.close()


def test_another_model_is_refused_by_its_config(tmp_path):
  model = {"method": {"sites": ("down",), "num_heads": 4}, "backbone": "a"}
  checkpoints = Checkpoints(tmp_path, model=model)
  checkpoints.save(1, start())
  checkpoints.close()
  same = Checkpoints(tmp_path, model=json.loads(json.dumps(model)))
  assert int(same.restore(start())["step"]) == 0
  same.close()
  model["method"]["num_heads"] = 8
  other = Checkpoints(tmp_path, model=model)
  with pytest.raises(ValueError) as caught:
    other.restore(start())
  text = str(caught.value)
  assert "of another model: config.method.num_heads is 4 there and 8" in text
  assert "another --workdir" in text and "\n" not in text
  other.close()


def test_another_model_is_refused_by_its_parameters(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, start())
  state = start()
  state["params"]["conv_out.bias"] = jnp.zeros((5,))
  with pytest.raises(ValueError, match=r"\(4,\)' there and 'float32 \(5,\)'"):
    checkpoints.restore(state)
  state = start()
  state["params"]["mid_block.weight"] = jnp.zeros((2, 2))
  with pytest.raises(
    ValueError, match=r"params.mid_block.weight is absent there"
  ):
    checkpoints.restore(state)
  checkpoints.close()


def test_a_damaged_checkpoint_is_named(tmp_path):
  train(tmp_path, 4)
  for file in (tmp_path / "4" / "state").rglob("*"):
    if file.is_file():
      file.write_bytes(b"")
  checkpoints = Checkpoints(tmp_path)
  with pytest.raises(ValueError, match=r"/4 cannot be read .* delete"):
    checkpoints.restore(start())
  checkpoints.close()


def test_restores_to_where_the_state_is(tmp_path):
  mesh = make_mesh({"data": 2, "fsdp": 4})
  spread = NamedSharding(mesh, P("fsdp"))
  value = np.arange(32, dtype=np.float32).reshape(8, 4)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, {"w": jax.device_put(value, spread)})
  other = NamedSharding(mesh, P("data", "fsdp"))
  restored = checkpoints.restore(
    {"w": jax.device_put(np.zeros_like(value), other)}
  )
  assert restored["w"].sharding == other
  np.testing.assert_array_equal(restored["w"], value)
  checkpoints.close()


_ENDLESS = """
import sys
import jax.numpy as jnp
from suti.io.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
for step in range(1, 10000):
  state = {"w": jnp.full((1000, 1000), float(step)), "step": jnp.asarray(step)}
  checkpoints.save(step, state, data=step)
  print(step, flush=True)
"""


def test_kill_in_the_middle_of_a_save_leaves_whole_checkpoints(tmp_path, root):
  environment = dict(os.environ, XLA_FLAGS="", PYTHONPATH=str(root))
  command = [sys.executable, "-c", _ENDLESS, str(tmp_path)]
  with subprocess.Popen(
    command, env=environment, stdout=subprocess.PIPE, text=True
  ) as process:
    for _ in range(2):
      assert process.stdout.readline()
    # Wait for a save in progress: Orbax writes under another name first.
    until = time.monotonic() + 20
    while time.monotonic() < until:
      if any("tmp" in path.name for path in tmp_path.iterdir()):
        break
    process.send_signal(signal.SIGKILL)
  checkpoints = Checkpoints(tmp_path)
  step = checkpoints.latest
  assert step is not None and step >= 2
  restored = checkpoints.restore(
    {"w": jnp.zeros((1000, 1000)), "step": jnp.asarray(0)}
  )
  # All of it is of one step.
  assert int(restored["step"]) == step == checkpoints.data
  assert np.unique(restored["w"]) == [step]
  checkpoints.close()
  assert not any("tmp" in path.name for path in tmp_path.iterdir())
