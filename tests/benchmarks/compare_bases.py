# SPDX-License-Identifier: Apache-2.0
"""Recipes for the base, each trained for as many seconds of CPU time.

  python -m tests.benchmarks.compare_bases runs/recipes 900 [NAME ...]

A recipe is what it changes of configs/pretrain/text_to_image.py. Written a line
a recipe: steps, examples, and the squared error of the predicted picture, in
[-1, 1], at several noise levels, on pictures of validation subjects, with the
averaged weights. CPU time is that of all threads, compilation apart, so that
other work on the machine hardly matters. Errors at a level say how good a
picture is there; a recipe that trains more at a level is better there.
"""

import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from configs.pretrain import text_to_image as base_config
from suti.diffusion.schedule import make_schedule, snr
from suti.hf.tokenizer import load_tokenizer
from suti.images import to_pm1
from suti.models.clip import declare_clip_text
from suti.models.unet import declare_unet
from suti.nn.optimizer import make_schedule as make_rate
from suti.nn.optimizer import start_state
from suti.nn.param import functional, init
from suti.pipeline.codec import pixels
from suti.pretrain import loop
from suti.pretrain.pictures import render_pool
from suti.pretrain.text_to_image import make_batch_at, make_loss, make_predict
from suti.pretrain.texts import put_into_words, tokenize_all
from suti.pretrain.vocabulary import write_tokenizer

LEVELS = (-6.0, -4.0, -2.5, -1.0, 0.5, 2.0, 3.5, 5.5)  # log SNR
_ONE_LEVEL = dict(
  sample_size=8,
  in_channels=192,
  out_channels=192,
  block_out_channels=(192,),
  down_block_types=("CrossAttnDownBlock2D",),
  up_block_types=("CrossAttnUpBlock2D",),
  attention_head_dim=(6,),
)
RECIPES = {
  "shipped": {},
  "adamw": dict(optimizer="adamw", learning_rate=1e-3),
  "less_noise": dict(log_snr=(0.5, 2.0)),
  "no_pooled_text": dict(unet=dict(addition_embed_type=None)),
  "patches_of_8": dict(patch_size=8, unet=_ONE_LEVEL),
  "batch_16": dict(batch_size=16),
  "rate_4e-3": dict(learning_rate=4e-3),
}


def main() -> None:
  """Trains the recipes that are named, or all."""
  workdir, budget = Path(sys.argv[1]), float(sys.argv[2])
  for name in sys.argv[3:] or RECIPES:
    row = compare(name, workdir, budget=budget)
    print(json.dumps(row), flush=True)
    with (workdir / "recipes.jsonl").open("a") as file:
      file.write(json.dumps(row) + "\n")


def compare(name: str, workdir: Path, *, budget: float) -> dict:
  """Trains one recipe for `budget` seconds of CPU time."""
  config = base_config.get_config()
  for field, value in RECIPES[name].items():
    if isinstance(value, dict):
      config[field].update(value)
    else:
      config[field] = value
  unet_spec, unet = functional(declare_unet(config.unet.to_dict()))
  text_spec, text = functional(declare_clip_text(config.text_encoder.to_dict()))
  schedule = make_schedule(config.scheduler.to_dict())
  write_tokenizer(workdir / "tokenizer", config.text_encoder)
  tokenize = load_tokenizer(workdir / "tokenizer", max_length=32)
  pool = render_pool(config.pool, workdir / "pool", size_px=config.size_px)
  codec = pixels(config.patch_size)
  predict = make_predict(unet, text, dtype=config.dtype)

  key = jax.random.key(config.seed)
  params = init(unet_spec, key) | init(text_spec, key)
  # A warm-up for short runs, and then constant.
  rate = make_rate(
    config.learning_rate,
    num_steps=1_000_000,
    warmup_steps=40,
    fall_steps=1,
  )
  tx = loop._make_optimizer(config, rate, params)
  step = loop._make_step(
    config, make_loss(config, predict, codec, schedule), tx
  )
  said = put_into_words(config.texts, pool, seed=config.seed)
  batch_at = make_batch_at(
    config,
    tokenize_all(said, tokenize),
    np.asarray(tokenize([""]), np.int32)[0],
    pool.image_u8_NHWC,
  )
  state = start_state(params, tx, seed=config.seed)
  number, spent, losses = 0, 0.0, []
  while spent < budget:
    number += 1
    batch = batch_at(np.random.default_rng((config.seed, number)))
    start = time.process_time()
    state, scalars = step(state, batch)
    losses.append(float(scalars["loss"]))
    if number > 1:  # compilation is not counted
      spent += time.process_time() - start
    if number % 50 == 0:
      print(name, number, round(spent), f"{np.mean(losses[-50:]):.4f}")
  held_out = config.copy_and_resolve_references()
  held_out.pool.update(split="validation", start=0, num_subjects=256)
  checked = render_pool(held_out.pool, workdir / "pool", size_px=64)
  error = measure(
    predict,
    state["ema"],
    codec.encode({}, to_pm1(checked.image_u8_NHWC)),
    np.asarray(tokenize(list(checked.plain))),
    schedule,
  )
  return {
    "recipe": name,
    "parameters": sum(x.size for x in params.values()),
    "steps": number,
    "examples": number * config.batch_size,
    "cpu_seconds": round(spent),
    "mean_log_error": round(float(np.log(error).mean()), 3),
    "error": {
      f"{level:g}": round(float(x), 5)
      for level, x in zip(LEVELS, error, strict=True)
    },
  }


def measure(predict, params, x_BHWC, ids_BL, schedule) -> np.ndarray:
  """Mean squared error of the predicted picture at each of `LEVELS`."""
  log_snr_T = np.log(np.asarray(snr(schedule, jnp.arange(schedule.num_steps))))
  denoise = jax.jit(predict)
  errors = []
  for number, level in enumerate(LEVELS):
    t = int(np.abs(log_snr_T - level).argmin())
    signal = jax.nn.sigmoid(log_snr_T[t])
    noise = jax.random.normal(jax.random.key(number), x_BHWC.shape)
    z_BHWC = signal**0.5 * x_BHWC + (1 - signal) ** 0.5 * noise
    each = [
      jnp.square(
        denoise(
          params,
          z_BHWC[i : i + 64],
          jnp.full((len(z_BHWC[i : i + 64]),), t),
          ids_BL[i : i + 64],
        )
        - x_BHWC[i : i + 64]
      ).mean()
      for i in range(0, len(x_BHWC), 64)
    ]
    errors.append(np.mean(each))
  return np.asarray(errors)


if __name__ == "__main__":
  main()
