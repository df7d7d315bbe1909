# SPDX-License-Identifier: Apache-2.0
"""Where SuTI's attention to demonstrations looks.

For true renders of test subjects, noised to some levels, two numbers of each
layer: how many places share the attention of one that shows the subject (the
exponential of its entropy, of all places of all demonstrations), and how much
of it lies on the subject in them, from places that show it and from others. An
attention that looks nowhere in particular shares it among all, and has the
subject's share of the frame.

  python -m tests.benchmarks.where_it_looks
  python -m tests.benchmarks.where_it_looks \
      --model runs/apprentice/apprentice/train/model
"""

import argparse
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from apprentice.fields import make_fields, to_latents
from apprentice.method import predict
from apprentice.model import Apprentice, load_apprentice
from suti.diffusion import schedule as schedules
from suti.nn.notes import listening
from suti.world.dataset import (
  Shot,
  caption,
  class_of,
  render_shots,
  subject_seeds,
)

# B subjects, K demonstrations, H W image, N heads, S places of the target,
# L those of all demonstrations.

LOG_SNR = (-4.0, -2.0, 0.0, 2.0)
_SUBJECTS = 16
_SHOWN = (-1, 2, 5, 9)  # templates of the demonstrations, and of the target
_ASKED = 7


class Look(NamedTuple):
  """What a layer does, means over its heads and all subjects.

  Attributes:
    places: how many of the demonstrations' places share the attention.
    of: how many there are.
    inside, outside: the share of it that lies on the subject, from places of
      the target that show the subject, and from others.
  """

  places: float
  of: int
  inside: float
  outside: float


def coarse(mask_HW: np.ndarray, side: int) -> np.ndarray:
  """The subject's share of each of `side` x `side` places, row by row."""
  cells = mask_HW.reshape(side, mask_HW.shape[0] // side, side, -1)
  return cells.mean((1, 3)).reshape(-1)


def look_of(
  weights_BNSL: np.ndarray, target_BHW: np.ndarray, shown_BKHW: np.ndarray
) -> Look:
  """Sums up a layer's attention.

  Args:
    weights_BNSL: of each place of the target, to each of the demonstrations';
      these come once or, of several features, several times.
    target_BHW, shown_BKHW: where the subject is, bool.
  """
  batch, num = shown_BKHW.shape[:2]
  side = int(weights_BNSL.shape[2] ** 0.5)
  is_subject_BS = (
    np.stack([coarse(mask_HW, side) for mask_HW in target_BHW]) > 0.5
  )
  share_BL = np.stack(
    [
      coarse(mask_HW, side)
      for mask_HW in shown_BKHW.reshape(-1, *target_BHW[0].shape)
    ]
  ).reshape(batch, num * side * side)
  times = weights_BNSL.shape[-1] // share_BL.shape[1]
  on_subject_BNS = weights_BNSL @ np.tile(share_BL, times)[:, None, :, None]
  entropy_BNS = -(weights_BNSL * np.log(weights_BNSL + 1e-12)).sum(-1)
  from_subject_BNS = np.broadcast_to(is_subject_BS[:, None], entropy_BNS.shape)
  return Look(
    places=float(np.exp(entropy_BNS)[from_subject_BNS].mean()),
    of=weights_BNSL.shape[-1],
    inside=float(on_subject_BNS[..., 0][from_subject_BNS].mean()),
    outside=float(on_subject_BNS[..., 0][~from_subject_BNS].mean()),
  )


def make_batch(apprentice: Apprentice) -> tuple[Any, np.ndarray, np.ndarray]:
  """The batch of test subjects, and masks (B, H, W) and (B, K, H, W)."""
  backbone = apprentice.backbone
  rows, targets, shown = [], [], []
  for subject in map(int, subject_seeds("test", 0, _SUBJECTS)):
    shots = [Shot(subject, template, 100 + template) for template in _SHOWN]
    shots.append(Shot(subject, _ASKED, _ASKED))
    drawn = render_shots(shots, size_px=backbone.size_px)
    images, masks = np.asarray(drawn["image"]), np.asarray(drawn["mask"])
    noun = f"a {class_of(subject)}"
    row = make_fields(
      image=images[-1],
      prompt=caption(shots[-1]),
      demonstrations=list(images[:-1]),
      captions=[noun] * len(_SHOWN),
      num_demonstrations=len(_SHOWN),
      encode_text=backbone.encode_text,
      size_px=backbone.size_px,
      fields=apprentice.method.fields(apprentice.config),
    )
    rows.append(row)
    targets.append(masks[-1])
    shown.append(masks[:-1])
  batch = jax.tree.map(lambda *x: np.stack(x), *rows)
  return batch, np.stack(targets), np.stack(shown)


def measure(apprentice: Apprentice, level: float) -> dict[str, Look]:
  """{site: what it does} at a log SNR."""
  backbone, method = apprentice.backbone, apprentice.method
  batch, target_BHW, shown_BKHW = make_batch(apprentice)
  schedule = backbone.schedule
  log_snr_T = np.log(
    np.asarray(schedules.snr(schedule, jnp.arange(schedule.num_steps)))
  )
  t_B = np.full(_SUBJECTS, np.argmin(np.abs(log_snr_T - level)), np.int32)

  @jax.jit
  def attention(params, batch):
    fields = method.fields(apprentice.config)
    batch = to_latents(
      backbone, backbone.codec.params, batch, dtype=jnp.float32, fields=fields
    )
    context = method.encode(apprentice.apply, params, batch)
    x0_BHWC = batch["image"]
    noise_BHWC = jax.random.normal(jax.random.key(0), x0_BHWC.shape)
    x_BHWC = schedules.add_noise(schedule, x0_BHWC, noise_BHWC, t_B)
    with listening() as notes:
      predict(
        method,
        apprentice.apply,
        params,
        x_BHWC,
        t_B,
        batch["text"],
        context,
        keys_B=jax.random.split(jax.random.key(1), _SUBJECTS),
      )
    return {
      name.removesuffix(".adapter"): weights
      for name, weights in notes.items()
      if name.endswith(".adapter")
    }

  found = attention(apprentice.params, batch)
  return {
    site: look_of(np.asarray(weights), target_BHW, shown_BKHW)
    for site, weights in found.items()
  }


def main() -> None:
  """Prints a line for each layer at each level of noise."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--model", default="world_apprentice")
  args = parser.parse_args()
  apprentice = load_apprentice(args.model)
  for level in LOG_SNR:
    print(
      f"log SNR {level:g}: places shared, on the subject from it, from else"
    )
    for site, look in measure(apprentice, level).items():
      print(
        f"  {site:48} {look.places:4.0f} of {look.of}  {look.inside:.2f}  "
        f"{look.outside:.2f}"
      )


if __name__ == "__main__":
  main()
