# SPDX-License-Identifier: Apache-2.0
"""A segmenter for SubjectWorld: where the subject of a picture is.

The stand-in for the detectors and segmenters of real pictures (GroundingDINO
and SAM in Subject-Diffusion, arXiv 2307.11410). A small U-Net
(`suti.models.segmenter`) learns the renderer's true masks, of pictures that are
softened, tinted and noisy as a diffusion model's are. Its loss is the cross
entropy of pixels and one minus their soft Dice overlap (Milletari et al., arXiv
1606.04797), which keeps small subjects.

  python -m suti.pretrain.segmenter \
      --config configs/pretrain/segmenter.py --workdir runs/pretrain
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from suti.evaluation.segmenter import load_segmenter, overlap
from suti.hf.weights import save
from suti.io.files import write_json
from suti.models.segmenter import declare_segmenter
from suti.nn.param import functional, init
from suti.pretrain.augment import augment_both
from suti.pretrain.card import write_training
from suti.pretrain.loop import train
from suti.pretrain.pictures import render_pool
from suti.runtime import stage
from suti.world.dataset import heldout_shots, render_shots, subject_seeds

# B pictures in a batch, H W picture.


def mask_loss(logits_BHW: jax.Array, inside_BHW: jax.Array) -> jax.Array:
  """Cross entropy of pixels, and one minus the soft Dice overlap.

  Args:
    logits_BHW: of the net.
    inside_BHW: the share of each pixel that is inside, in [0, 1].

  Returns: the mean over pictures.
  """
  entropy = optax.sigmoid_binary_cross_entropy(logits_BHW, inside_BHW).mean()
  share_BHW = jax.nn.sigmoid(logits_BHW)
  both_B = (share_BHW * inside_BHW).sum((1, 2))
  total_B = share_BHW.sum((1, 2)) + inside_BHW.sum((1, 2))
  return entropy + 1 - ((2 * both_B + 1) / (total_B + 1)).mean()


def run(config: Any, workdir: Path) -> dict:
  """Trains the segmenter and writes its folder.

  Args:
    config: see configs/pretrain/segmenter.py.
    workdir: the pool, checkpoints, the log and `model/` go there.

  Returns: how well masks of validation subjects overlap with the true ones.
  """
  folder = workdir / "segmenter"
  model = folder / "model"
  model_config = config.model.to_dict()
  spec, apply = functional(declare_segmenter(model_config))
  pool = render_pool(
    config.pool, workdir / "pool", size_px=config.size_px, masks=True
  )
  assert pool.mask_NHW is not None
  masks_NHW = pool.mask_NHW

  def batch_at(rng: np.random.Generator) -> dict:
    rows = rng.integers(0, len(pool.shots), config.batch_size)
    return {"image": pool.image_u8_NHWC[rows], "mask": masks_NHW[rows]}

  def loss(params, batch, key):
    params = {n: p.astype(config.dtype) for n, p in params.items()}
    pixels, inside_BHW = augment_both(batch["image"], batch["mask"], key)
    logits_BHW = apply(params, pixels.astype(config.dtype))
    return mask_loss(logits_BHW.astype(jnp.float32), inside_BHW), {}

  params, seconds = train(
    config,
    folder,
    params=init(spec, jax.random.key(config.seed)),
    loss=loss,
    batch_at=batch_at,
  )
  write_json(model / "config.json", model_config)
  save(params, spec, model / "model.safetensors", dtype=jnp.float16)
  write_training(model, name="segmenter", config=config, seconds=seconds)
  score = examine(
    model, num_subjects=config.num_examined, size_px=config.size_px
  )
  print(
    f"segmenter: intersection over union {score:.3f}, {config.num_examined} "
    "validation subjects"
  )
  return {"steps": config.num_steps, "overlap": score, "model": str(model)}


def examine(model: Path, *, num_subjects: int, size_px: int) -> float:
  """The mean overlap with true masks, of validation subjects in four scenes."""
  shots = [
    shot
    for subject in subject_seeds("validation", 0, num_subjects)
    for shot in heldout_shots(subject, images_each=4)
  ]
  drawn = render_shots(shots, size_px=size_px)
  masks, _ = load_segmenter(model)(list(drawn["image"]))
  return float(
    np.mean(
      [
        overlap(mask, truth)
        for mask, truth in zip(masks, drawn["mask"], strict=True)
      ]
    )
  )


if __name__ == "__main__":
  stage.main("pretrain.segmenter", run)
