# SPDX-License-Identifier: Apache-2.0
"""What is dropped of examples in training, and how often."""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from apprentice.fields import drop, without_text
from apprentice.method import Field

# B batch, K demonstrations, L text tokens, D width.

B, K, L, D = 4000, 3, 2, 1


def drop_some(*, mask=None, key=0, **config):
  """(text dropped, demonstrations shown) of B examples."""
  batch = {
    "text": {"text_BLD": jnp.ones((B, L, D)), "pooled_BD": jnp.ones((B, D))},
    "demonstration_mask": jnp.ones((B, K), bool) if mask is None else mask,
  }
  usual = {
    "joint_dropout": 0.0,
    "text_dropout": 0.1,
    "demonstration_dropout": 0.1,
    "exclusive_dropout": False,
    "min_demonstrations": 1,
  }
  config = ConfigDict(usual | config)
  null = jax.tree.map(lambda x: np.zeros_like(x[:1]), batch["text"])
  batch = drop(batch, jax.random.key(key), null_text=null, config=config)
  # All that is said of a text goes together.
  text_BLD, pooled_BD = batch["text"]["text_BLD"], batch["text"]["pooled_BD"]
  gone_B = np.asarray(text_BLD == 0).all((1, 2))
  np.testing.assert_array_equal(~gone_B, (text_BLD == 1).all((1, 2)))
  np.testing.assert_array_equal(~gone_B, (pooled_BD == 1).all(1))
  np.testing.assert_array_equal(gone_B, (pooled_BD == 0).all(1))
  return gone_B, np.asarray(batch["demonstration_mask"])


def test_text_and_demonstrations_are_dropped_independently():
  text_gone, shown = drop_some()
  subject_gone = ~shown.any(1)
  # Four standard deviations of a share of 4000.
  assert abs(text_gone.mean() - 0.1) < 0.02
  assert abs(subject_gone.mean() - 0.1) < 0.02
  assert abs((text_gone & subject_gone).mean() - 0.01) < 0.0065


def test_a_share_loses_both_together():
  text_gone, shown = drop_some(
    joint_dropout=0.2, text_dropout=0.1, demonstration_dropout=0.0
  )
  subject_gone = ~shown.any(1)
  # Text alone of a tenth of the others, demonstrations never alone.
  assert abs((text_gone & subject_gone).mean() - 0.2) < 0.026
  assert abs((text_gone & ~subject_gone).mean() - 0.08) < 0.018
  assert not (subject_gone & ~text_gone).any()


def test_drops_that_exclude_each_other():
  text_gone, shown = drop_some(
    joint_dropout=0.2,
    text_dropout=0.1,
    demonstration_dropout=0.15,
    exclusive_dropout=True,
  )
  subject_gone = ~shown.any(1)
  for gone_B, share in (
    (text_gone & subject_gone, 0.2),
    (text_gone & ~subject_gone, 0.1),
    (subject_gone & ~text_gone, 0.15),
  ):
    assert abs(gone_B.mean() - share) < 0.026


def test_a_methods_own_conditions_are_dropped_by_themselves():
  """Independently of the text, and of each other."""
  batch = {"text": {"text_BLD": jnp.ones((B, L, D))}}
  batch |= {name: jnp.ones(B) for name in ("depth", "mask")}
  hide = {
    name: lambda batch, gone_B, name=name: {
      **batch,
      name: jnp.where(gone_B, 0, batch[name]),
    }
    for name in ("depth", "mask")
  }
  config = {"joint_dropout": 0.0, "text_dropout": 0.2, "condition_dropout": 0.2}
  config |= {"demonstration_dropout": 0.0, "exclusive_dropout": False}
  dropped = drop(
    batch,
    jax.random.key(0),
    null_text={"text_BLD": jnp.zeros((1, L, D))},
    config=ConfigDict(config),
    hide=hide,
  )
  gone = [np.asarray(dropped["text"]["text_BLD"][:, 0, 0] == 0)]
  gone += [np.asarray(dropped[name] == 0) for name in hide]
  for i, one in enumerate(gone):
    assert abs(one.mean() - 0.2) < 0.026
    for other in gone[:i]:
      assert abs((one & other).mean() - 0.04) < 0.0125


def test_a_text_that_goes_with_the_prompts_is_null_where_that_is():
  along = Field(name="more", source="captions", made="text", with_text=True)
  batch = {
    "text": {"text_BLD": jnp.ones((B, L, D))},
    "more": {"text_BLD": jnp.ones((B, K, L, D))},
  }
  null = {"text_BLD": np.zeros((1, L, D), np.float32)}
  gone_B = np.arange(B) % 3 == 0
  dropped = without_text(batch, gone_B, null_text=null, fields=(along,))
  for name in batch:
    kept = np.asarray(dropped[name]["text_BLD"]).reshape(B, -1)
    np.testing.assert_array_equal(kept, ~gone_B[:, None] * np.ones_like(kept))


def test_a_random_number_is_shown():
  _, shown = drop_some(demonstration_dropout=0.0)
  counts = np.bincount(shown.sum(1), minlength=K + 1) / B
  assert counts[0] == 0
  assert np.abs(counts[1:] - 1 / K).max() < 0.035


def test_the_papers_way_shows_all():
  _, shown = drop_some(demonstration_dropout=0.0, min_demonstrations=K)
  assert shown.all()


def test_always_and_never():
  text_gone, shown = drop_some(text_dropout=1.0, demonstration_dropout=1.0)
  assert text_gone.all() and not shown.any()
  text_gone, shown = drop_some(text_dropout=0.0, demonstration_dropout=0.0)
  assert not text_gone.any() and shown[:, 0].all()


def test_what_does_not_exist_is_not_shown():
  mask = jnp.arange(K) < 2
  _, shown = drop_some(mask=jnp.broadcast_to(mask, (B, K)))
  assert not shown[:, 2].any() and shown[:, 1].any()


def test_the_key_decides():
  first, again, other = (drop_some(key=key)[0] for key in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()


def test_methods_without_demonstrations_are_spared():
  batch = {"text": {"text_BLD": jnp.ones((4, L, D))}}
  null = {"text_BLD": jnp.zeros((1, L, D))}
  config = ConfigDict(
    {
      "joint_dropout": 0.0,
      "text_dropout": 1.0,
      "demonstration_dropout": 0.0,
      "exclusive_dropout": False,
    }
  )
  dropped = drop(batch, jax.random.key(0), null_text=null, config=config)
  assert dropped.keys() == batch.keys()
