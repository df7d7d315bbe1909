# SPDX-License-Identifier: Apache-2.0
"""An identity encoder for SubjectWorld, instead of DINO ViT-S/16.

Architecture and names of the published DINO ViT (Caron et al., 2021), small.
DreamBench needs an encoder that is near for two pictures of one subject and far
for two subjects of one class. DINO learns that from a million photos without
labels; here the subject is known, so the encoder learns it from pairs (Khosla
et al., 2020, eq. 2), with batches of few classes: those are the hard pairs.

  python -m suti.pretrain.identity \
      --config configs/pretrain/identity.py --workdir runs/pretrain
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from suti.hf.weights import save
from suti.io.files import write_json
from suti.models.dino import declare_dino
from suti.nn.param import functional, init
from suti.pretrain.augment import augment
from suti.pretrain.card import write_training
from suti.pretrain.clip import preprocessing
from suti.pretrain.loop import train
from suti.pretrain.pictures import render_pool
from suti.runtime import stage

# B pictures in a batch, V views of a subject, D embedding width.


def pair_loss(
  z_BD: jax.Array, subject_B: jax.Array, *, temperature: float
) -> tuple[jax.Array, jax.Array]:
  """Supervised contrastive loss over the other pictures of a batch.

  Args:
    z_BD: unit embeddings.
    subject_B: which subject each picture shows, int.
    temperature: of the softmax.

  Returns: the mean loss; the share of pictures whose nearest other picture
    shows the same subject.
  """
  self_BB = jnp.eye(len(z_BD), dtype=bool)
  logits_BB = jnp.where(self_BB, -1e9, z_BD @ z_BD.T / temperature)
  same_BB = (subject_B[:, None] == subject_B[None]) & ~self_BB
  log_share_BB = jax.nn.log_softmax(logits_BB, axis=-1)
  same_BB = same_BB.astype(jnp.float32)
  loss_B = -(same_BB * log_share_BB).sum(-1) / same_BB.sum(-1)
  nearest_B = logits_BB.argmax(-1)
  return loss_B.mean(), (subject_B[nearest_B] == subject_B).mean()


def run(config: Any, workdir: Path) -> dict:
  """Trains the identity encoder and writes it in the published layout.

  Args:
    config: see configs/pretrain/identity.py.
    workdir: the pool, checkpoints, the log and `model/` go there.

  Returns: what was trained, for the model card.
  """
  folder = workdir / "identity"
  model = folder / "model"
  model_config = config.model.to_dict()
  spec, apply = functional(declare_dino(model_config))
  pool = render_pool(config.pool, workdir / "pool", size_px=config.size_px)
  views = config.views
  num_subjects = config.batch_size // views

  rows_of = [
    rows[pool.identity_N[rows]]
    for rows in np.arange(len(pool.shots)).reshape(config.pool.num_subjects, -1)
  ]
  rows_of = [rows for rows in rows_of if len(rows) >= views]
  of_class: dict[str, list[int]] = {}
  for index, rows in enumerate(rows_of):
    of_class.setdefault(str(pool.class_N[rows[0]]), []).append(index)
  classes = sorted(of_class)

  def batch_at(rng: np.random.Generator) -> dict:
    chosen = rng.choice(len(classes), config.classes_per_batch, replace=False)
    candidates = np.concatenate([of_class[classes[c]] for c in chosen])
    subjects = rng.choice(candidates, num_subjects, replace=False)
    rows = np.concatenate(
      [rng.choice(rows_of[s], views, replace=False) for s in subjects]
    )
    return {
      "image": pool.image_u8_NHWC[rows],
      "subject": np.repeat(subjects, views).astype(np.int32),
    }

  def loss(params, batch, key):
    params = {n: p.astype(config.dtype) for n, p in params.items()}
    pixels = augment(batch["image"], key).astype(config.dtype)
    z_BD = apply(params, pixels)[:, 0].astype(jnp.float32)
    z_BD = z_BD / jnp.linalg.norm(z_BD, axis=-1, keepdims=True)
    value, hit = pair_loss(
      z_BD, batch["subject"], temperature=config.temperature
    )
    return value, {"nearest": hit}

  params = init(spec, jax.random.key(config.seed))
  params, seconds = train(
    config,
    folder,
    params=params,
    loss=loss,
    batch_at=batch_at,
  )
  write_json(model / "config.json", model_config)
  write_json(model / "preprocessor_config.json", preprocessing(config.size_px))
  save(params, spec, model / "model.safetensors", dtype=jnp.float16)
  write_training(model, name="identity", config=config, seconds=seconds)
  return {"steps": config.num_steps, "model": str(model)}


if __name__ == "__main__":
  stage.main("pretrain.identity", run)
