# SPDX-License-Identifier: Apache-2.0
"""The judge of SubjectWorld: sees shape and detail, and trains nothing else.

A small ViT with heads. What conditions or filters is another training, on other
subjects, so that nothing is judged by what chose it. Four losses:

  which     a subject's other picture among look-alikes of its class, in one
            scene (Khosla et al., 2020, eq. 2): neither colours nor backgrounds
            tell it
  questions class, place, look, outfit, style: the world's own truth
  shape     what the subject is built of, as principal components
  softness  how much a picture was blurred, coarsened and made noisy: the
            features, by which the kernel distance compares, see sharpness

Pictures are softened at random, as a diffusion model's samples are soft and are
to be judged by what they show.

  python -m suti.pretrain.judge \
      --config configs/pretrain/judge.py --workdir runs/pretrain
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from suti.hf.weights import save
from suti.io.files import write_json
from suti.models.dino import declare_dino
from suti.models.heads import declare_heads
from suti.nn.param import functional, init
from suti.pretrain.augment import DAMAGES, damage
from suti.pretrain.card import write_training
from suti.pretrain.clip import preprocessing
from suti.pretrain.identity import pair_loss
from suti.pretrain.look_alike_pool import LookAlikes, render_look_alikes
from suti.pretrain.loop import train
from suti.runtime import stage
from suti.world.questions import CHOICES

# B pictures, F features, D embedding width, Q questions, S shape components,
# C classes.

# The folder of the heads, and what their names begin with in training.
HEADS = "heads"
_SHAPE, _SOFTNESS = "shape", "softness"


def run(config: Any, workdir: Path) -> dict:
  """Trains the judge; writes the ViT in the published layout, heads beside it.

  Args:
    config: see configs/pretrain/judge.py.
    workdir: the pool, checkpoints, the log and `model/` go there.

  Returns: what was trained, for the model card.
  """
  folder = workdir / "judge"
  model = folder / "model"
  vit_spec, vit = functional(declare_dino(config.model.to_dict()))
  width = 2 * config.model.hidden_size
  kept = {
    "identity": config.embedding,
    **{question: len(CHOICES[question]) for question in CHOICES},
  }
  of_training = {
    _SHAPE: len(CHOICES["class"]) * config.num_shapes,
    _SOFTNESS: DAMAGES,
  }
  heads_spec, heads = functional(
    declare_heads({"hidden_size": width, "heads": kept | of_training})
  )
  pool = render_look_alikes(
    config.pool,
    workdir / "pool",
    size_px=config.size_px,
    num_shapes=config.num_shapes,
  )

  def loss(params, batch, key):
    params = {n: p.astype(config.dtype) for n, p in params.items()}
    pixels, damage_BD = damage(batch["image"], key)
    tokens_BSD = vit(_part(params, ""), pixels.astype(config.dtype))
    x_BF = features(tokens_BSD).astype(jnp.float32)
    return _losses(
      heads(_part(params, HEADS), x_BF), batch, damage_BD, config=config
    )

  key = jax.random.key(config.seed)
  params, seconds = train(
    config,
    folder,
    params={
      **init(vit_spec, key),
      **{f"{HEADS}.{n}": p for n, p in init(heads_spec, key).items()},
    },
    loss=loss,
    batch_at=_make_batch_at(config, pool),
  )
  write_json(model / "config.json", config.model.to_dict())
  write_json(model / "preprocessor_config.json", preprocessing(config.size_px))
  save(
    {n: params[n] for n in vit_spec},
    vit_spec,
    model / "model.safetensors",
    dtype=jnp.float16,
  )
  write_json(
    model / HEADS / "config.json",
    {
      "model_type": "heads",
      "hidden_size": width,
      "heads": kept,
      "choices": CHOICES,
    },
  )
  save(
    {n: p for n, p in _part(params, HEADS).items() if n.split(".")[0] in kept},
    heads_spec,
    model / HEADS / "model.safetensors",
    dtype=jnp.float16,
  )
  subjects, views = pool.image_u8_GMTVHWC.shape[:2], pool.answers_GTQ.shape[1]
  num = subjects[0] * subjects[1]
  write_training(
    model,
    name="judge",
    config=config,
    seconds=seconds,
    data=(
      f"{num * views * config.pool.shots_each} renders of {num} subjects of "
      f"SubjectWorld's {config.pool.split} split from number "
      f"{config.pool.first_subject} on, which no other training uses"
    ),
  )
  return {"steps": config.num_steps, "model": str(model)}


def features(tokens_BSD: jax.Array) -> jax.Array:
  """The class token and the mean of the patches, (B, 2 D)."""
  return jnp.concatenate(
    [tokens_BSD[:, 0], tokens_BSD[:, 1:].mean(axis=1)], axis=-1
  )


def _part(params: dict, prefix: str) -> dict:
  """The parameters of the encoder, or of what a prefix names."""
  if not prefix:
    return {n: p for n, p in params.items() if not n.startswith(f"{HEADS}.")}
  return {
    n.removeprefix(f"{prefix}."): p
    for n, p in params.items()
    if n.startswith(f"{prefix}.")
  }


def _losses(
  out: dict, batch: dict, damage_BD: jax.Array, *, config: Any
) -> tuple[jax.Array, dict]:
  """The weighted sum of the four losses, and what to log."""
  z_BD = out["identity"]
  z_BD = z_BD / jnp.linalg.norm(z_BD, axis=-1, keepdims=True)
  which, hit = pair_loss(z_BD, batch["subject"], temperature=config.temperature)
  scalars = {"which": which, "nearest": hit}
  questions = []
  for number, question in enumerate(CHOICES):
    right_B = batch["answers"][:, number]
    log_share = jax.nn.log_softmax(out[question], axis=-1)
    chosen_B = jnp.take_along_axis(log_share, right_B[:, None], axis=1)
    questions.append(-chosen_B.mean())
    scalars[question] = (out[question].argmax(-1) == right_B).mean()
  shape_BCS = out[_SHAPE].reshape(len(z_BD), -1, config.num_shapes)
  class_B = batch["answers"][:, tuple(CHOICES).index("class")]
  shape_BS = jnp.take_along_axis(shape_BCS, class_B[:, None, None], axis=1)[
    :, 0
  ]
  shape = jnp.square(shape_BS - batch["shape"]).mean()
  softness = jnp.square(out[_SOFTNESS] - damage_BD).mean()
  scalars |= {"shape": shape, "softness": softness}
  weights = config.weights
  total = (
    which
    + weights.questions * sum(questions)
    + weights.shape * shape
    + weights.softness * softness
  )
  return total, scalars


def _make_batch_at(
  config: Any, pool: LookAlikes
) -> Callable[[np.random.Generator], dict]:
  """Groups of look-alikes, two pictures of each subject."""
  num_groups, size, scenes, shots = pool.image_u8_GMTVHWC.shape[:4]
  chosen = config.batch_size // (2 * size)

  def batch_at(rng: np.random.Generator) -> dict:
    images, subjects, answers, shapes = [], [], [], []
    for group in rng.choice(num_groups, chosen, replace=False):
      one = two = int(rng.integers(scenes))
      if rng.random() >= config.same_scene:
        two = int(rng.integers(scenes))
      for view, scene in enumerate((one, two)):
        # Another camera, also where both show one scene.
        shot = view % shots
        images.append(pool.image_u8_GMTVHWC[group, :, scene, shot])
        subjects.append(size * group + np.arange(size))
        answers.append(np.tile(pool.answers_GTQ[group, scene], (size, 1)))
        shapes.append(pool.shape_GMS[group])
    return {
      "image": np.concatenate(images),
      "subject": np.concatenate(subjects).astype(np.int32),
      "answers": np.concatenate(answers),
      "shape": np.concatenate(shapes),
    }

  return batch_at


if __name__ == "__main__":
  stage.main("pretrain.judge", run)
