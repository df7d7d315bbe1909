# SPDX-License-Identifier: Apache-2.0
"""A CLIP for SubjectWorld: the judge of text alignment and the miner's eye.

Architecture and names of the published CLIPModel (Radford et al., 2021), small.
The loss is CLIP's, but equal captions in a batch are all positives: a world of
fifty templates repeats itself in every batch.

  python -m suti.pretrain.clip \
      --config configs/pretrain/clip.py --workdir runs/pretrain
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from suti.hf.tokenizer import load_tokenizer
from suti.hf.weights import save
from suti.io.files import write_json
from suti.models.clip import declare_clip
from suti.nn.param import functional, init
from suti.pretrain.augment import augment
from suti.pretrain.card import write_training
from suti.pretrain.loop import train
from suti.pretrain.pictures import render_pool
from suti.pretrain.vocabulary import write_tokenizer
from suti.runtime import stage

# B batch, L text tokens, D embedding width.


def contrastive_loss(
  image_BD: jax.Array, text_BD: jax.Array, same_BB: jax.Array, scale: jax.Array
) -> jax.Array:
  """CLIP's loss with every pair of equal captions as a positive.

  Args:
    image_BD, text_BD: unit embeddings.
    same_BB: bool, whether picture i's caption equals caption j.
    scale: the inverse temperature.

  Returns: the mean of both directions, a scalar.
  """
  logits_BB = scale * image_BD @ text_BD.T
  share_BB = same_BB.astype(jnp.float32)
  share_BB = share_BB / share_BB.sum(axis=-1, keepdims=True)
  rows = -(share_BB * jax.nn.log_softmax(logits_BB, axis=-1)).sum(-1)
  columns = -(share_BB * jax.nn.log_softmax(logits_BB.T, axis=-1)).sum(-1)
  return (rows.mean() + columns.mean()) / 2


def run(config: Any, workdir: Path) -> dict:
  """Trains the CLIP and writes it as a folder in the published layout.

  Args:
    config: see configs/pretrain/clip.py.
    workdir: the pool, checkpoints, the log and `model/` go there.

  Returns: what was trained, for the model card.
  """
  folder = workdir / "clip"
  model = folder / "model"
  model_config = config.model.to_dict()
  length = model_config["text_config"]["max_position_embeddings"]
  spec, apply = functional(declare_clip(model_config))

  write_tokenizer(model, config.model.text_config)
  tokenize = load_tokenizer(model, max_length=length)
  pool = render_pool(config.pool, workdir / "pool", size_px=config.size_px)
  plain_NL, detailed_NL = tokenize(pool.plain), tokenize(pool.detailed)

  def batch_at(rng: np.random.Generator) -> dict:
    rows = rng.integers(0, len(pool.shots), config.batch_size)
    # One kind of caption a batch: to tell "a dog" from "a brown dog" is not
    # the judge's task.
    ids_NL = detailed_NL if rng.random() < config.detailed else plain_NL
    return {"image": pool.image_u8_NHWC[rows], "ids": ids_NL[rows]}

  def loss(params, batch, key):
    # The published config's mean and std 0.5 make [-1, 1] the input range.
    params = {n: p.astype(config.dtype) for n, p in params.items()}
    pixels = augment(batch["image"], key).astype(config.dtype)
    image_BD = apply(params, pixels, method="encode_image")
    text_BD = apply(params, batch["ids"], method="encode_text")
    image_BD, text_BD = (x.astype(jnp.float32) for x in (image_BD, text_BD))
    ids_BL = batch["ids"]
    same_BB = (ids_BL[:, None] == ids_BL[None]).all(-1)
    scale = jnp.exp(jnp.minimum(params["logit_scale"].astype(jnp.float32), 4.6))
    value = contrastive_loss(image_BD, text_BD, same_BB, scale)
    best_B = (image_BD @ text_BD.T).argmax(-1)
    hit = jnp.take_along_axis(same_BB, best_B[:, None], axis=1).mean()
    return value, {"retrieval": hit, "scale": scale}

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
  write_training(model, name="clip", config=config, seconds=seconds)
  return {"steps": config.num_steps, "model": str(model)}


def preprocessing(size_px: int) -> dict:
  """The published preprocessor config of an encoder that reads [-1, 1]."""
  return {
    "image_processor_type": "CLIPImageProcessor",
    "crop_size": {"height": size_px, "width": size_px},
    "size": {"shortest_edge": size_px},
    "resample": 1,  # Lanczos, as suti.images has it
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
  }


if __name__ == "__main__":
  stage.main("pretrain.clip", run)
