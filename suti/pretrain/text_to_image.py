# SPDX-License-Identifier: Apache-2.0
"""The text-to-image base that experts and the apprentice start from.

Stands where SuTI has Imagen's 64x64 model (2.1B parameters, T5-XXL): a small
U-Net of the published diffusers kind on patches of pixels (`config.patch_size`)
and a text encoder with the CLIP architecture, trained with it. The text is
dropped in some of the examples, for classifier-free guidance (Ho and Salimans,
2022).

  python -m suti.pretrain.text_to_image \
      --config configs/pretrain/text_to_image.py --workdir runs/pretrain
"""

import functools
import shutil
from collections.abc import Callable, Mapping
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
from suti.hf.tokenizer import load_tokenizer
from suti.hf.weights import load, save
from suti.images import contact_sheet, save_png, to_pm1, to_u8
from suti.io.files import write_json
from suti.models.clip import declare_clip_text
from suti.models.unet import declare_unet
from suti.nn.param import Param, functional, init
from suti.pipeline.codec import Codec, pixels
from suti.pipeline.known_words import known_words, write_words
from suti.pretrain.card import write_training
from suti.pretrain.loop import train
from suti.pretrain.pictures import render_pool
from suti.pretrain.texts import check_shares, put_into_words, tokenize_all
from suti.pretrain.vocabulary import write_tokenizer
from suti.runtime import stage

# N pictures of the pool, B batch, H W C picture or patches, L text tokens.

_PREVIEW = (
  "a dog in the snow",
  "a cat on the beach",
  "a red teapot",
  "a backpack with a blue house in the background",
  "a sneaker on top of a purple rug in a forest",
  "a toy floating on top of water",
  "a dog wearing a santa hat",
  "a vase in the jungle",
  "a clock on a cobblestone street",
  "a bowl on top of pink fabric",
  "a white dog with black ears wearing a santa hat in the snow",
  "dog, jungle",
)


def run(config: Any, workdir: Path) -> dict:
  """Trains the base and writes it as a folder in the diffusers layout.

  Args:
    config: see configs/pretrain/text_to_image.py.
    workdir: the pool, checkpoints, the log and `model/` go there.

  Returns: what was trained, for the model card.

  Raises:
    ValueError: the shares of `config.texts` are not 1 together.
  """
  check_shares(config.texts.to_dict())  # before hours of rendering
  folder = workdir / "text_to_image"
  model = folder / "model"
  length = config.text_encoder.max_position_embeddings
  unet_spec, unet = functional(declare_unet(config.unet.to_dict()))
  text_spec, text = functional(declare_clip_text(config.text_encoder.to_dict()))
  schedule = make_schedule(config.scheduler.to_dict())

  if config.init:
    # Its text encoder knows these tokens and no others.
    shutil.copytree(
      find_model(config.init) / "tokenizer",
      model / "tokenizer",
      dirs_exist_ok=True,
    )
  else:
    write_tokenizer(model / "tokenizer", config.text_encoder)
  tokenize = load_tokenizer(model / "tokenizer", max_length=length)
  pool = render_pool(config.pool, workdir / "pool", size_px=config.size_px)
  said = put_into_words(
    [kind for kind, share in config.texts.items() if share],
    pool,
    seed=config.seed,
  )
  codec = pixels(config.patch_size)

  predict = make_predict(unet, text, dtype=config.dtype)
  params, seconds = train(
    config,
    folder,
    params=_start(config, unet_spec, text_spec),
    loss=make_loss(config, predict, codec, schedule),
    batch_at=make_batch_at(
      config,
      tokenize_all(said, tokenize),
      np.asarray(tokenize([""]), np.int32)[0],
      pool.image_u8_NHWC,
    ),
    preview=_make_preview(
      folder,
      predict,
      codec,
      schedule=schedule,
      ids_BL=tokenize([*_PREVIEW, *[""] * len(_PREVIEW)]),
      side=config.unet.sample_size,
      guidance=config.guidance,
    ),
  )
  _write_model(model, params, unet_spec, text_spec, config=config)
  write_training(
    model,
    name="text_to_image",
    config=config,
    seconds=seconds,
    init=find_model(config.init) if config.init else None,
  )
  texts = [text for ways in said.values() for way in ways for text in way]
  if config.init:
    texts += known_words(find_model(config.init))
  write_words(model, texts)
  return {"steps": config.num_steps, "model": str(model)}


