# SPDX-License-Identifier: Apache-2.0
"""Our models beside their publishers' code: equal on the same weights, as fast?

  python -m tests.benchmarks.against_publishers [TASK ...] [--rounds 3]

needs the extra `parity`. A task is a model at its true size, or a small one,
and what is done with it. Weights are random, drawn by the publishers' code and
written to a published file that both sides read. Each side is a process of its
own, so that neither holds the other's memory or threads; sides take turns.
Printed are the largest difference of their results, relative to the largest
value, and the median times; a ratio above 1 says that ours is faster.
"""

import argparse
import importlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent.parent
SMALL_UNET = {
  "block_out_channels": [64, 128],
  "layers_per_block": 1,
  "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
  "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
  "attention_head_dim": 4,
  "cross_attention_dim": 128,
  "sample_size": 32,
}
T5_SMALL = "t5-v1_1-small"

# task -> (family, real model or config, what is done, shape of the input)
TASKS = {
  "small_forward": ("unet", SMALL_UNET, "forward", (8, 32, 32, 4)),
  "small_train": ("unet", SMALL_UNET, "train", (8, 32, 32, 4)),
  "small_sample": ("unet", SMALL_UNET, "sample", (4, 32, 32, 4)),
  "sd15_forward": ("unet", "stable-diffusion-v1-5", "forward", (2, 64, 64, 4)),
  "sd15_train": ("unet", "stable-diffusion-v1-5", "train", (1, 32, 32, 4)),
  "sd15_sample": ("unet", "stable-diffusion-v1-5", "sample", (1, 64, 64, 4)),
  "vae_decode": ("vae", "stable-diffusion-v1-5-vae", "decode", (1, 64, 64, 4)),
  "vae_encode": (
    "vae",
    "stable-diffusion-v1-5-vae",
    "encode",
    (1, 512, 512, 3),
  ),
  "clip_l14": ("clip", "clip-vit-large-patch14", "both", (4, 224, 224, 3)),
  "dino_s16": ("dino", "dino-vits16", "image", (16, 224, 224, 3)),
  "t5_small": ("t5", T5_SMALL, "text", (8, 77)),
}
SAMPLE_STEPS = 20
GUIDANCE = 7.5
LEARNING_RATE = 1e-4


def main() -> None:
  """Runs tasks, or one side of one task in a process of its own."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("tasks", nargs="*", metavar="TASK", help=", ".join(TASKS))
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--side", choices=SIDES)
  parser.add_argument("--folder", type=pathlib.Path)
  args = parser.parse_args()
  if args.side:
    SIDES[args.side](args.tasks[0], args.folder)
    return
  print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
  print("task            difference     theirs      ours   ratio  compile")
  for task in args.tasks or TASKS:
    with tempfile.TemporaryDirectory() as name:
      report(task, pathlib.Path(name), args.rounds)


def report(task: str, folder: pathlib.Path, rounds: int) -> None:
  """Runs both sides of a task in turns and prints its row."""
  times = {side: [] for side in ("theirs", "ours")}
  compile_s = 0.0
  for _ in range(rounds):
    for side, found in times.items():
      command = [sys.executable, "-m", __spec__.name, task]
      command += ["--side", side, "--folder", str(folder)]
      subprocess.run(
        command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=None
      )
      timing = json.loads((folder / f"{side}.json").read_text())
      found += timing["times"]
      compile_s = max(compile_s, timing["first"] if side == "ours" else 0)
  theirs, ours = (np.load(folder / f"{side}.npy") for side in times)
  difference = np.abs(theirs - ours).max() / np.abs(theirs).max()
  theirs_s, ours_s = map(statistics.median, times.values())
  print(
    f"{task:14} {difference:11.1e} {theirs_s:9.3f}s {ours_s:8.3f}s "
    f"{theirs_s / ours_s:7.2f} {compile_s:7.1f}s",
    flush=True,
  )


def setting(task: str):
  """The family, the config, what is done, and the inputs."""
  from tests.goldens import drawing

  name, model, action, shape = TASKS[task]
  family = importlib.import_module(f"tests.goldens.families.{name}")
  config = family.PUBLISHED[model] if isinstance(model, str) else model
  values = {}
  if name == "unet":
    text = (shape[0], 77, config["cross_attention_dim"])
    values = {
      "x": drawing.normal("x", shape),
      "t": np.full(shape[:1], 500, np.int32),
      "text": drawing.normal("text", text),
      "null": drawing.normal("null", text),
    }
  elif len(shape) == 4:
    values = {"x": drawing.normal("x", shape)}
  if action in ("text", "both"):
    rng = np.random.RandomState(0)
    values["ids"] = rng.randint(1, 1000, (shape[0], 77)).astype(np.int32)
  return family, config, action, values


def measure(run, side: str, folder: pathlib.Path) -> None:
  """Times a function whose first call may compile; keeps its result."""
  start = time.perf_counter()
  result = run()
  first = time.perf_counter() - start
  times = []
  while sum(times) < 2.0 and len(times) < 10:
    start = time.perf_counter()
    run()
    times.append(time.perf_counter() - start)
  np.save(folder / f"{side}.npy", result)
  (folder / f"{side}.json").write_text(
    json.dumps({"first": first, "times": times})
  )


# --- Theirs ------------------------------------------------------------------


def theirs(task: str, folder: pathlib.Path) -> None:
  """The publishers' code, in torch."""
  import safetensors.torch
  import torch

  family, config, action, values = setting(task)
  path = folder / "model.safetensors"
  torch.manual_seed(0)
  model = family.build(config)
  if not path.exists():
    stored = {k: v.contiguous() for k, v in family.published(model).items()}
    safetensors.torch.save_file(stored, path, metadata={"format": "pt"})
  given = {k: torch.from_numpy(v) for k, v in values.items()}
  if "x" in given:
    given["x"] = given["x"].permute(0, 3, 1, 2).contiguous()
  action = globals()[f"_their_{action}"]
  if action is not _their_train:
    with torch.inference_mode():
      return measure(lambda: action(model, given), "theirs", folder)
  measure(lambda: action(model, given), "theirs", folder)
  return None


