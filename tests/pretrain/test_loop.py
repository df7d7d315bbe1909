# SPDX-License-Identifier: Apache-2.0
"""The loop of all pretrainings: it resumes, and refuses other recipes."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.pretrain import clip as clip_config
from configs.pretrain import text_to_image as base_config
from suti.pretrain import loop
from suti.runtime import preemption
from suti.runtime.log import read_log
from suti.runtime.preemption import TerminatedError


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
  config = clip_config.get_config("tiny")

  def start():
    with jax.numpy_dtype_promotion("standard"):
      return loop.train(
        config,
        tmp_path,
        params={"w": jnp.eye(3)},
        loss=lambda params, batch, key: ((batch["x"] @ params["w"]).mean(), {}),
        batch_at=lambda rng: {"x": np.ones((4, 3), np.float32)},
      )

  start()
  config.num_steps += 1  # only longer
  start()
  config.learning_rate *= 2
  with pytest.raises(ValueError, match=r"config\.learning_rate is"):
    start()


def terminate():
  os.kill(os.getpid(), signal.SIGTERM)


def interrupt():
  raise KeyboardInterrupt


@pytest.mark.parametrize(
  ("end", "error", "saved"),
  [(interrupt, KeyboardInterrupt, 2), (terminate, TerminatedError, 3)],
)
def test_loop_that_was_ended_logs_equal_losses(tmp_path, end, error, saved):
  """In its third step: it goes on from the second, or has saved the third."""
  config = clip_config.get_config("tiny")

  def batch_at(rng):
    return {"x": rng.normal(size=(4, 3)).astype(np.float32)}

  def dying(rng):
    calls.append(rng)
    if len(calls) == 3:
      end()
    return batch_at(rng)

  def loss(params, batch, key):
    noise = jax.random.normal(key, (4, 3))
    return jnp.square(batch["x"] @ params["w"] - noise).mean(), {}

  def start(folder, batches):
    return loop.train(
      config,
      tmp_path / folder,
      params={"w": jnp.eye(3)},
      loss=loss,
      batch_at=batches,
    )

  calls = []
  with jax.numpy_dtype_promotion("standard"):  # optax.adamw: float ** int
    whole, _ = start("whole", batch_at)
    with pytest.raises(error), preemption.watched():
      start("broken", dying)
    kept = tmp_path / "broken" / "checkpoints"
    assert max(int(path.name) for path in kept.glob("[0-9]*")) == saved
    resumed, _ = start("broken", batch_at)
  np.testing.assert_array_equal(whole["w"], resumed["w"])
  rows = [
    [(line["step"], line["loss"]) for line in read_log(tmp_path / folder)]
    for folder in ("whole", "broken")
  ]
  assert rows[0] == rows[1]
  assert [step for step, _ in rows[0]] == [1, 2, 3, 4]


def test_the_loop_is_one_step_ahead_of_the_device(tmp_path, monkeypatch):
  """Not many: a last checkpoint would have to wait for all of them."""
  config = clip_config.get_config("tiny")
  config.update(num_steps=8, log_every=100, checkpoint_every=100)
  make_step, losses, ahead = loop._make_step, [], []

  def make_watched(*args):
    step = make_step(*args)

    def watched(state, batch):
      state, scalars = step(state, batch)
      losses.append(scalars["loss"])
      return state, scalars

    return watched

  def batch_at(rng):
    ahead.append(sum(not loss.is_ready() for loss in losses))
    return {"x": rng.normal(size=(600, 600)).astype(np.float32)}

  def loss(params, batch, key):
    x = params["w"]
    for _ in range(10):
      x = jnp.tanh(x @ batch["x"])
    return jnp.square(x).mean(), {}

  monkeypatch.setattr(loop, "_make_step", make_watched)
  with jax.numpy_dtype_promotion("standard"):
    loop.train(
      config,
      tmp_path,
      params={"w": jnp.eye(600)},
      loss=loss,
      batch_at=batch_at,
    )
  assert max(ahead) <= 1, ahead


def test_muon_moves_matrices_by_orthogonal_ones(tmp_path):
  config = base_config.get_config("tiny")
  config.update(num_steps=1, warmup_steps=0, weight_decay=0.0, ema=0.0)
  rng = np.random.default_rng(0)
  params = {
    name: jnp.asarray(rng.normal(size=shape), jnp.float32)
    for name, shape in {
      "mid.conv.weight": (3, 3, 4, 6),
      "mid.bias": (6,),
      "text.embeddings.weight": (5, 4),
      "conv_in.weight": (3, 3, 3, 4),
    }.items()
  }
  targets = jax.tree.map(lambda x: x + 1 + x**2, params)

  def loss(params, batch, key):
    errors = jax.tree.map(lambda a, b: jnp.square(a - b).sum(), params, targets)
    return sum(errors.values()), {}

  with jax.numpy_dtype_promotion("standard"):
    moved, _ = loop.train(
      config,
      tmp_path,
      params=jax.tree.map(jnp.copy, params),  # they are given away
      loss=loss,
      batch_at=lambda rng: {},
    )
  step = {n: np.asarray(params[n] - moved[n]) for n in params}
  singular = np.linalg.svd(
    step["mid.conv.weight"].reshape(36, 6), compute_uv=False
  )
  # Newton-Schulz in five steps ends between 0.7 and 1.2.
  assert singular.max() / singular.min() < 1.8
  rate = config.learning_rate
  rms = np.sqrt(np.square(step["mid.conv.weight"]).mean())
  assert rms == pytest.approx(0.2 * rate, rel=0.2)
  # The others' first step is Adam's, the sign, at half the rate; by Nesterov's
  # rule it looks one step ahead.
  ahead = 1 + 0.9 * (1 - 0.9) / (1 - 0.9**2)
  for name in ("mid.bias", "text.embeddings.weight", "conv_in.weight"):
    expected = 0.5 * rate * ahead
    np.testing.assert_allclose(abs(step[name]), expected, rtol=1e-3)
