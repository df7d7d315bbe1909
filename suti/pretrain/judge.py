# SPDX-License-Identifier: Apache-2.0
"""The judge of SubjectWorld: sees shape and detail, and trains nothing else.

What conditions or filters is another training, on other subjects, so that
nothing is judged by what chose it. Pooled responses to a learned dictionary of
patches (`suti.models.patch_dictionary`) with linear heads, all in closed form:

  identity  Fisher's discriminants of look-alikes in one scene, so that neither
            colours nor backgrounds tell them apart
  questions class, place, look, outfit, style: ridge regression on the world's
            own truth
  features  principal components, by which the kernel distance compares

What it is worth is in docs/judges.md. Each picture is also shown damaged
(blurred, coarse, noisy, mirrored, moved): samples are soft and are judged by
what they show.

  python -m suti.pretrain.judge \
      --config configs/pretrain/judge.py --workdir runs/pretrain
"""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from suti.hf.weights import save
from suti.images import to_pm1
from suti.io.files import write_json
from suti.models.heads import declare_heads
from suti.models.patch_dictionary import declare_patch_dictionary
from suti.nn.param import functional
from suti.pretrain.augment import damage
from suti.pretrain.card import write_training
from suti.pretrain.clip import preprocessing
from suti.pretrain.discriminant import (
  discriminant,
  principal_axes,
  ridge_regression,
)
from suti.pretrain.look_alike_pool import LookAlikes, render_look_alikes
from suti.pretrain.patch_words import learn_words
from suti.runtime import stage
from suti.world.questions import CHOICES

# N pictures, F features, P principal components, O outputs of a head; G groups,
# M subjects of a group, T scenes, V views of a subject in a scene.

HEADS = "heads"
_BLOCK = 64  # pictures encoded at once
_SPREAD = 1e-3  # added to the deviation of a feature


def run(config: Any, workdir: Path) -> dict:
  """Learns the judge and writes it, heads beside the encoder.

  Only rendering takes more than minutes, and that resumes.

  Args:
    config: see configs/pretrain/judge.py.
    workdir: the pool and `judge/model/` go there.

  Returns: what was learned, for the model card.
  """
  model = workdir / "judge" / "model"
  pool = render_look_alikes(
    config.pool, workdir / "pool", size_px=config.size_px
  )
  start = time.monotonic()
  rng = np.random.default_rng(config.seed)
  spec, apply = functional(declare_patch_dictionary(config.model.to_dict()))
  params = _learn_dictionaries(config, pool, rng=rng)
  width = spec["mean"].shape[0]
  params |= {"mean": np.zeros(width), "scale": np.ones(width)}
  raw_NF = _encode(apply, params, pool, seed=config.seed)
  mean_F, scale_F = raw_NF.mean(0), 1 / (raw_NF.std(0) + _SPREAD)
  raw_NF -= mean_F
  raw_NF *= scale_F
  params |= {"mean": mean_F, "scale": scale_F}
  heads = _fit_heads(config, pool, raw_NF, rng=rng)
  _write(
    model,
    config,
    {n: jnp.asarray(p, jnp.float32) for n, p in params.items()},
    heads,
  )
  num_groups, size = pool.image_u8_GMTVHWC.shape[:2]
  num = num_groups * size
  write_training(
    model,
    name="judge",
    config=config,
    seconds=time.monotonic() - start,
    data=(
      f"{len(raw_NF) // 2} renders of {num} subjects of SubjectWorld's "
      f"{config.pool.split} split from number {config.pool.start} on, "
      "which no other training uses"
    ),
  )
  return {"pictures": len(raw_NF) // 2, "model": str(model)}


def _learn_dictionaries(
  config: Any, pool: LookAlikes, *, rng: np.random.Generator
) -> dict[str, np.ndarray]:
  """Weights and biases of each scale."""
  images_u8 = pool.image_u8_GMTVHWC.reshape(
    -1, *pool.image_u8_GMTVHWC.shape[4:]
  )
  rows = rng.permutation(len(images_u8))[: config.dictionary.num_images]
  images_pm1 = to_pm1(images_u8[rows])
  params = {}
  for number, _ in enumerate(config.model.strides):
    if number:
      n, h, w, c = images_pm1.shape
      images_pm1 = images_pm1.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))
    weight, bias = learn_words(
      images_pm1,
      size=config.model.patch_size,
      num_words=config.model.num_words,
      num_patches=config.dictionary.num_patches,
      rounds=config.dictionary.rounds,
      rng=rng,
    )
    params |= {f"scales.{number}.weight": weight, f"scales.{number}.bias": bias}
  return params


