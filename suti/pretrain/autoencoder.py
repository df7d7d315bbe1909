# SPDX-License-Identifier: Apache-2.0
"""The autoencoder whose latents the base denoises.

A small AutoencoderKL (arXiv 2112.10752, section 3.1) on pixel patches. Its loss
is the mean absolute error of pixels and of the differences of neighbours, which
keeps edges and hides the seams of patches, and a small Kullback-Leibler term.
Neither a perceptual nor an adversarial loss: both need a net of their own.

  python -m suti.pretrain.autoencoder \
      --config configs/pretrain/autoencoder.py --workdir runs/pretrain
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from suti.hf.weights import save
from suti.images import contact_sheet, save_png, to_pm1, to_u8
from suti.io.files import write_json
from suti.models.vae import declare_autoencoder
from suti.nn.param import functional, init
from suti.pipeline.codec import depth_to_space, space_to_depth
from suti.pretrain.card import write_training
from suti.pretrain.loop import train
from suti.pretrain.pictures import render_pool
from suti.runtime import stage

# B batch, H W C image or latent.

_PREVIEW = 12
_MEASURED = 1024  # pictures whose latents say how large latents are


def run(config: Any, workdir: Path) -> dict:
  """Trains the autoencoder and writes it in the published layout.

  Args:
    config: see configs/pretrain/autoencoder.py.
    workdir: the pool, checkpoints, the log and `model/` go there.

  Returns: what was trained, for the model card.
  """
  folder = workdir / "autoencoder"
  model = folder / "model"
  vae_config = config.vae.to_dict()
  patch = config.patch_size
  spec, apply = functional(declare_autoencoder(vae_config))
  pool = render_pool(config.pool, workdir / "pool", size_px=config.size_px)

  def batch_at(rng: np.random.Generator) -> dict:
    rows = rng.integers(0, len(pool.shots), config.batch_size)
    return {"image": pool.image_u8_NHWC[rows]}

  def to_patches(image_u8_BHWC):
    return space_to_depth(to_pm1(image_u8_BHWC), patch=patch)

  def loss(params, batch, key):
    x_BHWC = to_patches(batch["image"])
    mean, log_variance = apply(params, x_BHWC, method="encode")
    noise = jax.random.normal(key, mean.shape)
    z_BHWC = mean + jnp.exp(0.5 * log_variance) * noise
    y_BHWC = apply(params, z_BHWC, method="decode")
    error = depth_to_space(y_BHWC - x_BHWC, patch=patch)
    across = jnp.abs(jnp.diff(error, axis=1)).mean()
    along = jnp.abs(jnp.diff(error, axis=2)).mean()
    pixels = jnp.abs(error).mean()
    divergence = 0.5 * (
      jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance
    )
    kl = divergence.sum((1, 2, 3)).mean() / error[0].size
    total = pixels + config.edges * (across + along) + config.kl * kl
    return total, {"pixels": pixels, "kl": kl}

  @jax.jit
  def reconstruct(params, image_u8_BHWC):
    mean, _ = apply(params, to_patches(image_u8_BHWC), method="encode")
    y_BHWC = apply(params, mean, method="decode")
    return mean, depth_to_space(y_BHWC, patch=patch)

  shown = pool.image_u8_NHWC[:: max(len(pool.shots) // _PREVIEW, 1)][:_PREVIEW]

  def preview(params, step):
    _, image_pm1 = reconstruct(params, shown)
    rows = [list(shown), list(to_u8(np.asarray(image_pm1)))]
    save_png(folder / "preview" / f"{step:06d}.png", contact_sheet(rows))

  params, seconds = train(
    config,
    folder,
    params=init(spec, jax.random.key(config.seed)),
    loss=loss,
    batch_at=batch_at,
    preview=preview,
  )
  # The base is to see latents of unit variance around zero.
  measured = pool.image_u8_NHWC[-_MEASURED:]
  latents, image_pm1 = reconstruct(params, measured)
  error = np.asarray(image_pm1) - to_pm1(measured)
  psnr = float(10 * np.log10(4 / np.square(error).mean()))
  vae_config |= {
    "scaling_factor": float(1 / np.std(latents)),
    "shift_factor": float(np.mean(latents)),
  }
  write_json(model / "config.json", vae_config)
  save(
    params,
    spec,
    model / "diffusion_pytorch_model.safetensors",
    dtype=jnp.float16,
  )
  write_training(model, name="autoencoder", config=config, seconds=seconds)
  print(f"autoencoder: {psnr:.1f} dB on {_MEASURED} pictures of the pool")
  return {"steps": config.num_steps, "psnr_db": psnr, "model": str(model)}


if __name__ == "__main__":
  stage.main("pretrain.autoencoder", run)
