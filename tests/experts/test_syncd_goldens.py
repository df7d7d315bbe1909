# SPDX-License-Identifier: Apache-2.0
"""SynCD's teacher against what its publishers' own code returned.

See `tests.goldens.make_syncd`: nothing of it is run here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from experts.teachers import syncd
from suti.diffusion.schedule import make_schedule
from suti.diffusion.subject_mask import otsu
from suti.nn.warp import link, warp
from tests import tiny
from tests.experts import inputs
from tests.goldens import syncd_cases as cases

T, SIDE = cases.T, cases.MAP_SIDE


@pytest.fixture(scope="module")
def golden():
  return safetensors.numpy.load_file(cases.FILE)


def sets_of(*, side, **request):
  """Some rows of one set, as the teacher's sampler has them."""
  config = inputs.make_config(
    {}, teacher="syncd"
  ).sample.copy_and_resolve_references()
  config.together = T
  text = {"text_BLD": np.zeros((T, cases.LENGTH, 1))}
  return syncd._Sets(
    request={"conditioning": text, **request},
    config=config,
    schedule=make_schedule(tiny.SCHEDULER),
    sides=[side],
    first_t=999,
  )


def others_seen(sets, memory, t=500):
  """Which keys of the others an image's positions attend to: (T, keys)."""
  (seen_BL,) = sets.seen(memory, jnp.asarray(t)).values()
  return np.asarray(seen_BL)


def test_otsus_masks_are_the_publishers(golden):
  maps = cases.maps().reshape(-1, SIDE, SIDE)
  found = np.asarray(otsu(jnp.asarray(maps))).reshape(cases.MAPS, -1)
  np.testing.assert_array_equal(found, golden["otsu.mask"])
  shares = found.mean(1)
  assert shares.min() > 0 and shares.max() < 0.9 and np.ptp(shares) > 0.1


def test_who_sees_whom_of_subjects_found_by_their_noun(golden):
  """Masks of the mean over layers and steps, and the matrix M of equation 1."""
  noun_BL = np.zeros((T, cases.LENGTH), bool)
  for row, (start, end) in enumerate(cases.NOUNS):
    noun_BL[row, start:end] = True
  sets = sets_of(side=SIDE, noun_BL=noun_BL)
  memory = {"map_BRR": jnp.zeros((T, SIDE, SIDE)), "steps": jnp.zeros(())}
  for step in range(2):
    layers = golden[f"store.{step}.weights"]
    notes = {str(i): jnp.asarray(x) for i, x in enumerate(layers)}
    memory = sets.remember(memory, notes)
    mask = np.asarray(sets.mask(memory)).reshape(T, -1)
    np.testing.assert_array_equal(mask, golden[f"store.{step}.mask"])
    expected = golden[f"store.{step}.matrix"]
    np.testing.assert_array_equal(others_seen(sets, memory), expected)
    assert 0.1 < expected.mean() < 0.99
  assert (golden["store.0.mask"] != golden["store.1.mask"]).any()
  # As in their attention, nothing is hidden at the first step.
  assert others_seen(sets, memory, t=999).all()


def test_who_sees_whom_of_rendered_subjects(golden):
  """A mask of pixels, widened to 9 of 32 positions, also where it is thin."""
  sets = sets_of(
    side=cases.TOKENS_SIDE,
    depth_THWC=None,
    masks_THW=jnp.asarray(cases.views()),
  )
  expected = golden["rigid.matrix"]
  np.testing.assert_array_equal(others_seen(sets, {}), expected)
  assert 0.1 < expected.mean() < 0.9


@jax.jit
def carry(x_THWC, links, thin):
  """As their code does."""
  return warp(
    x_THWC, links, source="last", method="bicubic", chain=True, thin=thin
  )


@pytest.mark.parametrize("name", cases.LEVELS)
def test_what_is_warped_is_the_publishers(name, golden, record_property):
  places, seen = cases.places()
  links = link(jnp.asarray(places), jnp.asarray(seen), source="last")
  x_THWC = cases.to_warp()
  found = carry(jnp.asarray(x_THWC), links, cases.LEVELS[name] < 0.9)
  expected = golden[f"warp.{name}"]
  error = float(np.abs(found - expected).max())
  record_property("largest_error", error)
  assert error < 1e-4
  # The first is warped twice, the second once, and the last gives.
  moved = (expected != x_THWC).any(-1).mean((1, 2))
  assert moved[0] > moved[1] > 0.1 and moved[2] == 0
