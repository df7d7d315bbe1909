# SPDX-License-Identifier: Apache-2.0
"""The text-to-image base that experts and the apprentice start from.

Stands where SuTI has Imagen's 64x64 model (2.1B parameters, T5-XXL): a small
U-Net of the published diffusers kind on latents (`suti.pretrain.autoencoder`),
and a text encoder with the CLIP architecture, trained with it. The text is
dropped in some of the examples, for classifier-free guidance (Ho and Salimans,
2022).

  python -m suti.pretrain.text_to_image \
      --config configs/pretrain/text_to_image.py --workdir runs/pretrain
"""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from suti.diffusion.guidance import classifier_free
from suti.diffusion.objective import denoising_loss
from suti.diffusion.samplers import ddim, draw_noise, row_keys
from suti.diffusion.schedule import Schedule, make_schedule
from suti.hf.find import find_model
from suti.hf.tokenizer import Tokenizer, load_tokenizer
from suti.hf.weights import load, save
from suti.images import contact_sheet, save_png, to_pm1, to_u8
from suti.io.files import read_json, write_atomic, write_json
from suti.models.clip import declare_clip_text
from suti.models.unet import declare_unet
from suti.nn.param import Param, functional, init
from suti.pipeline.codec import Codec, open_autoencoder
from suti.pipeline.known_words import write_words
from suti.pretrain.card import write_training
from suti.pretrain.loop import train
from suti.pretrain.pictures import Pool, render_pool
from suti.pretrain.vocabulary import write_tokenizer
from suti.runtime import stage
from suti.schema import content_key

# N pictures of the pool, B batch, H W C latent, L text tokens.