def _encode(
  apply: Any, params: dict, pool: LookAlikes, *, seed: int
) -> np.ndarray:
  """Features of all pictures, (2 N, F) float32: each as it is, then damaged.

  Rows are in the order G, M, T, V, and the two of a picture side by side.
  """
  images_u8 = pool.image_u8_GMTVHWC.reshape(
    -1, *pool.image_u8_GMTVHWC.shape[4:]
  )

  @jax.jit
  def encode(params, image_u8_BHWC, key):
    both = jnp.stack(
      [to_pm1(image_u8_BHWC), damage(image_u8_BHWC, key)], axis=1
    )
    return apply(params, both.reshape(-1, *both.shape[2:]), method="pooled")

  params = {n: jnp.asarray(p, jnp.float32) for n, p in params.items()}
  blocks = []
  for start in stage.progress(range(0, len(images_u8), _BLOCK), "encode"):
    rows = images_u8[start : start + _BLOCK]
    padded = np.concatenate([rows, np.repeat(rows[-1:], _BLOCK - len(rows), 0)])
    key = jax.random.fold_in(jax.random.key(seed), start)
    x_NF = np.asarray(encode(params, padded, key))
    blocks.append(x_NF[: 2 * len(rows)])
  return np.concatenate(blocks)


def _fit_heads(
  config: Any, pool: LookAlikes, x_NF: np.ndarray, *, rng: np.random.Generator
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Weight (F, O) and bias (O,) of each head, on standardised features."""
  axes_FP = principal_axes(x_NF, count=config.components, rng=rng)
  z_NP = x_NF @ axes_FP
  groups, size, scenes, views = pool.image_u8_GMTVHWC.shape[:4]
  z_GMTVP = z_NP.reshape(groups, size, scenes, 2 * views, -1)
  identity = discriminant(z_GMTVP, count=config.embedding, ridge=config.within)
  spread = np.sqrt(np.square(z_NP[:, : config.num_features]).mean())
  fitted = {
    "identity": (axes_FP @ identity, np.zeros(config.embedding)),
    "features": (
      axes_FP[:, : config.num_features] / spread,
      np.zeros(config.num_features),
    ),
  }
  each = np.broadcast_to(
    pool.answers_GTQ[:, None, :, None],
    (groups, size, scenes, 2 * views, len(CHOICES)),
  ).reshape(-1, len(CHOICES))
  for number, (question, choices) in enumerate(CHOICES.items()):
    target_NO = np.eye(len(choices), dtype=np.float32)[each[:, number]]
    share_O = target_NO.mean(0)
    weights = ridge_regression(z_NP, target_NO - share_O, ridge=config.ridge)
    fitted[question] = (axes_FP @ weights, share_O)
  return fitted


def _write(model: Path, config: Any, params: dict, heads: dict) -> None:
  """The encoder and its heads, each a config and its weights in float16."""
  spec, _ = functional(declare_patch_dictionary(config.model.to_dict()))
  write_json(model / "config.json", config.model.to_dict())
  write_json(model / "preprocessor_config.json", preprocessing(config.size_px))
  save(params, spec, model / "model.safetensors", dtype=jnp.float16)
  sizes = {name: len(bias) for name, (_, bias) in heads.items()}
  described = {
    "model_type": "heads",
    "hidden_size": len(next(iter(heads.values()))[0]),
    "heads": sizes,
    "choices": CHOICES,
    "unlearned": [
      name
      for name, (_, share) in heads.items()
      if name in CHOICES and np.count_nonzero(share) < 2
    ],
  }
  heads_spec, _ = functional(declare_heads(described))
  write_json(model / HEADS / "config.json", described)
  arrays = {}
  for name, (weight, bias) in heads.items():
    arrays[f"{name}.weight"] = jnp.asarray(weight, jnp.float32)
    arrays[f"{name}.bias"] = jnp.asarray(bias, jnp.float32)
  save(
    arrays, heads_spec, model / HEADS / "model.safetensors", dtype=jnp.float16
  )


if __name__ == "__main__":
  stage.main("pretrain.judge", run)