def _their_forward(model, given):
  return _nhwc(model(given["x"], given["t"], given["text"]).sample)


def _their_train(model, given):
  """One step of gradient descent, which is undone: each call does the same."""
  import torch

  model.train()
  out = model(given["x"], given["t"], given["text"]).sample
  loss = torch.nn.functional.mse_loss(out, given["x"])
  loss.backward()
  with torch.no_grad():
    for sign in (-1, 1):
      for p in model.parameters():
        p.add_(p.grad, alpha=sign * LEARNING_RATE)
      if sign == -1:
        result = model.conv_in.weight.grad.numpy().copy()
  model.zero_grad()
  return result


def _their_sample(model, given):
  import diffusers
  import torch

  scheduler = diffusers.DDIMScheduler.from_config(_SCHEDULER)
  scheduler.set_timesteps(SAMPLE_STEPS)
  text = torch.cat([given["text"], given["null"]])
  x = given["x"]
  for t in scheduler.timesteps:
    out = model(torch.cat([x, x]), t, text).sample
    told, untold = out.chunk(2)
    out = untold + GUIDANCE * (told - untold)
    x = scheduler.step(out, t, x).prev_sample
  return _nhwc(x)


def _their_decode(model, given):
  return _nhwc(model.decode(given["x"]).sample)


def _their_encode(model, given):
  return _nhwc(model.encode(given["x"]).latent_dist.mean)


def _their_both(model, given):
  out = model(input_ids=given["ids"].long(), pixel_values=given["x"])
  return np.concatenate([out.image_embeds.numpy(), out.text_embeds.numpy()])


def _their_image(model, given):
  return model(given["x"]).last_hidden_state.numpy()


def _their_text(model, given):
  return model(given["ids"].long()).last_hidden_state.numpy()


def _nhwc(x):
  return x.detach().permute(0, 2, 3, 1).contiguous().numpy()


# --- Ours --------------------------------------------------------------------


def ours(task: str, folder: pathlib.Path) -> None:
  """Our model, on the file that theirs wrote."""
  import jax

  from suti.io.weights import load
  from suti.nn.param import functional

  family, config, action, values = setting(task)
  spec, apply = functional(family.declare(config))
  params = load(spec, folder / "model.safetensors", renames=family.RENAMES)
  given = jax.device_put(values)
  run = jax.jit(globals()[f"_our_{action}"](apply))
  layout = params["conv_in.weight"].shape if action == "train" else None

  def result():
    value = np.asarray(run(params, given))
    return value if layout is None else value.transpose(3, 2, 0, 1)

  measure(result, "ours", folder)


def _our_forward(apply):
  return lambda params, v: apply(params, v["x"], v["t"], v["text"])


def _our_train(apply):
  import jax
  import jax.numpy as jnp

  def train(params, v):
    def loss(params):
      out = apply(params, v["x"], v["t"], v["text"])
      return jnp.square(out - v["x"]).mean()

    gradients = jax.grad(loss)(params)
    # The new parameters are computed, as theirs are; a sum keeps them alive.
    new = jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, gradients)
    alive = sum(jnp.sum(p) for p in jax.tree.leaves(new))
    return gradients["conv_in.weight"] + 0 * alive

  return train


def _our_sample(apply):
  import jax

  from suti.diffusion.guidance import classifier_free, guided
  from suti.diffusion.published import from_config
  from suti.diffusion.samplers import sample

  plan = from_config(_SCHEDULER, num_steps=SAMPLE_STEPS)

  def draw(params, v):
    denoise = guided(
      lambda x, t, text: apply(params, x, t, text),
      v["text"],
      v["null"],
      combine=lambda told, not_told: classifier_free(told, not_told, GUIDANCE),
    )
    # DDIM takes no noise on the way: the key is not used.
    return sample(denoise, plan, v["x"], jax.random.key(0))

  return draw


def _our_decode(apply):
  return lambda params, v: apply(params, v["x"], method="decode")


def _our_encode(apply):
  return lambda params, v: apply(params, v["x"], method="encode")[0]


def _our_both(apply):
  import jax.numpy as jnp

  def both(params, v):
    image = apply(params, v["x"], method="encode_image")
    text = apply(params, v["ids"], method="encode_text")
    return jnp.concatenate([image, text])

  return both


def _our_image(apply):
  return lambda params, v: apply(params, v["x"])


def _our_text(apply):
  return lambda params, v: apply(params, v["ids"])


SIDES = {"theirs": theirs, "ours": ours}
_SCHEDULER = {
  "_class_name": "DDIMScheduler",
  "num_train_timesteps": 1000,
  "beta_start": 0.00085,
  "beta_end": 0.012,
  "beta_schedule": "scaled_linear",
  "clip_sample": False,
  "set_alpha_to_one": False,
  "steps_offset": 1,
}

if __name__ == "__main__":
  main()
