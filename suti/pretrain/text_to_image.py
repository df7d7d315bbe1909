# SPDX-License-Identifier: Apache-2.0
"""The text-to-image base that experts and the apprentice start from.

Stands where SuTI has Imagen's 64x64 model (2.1B parameters, T5-XXL): a small
U-Net of the published diffusers kind on 4x4 pixel patches, which predicts the
picture, and a text encoder with the CLIP architecture, trained with it. The
text is dropped in some of the examples, for classifier-free guidance (Ho and
Salimans, 2022).

  python -m suti.pretrain.text_to_image \
      --config configs/pretrain/text_to_image.py --workdir runs/pretrain
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from suti import stage
from suti.backbone import depth_to_space, space_to_depth
from suti.diffusion.guidance import classifier_free
from suti.diffusion.objective import denoising_loss
from suti.diffusion.samplers import ddim, draw_noise, row_keys
from suti.diffusion.schedule import make_schedule
from suti.images import contact_sheet, save_png, to_u8
from suti.io.files import write_json
from suti.io.weights import save
from suti.models.clip import declare_clip_text
from suti.models.unet import declare_unet
from suti.nn.param import functional, init
from suti.pretrain.card import write_training
from suti.pretrain.loop import train
from suti.pretrain.pictures import draw_pool
from suti.pretrain.vocabulary import write_tokenizer
from suti.text import load_tokenizer

# B batch, H W C image or latent, L text tokens, D width.

_PREVIEW = (
  "a dog in the snow",
  "a cat on the beach",
  "a red teapot",
  "a backpack with a blue house in the background",
  "a sneaker on top of a purple rug in a forest",
  "a toy floating on top of water",
  "a dog wearing a santa hat",
  "a vase in the jungle",
)


def run(config: Any, workdir: Path) -> dict:
  """Trains the base and writes it as a folder in the diffusers layout.

  Args:
    config: see configs/pretrain/text_to_image.py.
    workdir: the pool, checkpoints, the log and `model/` go there.

  Returns: what was trained, for the model card.
  """
  folder = workdir / "text_to_image"
  model = folder / "model"
  unet_config = config.unet.to_dict()
  text_config = config.text_encoder.to_dict()
  length = text_config["max_position_embeddings"]
  patch = config.patch_size
  unet_spec, unet = functional(declare_unet(unet_config))
  text_spec, text = functional(declare_clip_text(text_config))
  schedule = make_schedule(config.scheduler.to_dict())

  write_tokenizer(model / "tokenizer", config.text_encoder)
  tokenize = load_tokenizer(model / "tokenizer", max_length=length)
  pool = draw_pool(config.pool, workdir / "pool", size_px=config.size_px)
  plain_NL, detailed_NL = tokenize(pool.plain), tokenize(pool.detailed)
  null_L = tokenize([""])[0]

  def batch_at(rng: np.random.Generator) -> dict:
    rows = rng.integers(0, len(pool.shots), config.batch_size)
    draw_B1 = rng.random((config.batch_size, 1))
    ids_BL = np.where(
      draw_B1 < config.detailed, detailed_NL[rows], plain_NL[rows]
    )
    dropped_B1 = rng.random((config.batch_size, 1)) < config.text_dropout
    return {
      "image": pool.image_u8_NHWC[rows],
      "ids": np.where(dropped_B1, null_L, ids_BL).astype(np.int32),
    }

  def predict(params, x_BHWC, t_B, ids_BL):
    params = {name: x.astype(config.dtype) for name, x in params.items()}
    out_BHWC = unet(params, x_BHWC, t_B, text(params, ids_BL))
    return out_BHWC.astype(jnp.float32)

  def loss(params, batch, key):
    image = batch["image"].astype(jnp.float32) / 127.5 - 1
    loss_B = denoising_loss(
      schedule,
      lambda x, t_B: predict(params, x, t_B, batch["ids"]),
      space_to_depth(image, patch=patch),
      key,
      weighting=config.weighting,
    )
    return loss_B.mean(), {}

  side = config.size_px // patch
  ids_BL = tokenize([*_PREVIEW, *[""] * len(_PREVIEW)])

  @jax.jit
  def draw(params, ids_BL, key):
    n = len(_PREVIEW)
    keys_B = row_keys(key, np.arange(n))
    noise = draw_noise(keys_B, (side, side, unet_config["in_channels"]))

    def denoise(x, t_B):
      both = predict(
        params, jnp.concatenate([x, x]), jnp.concatenate([t_B, t_B]), ids_BL
      )
      return classifier_free(both[:n], both[n:], config.guidance)

    return ddim(denoise, schedule, noise, keys_B, num_steps=25, percentile=99.5)

  def preview(params, step):
    rows = [
      list(to_u8(np.asarray(depth_to_space(x, patch=patch))))
      for x in (draw(params, ids_BL, jax.random.key(s)) for s in range(3))
    ]
    save_png(folder / "preview" / f"{step:06d}.png", contact_sheet(rows))

  key = jax.random.key(config.seed)
  params = init(unet_spec, key) | init(text_spec, key)
  params, seconds = train(
    config,
    folder,
    params=params,
    loss=loss,
    batch_at=batch_at,
    model=config.unet,
    preview=preview,
  )
  for part, spec, values in (
    ("unet", unet_spec, unet_config),
    ("text_encoder", text_spec, text_config),
  ):
    write_json(model / part / "config.json", values)
    name = "diffusion_pytorch_model" if part == "unet" else "model"
    save(
      {n: params[n] for n in spec},
      spec,
      model / part / f"{name}.safetensors",
      dtype=jnp.float16,
    )
  write_json(
    model / "scheduler" / "scheduler_config.json", config.scheduler.to_dict()
  )
  write_json(
    model / "model_index.json",
    {"_class_name": "PixelDiffusion", "patch_size": patch},
  )
  write_training(model, name="text_to_image", config=config, seconds=seconds)
  return {"steps": config.num_steps, "model": str(model)}


if __name__ == "__main__":
  stage.main("pretrain.text_to_image", run)