_BLOCK = 512  # pictures encoded in one batch
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
    workdir: the pool, checkpoints, the log and `model/` go there; holds the
      autoencoder, where `config.init` does not.

  Returns: what was trained, for the model card.
  """
  folder = workdir / "text_to_image"
  model = folder / "model"
  length = config.text_encoder.max_position_embeddings
  unet_spec, unet = functional(declare_unet(config.unet.to_dict()))
  text_spec, text = functional(declare_clip_text(config.text_encoder.to_dict()))
  schedule = make_schedule(config.scheduler.to_dict())

  autoencoder = _find_autoencoder(config, workdir)
  patch = read_json(autoencoder / "training.json")["config"]["patch_size"]
  shutil.copytree(autoencoder, model / "vae", dirs_exist_ok=True)
  write_tokenizer(model / "tokenizer", config.text_encoder)
  tokenize = load_tokenizer(model / "tokenizer", max_length=length)
  pool = render_pool(config.pool, workdir / "pool", size_px=config.size_px)
  codec = open_autoencoder(model / "vae", patch=patch)
  weights = (model / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
  latents_NHWC = encode_pool(
    pool,
    codec,
    folder / f"latents-{len(pool.shots)}-{content_key(weights)}.npy",
  )

  def predict(params, x_BHWC, t_B, ids_BL):
    params = {name: x.astype(config.dtype) for name, x in params.items()}
    out_BHWC = unet(params, x_BHWC, t_B, text(params, ids_BL))
    return out_BHWC.astype(jnp.float32)

  def loss(params, batch, key):
    loss_B = denoising_loss(
      schedule,
      lambda x, t_B: predict(params, x, t_B, batch["ids"]),
      batch["x"].astype(jnp.float32),
      key,
      weighting=config.weighting,
      stratified=True,
    )
    return loss_B.mean(), {}

  params, seconds = train(
    config,
    folder,
    params=_start(config, unet_spec, text_spec),
    loss=loss,
    batch_at=_make_batch_at(config, pool, tokenize, latents_NHWC),
    made_of={"autoencoder": content_key(weights)},
    preview=_make_preview(
      folder,
      predict,
      codec,
      schedule=schedule,
      ids_BL=tokenize([*_PREVIEW, *[""] * len(_PREVIEW)]),
      shape=latents_NHWC.shape[1:],
      guidance=config.guidance,
    ),
  )
  _write_model(model, params, unet_spec, text_spec, config=config, patch=patch)
  write_training(model, name="text_to_image", config=config, seconds=seconds)
  write_words(model, [*pool.plain, *pool.detailed])
  return {"steps": config.num_steps, "model": str(model)}


def _find_autoencoder(config: Any, workdir: Path) -> Path:
  """The folder of `config.init`'s autoencoder, or else of the workdir's."""
  autoencoder = workdir / "autoencoder" / "model"
  if config.init:
    autoencoder = find_model(config.init) / "vae"
  if not (autoencoder / "training.json").is_file():
    raise ValueError(
      f"{autoencoder} is not there: run suti.pretrain.autoencoder first, with "
      "the same --workdir."
    )
  return autoencoder


def _make_batch_at(
  config: Any,
  pool: Pool,
  tokenize: Tokenizer,
  latents_NHWC: np.ndarray,
) -> Callable[[np.random.Generator], dict]:
  """Random latents with one of their captions, which is empty in some."""
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
      "x": latents_NHWC[rows],
      "ids": np.where(dropped_B1, null_L, ids_BL).astype(np.int32),
    }

  return batch_at


def _make_preview(
  folder: Path,
  predict: Callable[..., jax.Array],
  codec: Codec,
  *,
  schedule: Schedule,
  ids_BL: np.ndarray,
  shape: tuple[int, ...],
  guidance: float,
) -> Callable[[dict, int], None]:
  """Writes three generated images of each preview prompt.

  Args:
    folder: of the run; pictures go to `preview/`.
    predict: (params, x_BHWC, t_B, ids_BL) -> the network's prediction.
    codec: decodes the samples.
    schedule: the noise schedule.
    ids_BL: tokens of the prompts, then of as many empty texts.
    shape: of one latent, (H, W, C).
    guidance: weight of classifier-free guidance.

  Returns: (parameters, step) -> None.
  """

  @jax.jit
  def sample(params, vae_params, ids_BL, key):
    n = len(_PREVIEW)
    keys_B = row_keys(key, np.arange(n))
    noise = draw_noise(keys_B, shape)

    def denoise(x, t_B):
      both = predict(
        params, jnp.concatenate([x, x]), jnp.concatenate([t_B, t_B]), ids_BL
      )
      return classifier_free(both[:n], both[n:], guidance)

    x_BHWC = ddim(denoise, schedule, noise, keys_B, num_steps=25, clip=False)
    return codec.decode(vae_params, x_BHWC)

  def preview(params, step):
    rows = [
      list(to_u8(np.asarray(sample(params, codec.params, ids_BL, key))))
      for key in map(jax.random.key, range(3))
    ]
    save_png(folder / "preview" / f"{step:06d}.png", contact_sheet(rows))

  return preview


def _start(
  config: Any, unet_spec: dict[str, Param], text_spec: dict[str, Param]
) -> dict:
  """Parameters before the first step: of `config.init`, or initial ones."""
  if config.init:
    start = find_model(config.init)
    return {
      **load(unet_spec, start / "unet"),
      **load(text_spec, start / "text_encoder"),
    }
  key = jax.random.key(config.seed)
  return init(unet_spec, key) | init(text_spec, key)


def _write_model(
  model: Path,
  params: dict,
  unet_spec: dict[str, Param],
  text_spec: dict[str, Param],
  *,
  config: Any,
  patch: int,
) -> None:
  """Weights and configs of all parts, in the diffusers layout."""
  for part, spec, values, name in (
    ("unet", unet_spec, config.unet, "diffusion_pytorch_model"),
    ("text_encoder", text_spec, config.text_encoder, "model"),
  ):
    write_json(model / part / "config.json", values.to_dict())
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
    {"_class_name": "LatentDiffusion", "patch_size": patch},
  )


def encode_pool(pool: Pool, codec: Codec, path: Path) -> np.ndarray:
  """Latents of all pictures: encoded once, for every epoch and every restart.

  Args:
    pool: the pictures.
    codec: the autoencoder.
    path: where the latents are kept.

  Returns: (N, H, W, C) float16.
  """
  if path.is_file():
    return np.load(path, allow_pickle=False)
  blocks = []
  for start in stage.progress(range(0, len(pool.shots), _BLOCK), "encode"):
    image_pm1 = to_pm1(pool.image_u8_NHWC[start : start + _BLOCK])
    x_BHWC = codec.encode(codec.params, image_pm1)
    blocks.append(np.asarray(x_BHWC, np.float16))
  latents_NHWC = np.concatenate(blocks)
  buffer = io.BytesIO()
  np.save(buffer, latents_NHWC, allow_pickle=False)
  write_atomic(path, buffer.getvalue())
  return latents_NHWC


if __name__ == "__main__":
  stage.main("pretrain.text_to_image", run)
