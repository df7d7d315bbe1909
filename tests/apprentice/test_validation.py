# SPDX-License-Identifier: Apache-2.0
"""The loss on held-out subjects, and what of it demonstrations take away."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apprentice.data import batches
from apprentice.fields import to_latents
from apprentice.model import declare
from apprentice.train_step import make_loss
from apprentice.validation import BLIND_LOSS, GAIN, LOSS, make_validation
from suti.nn.param import init
from suti.parallel.mesh import make_mesh, replicated
from suti.pipeline.backbone import load_backbone
from suti.schema import seed_of
from tests.apprentice import inputs


@pytest.fixture(scope="module")
def held(tiny_backbone):
  """An untrained apprentice, and what its validation is made of."""
  config = inputs.make_config(tiny_backbone).unlock()
  config.train.batch_size = 2
  backbone = load_backbone(config.backbone)
  apprentice = declare(backbone, name="suti", config=config.method)
  how = {
    "fields": apprentice.method.fields(apprentice.config),
    "encode_text": backbone.encode_text,
    "size_px": backbone.size_px,
    "batch_size": 2,
    "num_demonstrations": 2,
  }
  params = init(apprentice.spec, jax.random.key(0))
  return config.train, apprentice, how, params


def validate(held, params, examples, *, seed=0):
  train, apprentice, how, _ = held
  mesh = make_mesh({"data": 1, "fsdp": 1}, devices=jax.devices()[:1])
  losses = make_validation(
    apprentice,
    train,
    examples,
    batch_args=how,
    placed=replicated(mesh),
    mesh=mesh,
    seed=seed,
  )
  return losses(params, {}, apprentice.backbone.codec.params)


def test_what_starts_as_its_base_reads_no_demonstration(held):
  found = validate(held, held[-1], [inputs.draw_examples(3)])
  assert found[LOSS] == found[BLIND_LOSS] > 0
  assert found[GAIN] == 0


def test_losses_are_means_over_batches_under_the_same_noise(held):
  train, apprentice, how, params = held
  trained = {
    name: 0.3 * jnp.ones_like(x) if name.endswith("to_out.weight") else x
    for name, x in params.items()
  }
  examples = inputs.draw_examples(4)
  found = validate(held, trained, [examples], seed=3)
  # By hand: two batches, each with demonstrations and without.
  data, loss_of = (
    batches([examples], seed=3, **how),
    make_loss(apprentice, train),
  )
  rows = []
  for number in range(2):
    batch = to_latents(
      apprentice.backbone,
      apprentice.backbone.codec.params,
      jax.tree.map(jnp.asarray, next(data)),
      dtype=jnp.float32,
    )
    key = jax.random.key(seed_of("validation", 3, number))
    blind = batch | {
      "demonstration_mask": jnp.zeros_like(batch["demonstration_mask"])
    }
    rows.append([loss_of(trained, b, key)[0] for b in (batch, blind)])
  seen, not_seen = np.mean(rows, axis=0)
  np.testing.assert_allclose(found[LOSS], seen, rtol=1e-5)
  np.testing.assert_allclose(found[BLIND_LOSS], not_seen, rtol=1e-5)
  np.testing.assert_allclose(found[GAIN], 1 - seen / not_seen, atol=1e-6)
  assert abs(found[GAIN]) > 1e-4


def test_nothing_held_out_is_nothing_measured(held):
  assert validate(held, held[-1], []) == {}
