# SPDX-License-Identifier: Apache-2.0
"""A base that sees the depth of its subject, for the rigid teacher of SynCD.

SynCD (arXiv 2502.01720) takes FLUX.1-Depth: the depth is a picture, encoded as
one, behind the channels of what is denoised. So here, for a base of pixels: its
U-Net with twice the input channels, whose new weights begin at zero and all of
whose weights are trained, on renders and their depths. Its text encoder stays,
and the text is dropped in some examples, the depth never: guidance is by text.

The result is a U-Net for `config.finetune.depth_net`, and not a backbone.

  python -m suti.pretrain.depth \
      --config configs/pretrain/depth.py --workdir runs/pretrain
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from suti.diffusion.objective import denoising_loss
from suti.hf.weights import save
from suti.images import depth_u8, to_pm1
from suti.io.files import write_json
from suti.models.unet import declare_unet
from suti.nn.param import functional
from suti.pipeline.backbone import Backbone, load_backbone
from suti.pipeline.conditioning import apply_denoiser
from suti.pretrain.card import write_training
from suti.pretrain.loop import train
from suti.pretrain.pictures import Pool, render_pool
from suti.runtime import stage

# N pictures of the pool, B batch, H W C picture or patches.


def run(config: Any, workdir: Path) -> dict:
  """Trains the net and writes it as `model/unet`.

  Args:
    config: see configs/pretrain/depth.py.
    workdir: the pool, checkpoints, the log and the model go there.

  Returns: what was trained, for the model card.

  Raises:
    ValueError: the base works on latents.
  """
  folder = workdir / "depth"
  backbone = load_backbone(config.base)
  if not backbone.codec.bounded:
    raise ValueError(
      f"config.base is {config.base!r}, which denoises latents: expected a "
      "base of pixels, as suti.pretrain.text_to_image makes them."
    )
  channels = backbone.latent_shape[-1]
  unet_config = dict(backbone.unet_config) | {"in_channels": 2 * channels}
  spec, unet = functional(declare_unet(unet_config))
  size_px = backbone.size_px
  pool = render_pool(
    config.pool, workdir / "pool", size_px=size_px, depths=True
  )
  assert pool.depth_NHW is not None and pool.mask_NHW is not None
  grey = zip(pool.depth_NHW, pool.mask_NHW, strict=True)
  seen = np.stack([depth_u8(*each) for each in grey])

  def loss(params, batch, key):
    x_BHWC, depth_BHWC = (
      backbone.codec.encode({}, to_pm1(batch[name])) for name in ("x", "depth")
    )
    loss_B = denoising_loss(
      backbone.schedule,
      lambda x, t_B: apply_denoiser(
        unet,
        params,
        jnp.concatenate([x, depth_BHWC], axis=-1),
        t_B,
        batch["text"],
      ),
      x_BHWC,
      key,
      weighting=config.weighting,
      gamma=config.snr_gamma,
      log_snr=config.log_snr and tuple(config.log_snr),
      stratified=True,
    )
    return loss_B.mean(), {}

  params, seconds = train(
    config,
    folder,
    params=widened(backbone.params, channels),
    loss=loss,
    batch_at=_make_batch_at(config, backbone, pool, seen),
  )
  model = folder / "model"
  write_json(model / "unet" / "config.json", unet_config)
  save(
    params,
    spec,
    model / "unet" / "diffusion_pytorch_model.safetensors",
    dtype=jnp.float16,
  )
  write_training(model, name="depth", config=config, seconds=seconds)
  return {"steps": config.num_steps, "model": str(model)}


def widened(params: dict, channels: int) -> dict:
  """A base's parameters, with zeros for as many channels more of its input."""
  weight_HWIO = params["conv_in.weight"]
  more = ((0, 0), (0, 0), (0, channels), (0, 0))
  return params | {"conv_in.weight": jnp.pad(weight_HWIO, more)}


def _make_batch_at(
  config: Any,
  backbone: Backbone,
  pool: Pool,
  seen: np.ndarray,
) -> Callable[[np.random.Generator], dict]:
  """Random pictures with their depths and one of their texts, or none."""

  def batch_at(rng: np.random.Generator) -> dict:
    rows = rng.integers(0, len(pool.shots), config.batch_size)
    detailed = rng.random(config.batch_size) < config.detailed
    dropped = rng.random(config.batch_size) < config.text_dropout
    texts = [
      "" if drop else pool.detailed[row] if long else pool.plain[row]
      for row, long, drop in zip(map(int, rows), detailed, dropped, strict=True)
    ]
    text = backbone.encode_text(texts)
    return {"x": pool.image_u8_NHWC[rows], "depth": seen[rows], "text": text}

  return batch_at


if __name__ == "__main__":
  stage.main("pretrain.depth", run)