def make_predict(
  unet: Callable[..., jax.Array], text: Callable[..., jax.Array], *, dtype: str
) -> Callable[..., jax.Array]:
  """(params, x_BHWC, t_B, ids_BL) -> the U-Net's prediction, float32.

  Args:
    unet, text: the nets, functional.
    dtype: of their arithmetic.
  """

  def predict(params, x_BHWC, t_B, ids_BL):
    params = {name: x.astype(dtype) for name, x in params.items()}
    out_BHWC = unet(params, x_BHWC, t_B, text(params, ids_BL))
    return out_BHWC.astype(jnp.float32)

  return predict


def make_loss(
  config: Any,
  predict: Callable[..., jax.Array],
  codec: Codec,
  schedule: Schedule,
) -> Callable[..., tuple[jax.Array, dict]]:
  """The loss of a batch, for `suti.pretrain.loop`.

  Args:
    config: weighting, snr_gamma, log_snr.
    predict: of `make_predict`.
    codec: makes patches of pictures.
    schedule: the noise schedule.
  """

  def loss(params, batch, key):
    x_BHWC = codec.encode({}, to_pm1(batch["x"]))
    loss_B = denoising_loss(
      schedule,
      lambda x, t_B: predict(params, x, t_B, batch["ids"]),
      x_BHWC,
      key,
      weighting=config.weighting,
      gamma=config.snr_gamma,
      log_snr=config.log_snr and tuple(config.log_snr),
      stratified=True,
    )
    return loss_B.mean(), {}

  return loss


def make_batch_at(
  config: Any,
  texts: Mapping[str, np.ndarray],
  nothing_L: np.ndarray,
  picture_NHWC: np.ndarray,
) -> Callable[[np.random.Generator], dict]:
  """Random pictures with one of their texts.

  A text is the benchmark's, a detailed one or one in other words, by the shares
  of `config.texts`; it is empty in some, for guidance. On an accelerator the
  pictures lie there, and a batch is taken there.

  Args:
    config: batch_size, texts, text_dropout.
    texts: tokens by kind, of `suti.pretrain.texts`.
    nothing_L: tokens of the empty text.
    picture_NHWC: pictures of the pool, uint8.
  """
  kinds = sorted(texts)
  shares = [config.texts[kind] for kind in kinds]
  counts = np.array([len(texts[kind]) for kind in kinds])
  first = np.cumsum(counts) - counts
  table_VNL = np.concatenate([texts[kind] for kind in kinds])
  take: Callable[[np.ndarray], Any] = picture_NHWC.__getitem__
  if jax.default_backend() != "cpu":
    here = jax.device_put(picture_NHWC)
    gather = jax.jit(lambda all_NHWC, rows_B: all_NHWC[rows_B])
    take = functools.partial(gather, here)

  def batch_at(rng: np.random.Generator) -> dict:
    size = config.batch_size
    rows = rng.integers(0, len(picture_NHWC), size)
    kind = rng.choice(len(kinds), size, p=shares)
    ids_BL = table_VNL[first[kind] + rng.integers(0, counts[kind]), rows]
    ids_BL[rng.random(size) < config.text_dropout] = nothing_L
    return {"x": take(rows), "ids": ids_BL}

  return batch_at


def _make_preview(
  folder: Path,
  predict: Callable[..., jax.Array],
  codec: Codec,
  *,
  schedule: Schedule,
  ids_BL: np.ndarray,
  side: int,
  guidance: float,
) -> Callable[[dict, int], None]:
  """Writes three generated images of each preview prompt.

  Args:
    folder: of the run; pictures go to `preview/`.
    predict: (params, x_BHWC, t_B, ids_BL) -> the network's prediction.
    codec: decodes the samples.
    schedule: the noise schedule.
    ids_BL: tokens of the prompts, then of as many empty texts.
    side: of one sample, in patches.
    guidance: weight of classifier-free guidance.

  Returns: (parameters, step) -> None.
  """

  @jax.jit
  def sample(params, ids_BL, key):
    n = len(_PREVIEW)
    keys_B = row_keys(key, np.arange(n))
    noise = draw_noise(keys_B, (side, side, codec.channels))

    def denoise(x, t_B):
      both = predict(
        params, jnp.concatenate([x, x]), jnp.concatenate([t_B, t_B]), ids_BL
      )
      return classifier_free(both[:n], both[n:], guidance)

    x_BHWC = ddim(
      denoise, schedule, noise, keys_B, num_steps=25, clip=codec.bounded
    )
    return codec.decode({}, x_BHWC)

  def preview(params, step):
    rows = [
      list(to_u8(np.asarray(sample(params, ids_BL, key))))
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
    {"_class_name": "PixelDiffusion", "patch_size": config.patch_size},
  )


if __name__ == "__main__":
  stage.main("pretrain.text_to_image", run)
