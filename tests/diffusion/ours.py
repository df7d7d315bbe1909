# SPDX-License-Identifier: Apache-2.0
"""Runs our samplers on the cases that the publisher's were run on.

Shape legend: `N` net evaluations, `B` batch, `H` `W` `C` picture.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from suti.diffusion import samplers
from suti.diffusion.plan import Plan
from suti.diffusion.scheduler_config import from_config
from tests.goldens import sampler_cases as cases


@functools.cache
def _runner(kind: str, variance: str):
  """One function for every case whose net says the same."""
  config = {"prediction_type": kind, "variance_type": variance}

  def denoise(x_BHWC, t_B):
    t_B111 = t_B.astype(jnp.float32).reshape(-1, 1, 1, 1)
    return cases.say(config, x_BHWC, t_B111, library=jnp, axis=-1)

  return jax.jit(functools.partial(samplers.advance, denoise))


def plan(case: str) -> Plan:
  """The plan of a case."""
  config, num_steps = cases.CASES[case]
  config = dict(config)
  eta = config.pop("eta", 0.0)
  return from_config(config, num_steps=num_steps, eta=eta)


def run(case: str, monkeypatch) -> np.ndarray:
  """What the net saw and, last, the result (N + 1, B, H, W, C).

  Noise is the case's own: it is handed over in the place of keys.
  """
  monkeypatch.setattr(samplers, "_normal", lambda noise, index, _: noise[index])
  config, _ = cases.CASES[case]
  start_BHWC, fresh_NBHWC = map(jnp.asarray, cases.draw(case))
  runner = _runner(
    config.get("prediction_type", "epsilon"), config.get("variance_type", "")
  )
  whole = plan(case)
  slots = samplers.start(whole, start_BHWC)
  path = [slots[0]]
  # One evaluation at a time: whatever their number, it is one program.
  for piece in whole.pieces(whole.num_evaluations):
    slots = runner(piece, slots, fresh_NBHWC)
    path.append(slots[0])
  return np.stack(path)
