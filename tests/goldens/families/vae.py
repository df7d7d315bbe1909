# SPDX-License-Identifier: Apache-2.0
"""The autoencoder: AutoencoderKL of diffusers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from suti.models import vae
from suti.models.vae_tiles import in_tiles
from tests.goldens import drawing, theirs
from tests.goldens.ours import published_layout

# As Stable Diffusion's, but for sizes; and with what later ones leave out.
_VAE = {
  "_class_name": "AutoencoderKL",
  "act_fn": "silu",
  "block_out_channels": [8, 12],
  "down_block_types": ["DownEncoderBlock2D"] * 2,
  "in_channels": 3,
  "latent_channels": 4,
  "layers_per_block": 1,
  "norm_num_groups": 4,
  "out_channels": 3,
  "sample_size": 16,
  "up_block_types": ["UpDecoderBlock2D"] * 2,
}
_VAE_BARE = _VAE | {
  "layers_per_block": 2,
  "mid_block_add_attention": False,
  "scaling_factor": 0.36,
  "use_post_quant_conv": False,
  "use_quant_conv": False,
}


# Whose pictures are larger than its tiles.
_VAE_TILED = _VAE | {"sample_size": 8}
_TILE_PX = 8

declare = vae.declare_autoencoder
RENAMES = {}

CASES = {
  "vae": (_VAE, (2, 16, 12, 3)),
  "vae_bare": (_VAE_BARE, (2, 8, 8, 3)),
  "vae_tiled": (_VAE_TILED, (2, 26, 18, 3)),
  # Whatever is between the layers, SiLU is before the last.
  "vae_gelu": (_VAE | {"act_fn": "gelu"}, (2, 8, 8, 3)),
  "vae_relu": (_VAE_BARE | {"act_fn": "relu"}, (2, 8, 8, 3)),
}
PUBLISHED = {
  "stable-diffusion-v1-5-vae": {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "layers_per_block": 2,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
  },
  "stable-diffusion-xl-vae": {
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
  },
}


def inputs(case: str) -> dict[str, np.ndarray]:
  """Pictures `x` and latents `z`, NHWC."""
  config, shape = CASES[case]
  halved = 2 ** (len(config["block_out_channels"]) - 1)
  sides = [side // halved for side in shape[1:3]]
  z_shape = (shape[0], *sides, config["latent_channels"])
  return {
    "x": drawing.normal(f"{case}.x", shape),
    "z": drawing.normal(f"{case}.z", z_shape),
  }


# --- Ours --------------------------------------------------------------------


def call(spec, apply):
  @jax.jit
  def run_all(params, x, z):
    def loss(params):
      mean, log_variance = apply(params, x, method="encode")
      out = apply(params, z, method="decode")
      outputs = {"mean": mean, "log_variance": log_variance, "out": out}
      return sum(jnp.square(y).mean() for y in outputs.values()), outputs

    return jax.grad(loss, has_aux=True)(params)

  @jax.jit
  def run_tiled(params, x, z):
    encode = partial(apply, params, method="moments")
    decode = partial(apply, params, method="decode")
    moments = in_tiles(encode, x, size=_TILE_PX, size_out=_TILE_PX // 2)
    mean, log_variance = vae.split_moments(moments)
    return {
      "tiled.mean": mean,
      "tiled.log_variance": log_variance,
      "tiled.out": in_tiles(decode, z, size=_TILE_PX // 2, size_out=_TILE_PX),
    }

  def call(params, **values):
    gradients, outputs = run_all(params, **values)
    if values["x"].shape[1] > 2 * _TILE_PX:
      outputs |= run_tiled(params, **values)
    for name, value in gradients.items():
      outputs[f"gradient.{name}"] = published_layout(spec[name], value)
    return outputs

  return call


# --- Theirs ------------------------------------------------------------------


def build(config: dict):
  """The publisher's model, whatever its weights."""
  import diffusers

  return diffusers.AutoencoderKL(**theirs.diffusers_config(config)).eval()


published = theirs.states
fill = theirs.filled


def run(model, values: dict) -> dict[str, np.ndarray]:
  posterior = model.encode(theirs.nchw(values["x"])).latent_dist
  out = model.decode(theirs.nchw(values["z"])).sample
  outputs = {
    "mean": theirs.nhwc(posterior.mean),
    "log_variance": theirs.nhwc(posterior.logvar),
    "out": theirs.nhwc(out),
  }
  loss = (posterior.mean**2).mean() + (posterior.logvar**2).mean()
  (loss + (out**2).mean()).backward()
  outputs |= theirs.gradients(model)
  if values["x"].shape[1] > 2 * _TILE_PX:
    outputs |= _run_tiled(model, values)
  return outputs


def _run_tiled(model, values):
  import torch

  model.enable_tiling()
  with torch.no_grad():
    posterior = model.encode(theirs.nchw(values["x"])).latent_dist
    out = model.decode(theirs.nchw(values["z"])).sample
  return {
    "tiled.mean": theirs.nhwc(posterior.mean),
    "tiled.log_variance": theirs.nhwc(posterior.logvar),
    "tiled.out": theirs.nhwc(out),
  }
