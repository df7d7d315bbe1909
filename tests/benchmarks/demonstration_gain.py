# SPDX-License-Identifier: Apache-2.0
"""What demonstrations tell an apprentice, at each level of noise.

The error of denoising true renders of the benchmark's prompts, which a finished
run keeps (`apprentice.evaluate`, the row "scenes"), without demonstrations,
with those of the subject, and with those of another subject of its class. It
needs no sampling and no judge, and by paired noise it resolves what scores of
sampled images cannot: whether a change of method or training makes more of the
demonstrations.

  python -m tests.benchmarks.demonstration_gain runs/dreambench
  python -m tests.benchmarks.demonstration_gain runs/dreambench \
      --model runs/apprentice/apprentice/train/model
"""

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from apprentice.fields import make_fields, to_latents
from apprentice.method import predict
from apprentice.model import Apprentice, load_apprentice
from apprentice.sample import read_benchmark
from suti.diffusion import schedule as schedules
from suti.diffusion.objective import denoising_loss_at
from suti.io.records import read_records
from suti.runtime.progress import progress
from suti.schema import Candidate, Cluster

# B batch, R pictures, S levels of noise.

LOG_SNR = (-4.0, -2.5, -1.0, 0.5, 2.0)
SCENES = "apprentice/evaluate/scenes.array_record"
_SHOWN = ("none", "right", "wrong")
_ROWS = 20


def another_of_class(clusters: dict[str, Cluster]) -> dict[str, str]:
  """Key -> the next subject of its class; a class of one has none."""
  by_class: dict[str, list[str]] = {}
  for key, cluster in clusters.items():
    by_class.setdefault(cluster.subject, []).append(key)
  return {
    key: keys[(place + 1) % len(keys)]
    for keys in by_class.values()
    for place, key in enumerate(keys)
    if len(keys) > 1
  }


def make_rows(
  apprentice: Apprentice,
  clusters: dict[str, Cluster],
  pictures: list[Candidate],
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
  """Each picture with its subject's demonstrations, and with another's."""
  other = another_of_class(clusters)
  num = apprentice.sampling["num_demonstrations"]
  backbone = apprentice.backbone

  def row(picture: Candidate, key: str) -> dict[str, Any]:
    cluster = clusters[key]
    shown = cluster.images[:num]
    return make_fields(
      image=picture.image,
      prompt=picture.prompt,
      demonstrations=shown,
      captions=[f"a {cluster.subject}"] * len(shown),
      num_demonstrations=num,
      encode_text=backbone.encode_text,
      size_px=backbone.size_px,
      fields=apprentice.method.fields(apprentice.config),
    )

  return [
    (row(picture, picture.cluster), row(picture, other[picture.cluster]))
    for picture in pictures
    if picture.cluster in other
  ]


def make_loss(apprentice: Apprentice) -> Callable[..., jax.Array]:
  """Makes (params, batch, noise_BHWC, t_B) -> error of v, (B,)."""
  backbone, method = apprentice.backbone, apprentice.method
  fields = method.fields(apprentice.config)

  @jax.jit
  def loss(params, batch, noise_BHWC, t_B):
    batch = to_latents(
      backbone, backbone.codec.params, batch, dtype=jnp.float32, fields=fields
    )
    context = method.encode(apprentice.apply, params, batch)
    return denoising_loss_at(
      backbone.schedule,
      lambda x, t: predict(
        method,
        apprentice.apply,
        params,
        x,
        t,
        batch["text"],
        context,
        keys_B=jax.random.split(jax.random.key(0), len(x)),
      ),
      batch["image"],
      noise_BHWC,
      t_B,
      weighting="snr_plus_one",
      gamma=200.0,
    )

  return loss


def measure(apprentice: Apprentice, rows: list) -> dict[str, np.ndarray]:
  """Errors {"none" | "right" | "wrong": (S, R)}, all under the same noise."""
  backbone, loss = apprentice.backbone, make_loss(apprentice)
  steps = jnp.arange(backbone.schedule.num_steps)
  log_snr_T = np.log(np.asarray(schedules.snr(backbone.schedule, steps)))
  rng = np.random.default_rng(0)
  found: dict[str, list] = {name: [] for name in _SHOWN}
  for level in progress(LOG_SNR, "levels of noise"):
    errors: dict[str, list] = {name: [] for name in _SHOWN}
    for first in range(0, len(rows) - _ROWS + 1, _ROWS):
      right, wrong = (
        jax.tree.map(lambda *x: np.stack(x), *side)
        for side in zip(*rows[first : first + _ROWS], strict=True)
      )
      none = right | {
        "demonstration_mask": np.zeros_like(right["demonstration_mask"])
      }
      shape = (_ROWS, *backbone.latent_shape)
      noise_BHWC = rng.standard_normal(shape).astype(np.float32)
      step = np.argmin(np.abs(log_snr_T - level))
      t_B = np.full(_ROWS, step, np.int32)
      for name, batch in zip(_SHOWN, (none, right, wrong), strict=True):
        errors[name].append(loss(apprentice.params, batch, noise_BHWC, t_B))
    for name, each in errors.items():
      found[name].append(np.concatenate(each))
  return {name: np.stack(each) for name, each in found.items()}


def main() -> None:
  """Prints a line for each level of noise, and their mean."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("workdir", help="of a finished run of the benchmark")
  parser.add_argument(
    "--model", default="world_apprentice", help="a shipped name or a folder"
  )
  args = parser.parse_args()
  workdir = pathlib.Path(args.workdir)
  apprentice = load_apprentice(args.model)
  clusters, _ = read_benchmark(workdir)
  pictures = list(read_records(workdir / SCENES, Candidate))
  rows = make_rows(apprentice, clusters, pictures)
  error_SR = measure(apprentice, rows)
  number = error_SR["none"].shape[1]
  print(f"{args.model}: {number} pictures, error of v")
  for place, level in enumerate([*LOG_SNR, "mean"]):
    none_R, right_R, wrong_R = (
      each.mean(0) if level == "mean" else each[place]
      for each in error_SR.values()
    )
    gain = (none_R - right_R).mean() / none_R.mean()
    apart = wrong_R - right_R
    print(
      f"log SNR {level!s:>5}  none {none_R.mean():.4f}  right "
      f"{right_R.mean():.4f} ({gain:+.1%} less)  wrong {wrong_R.mean():.4f}  "
      f"wrong - right {apart.mean():.4f} +- "
      f"{apart.std() / np.sqrt(number):.4f}"
    )


if __name__ == "__main__":
  main()
