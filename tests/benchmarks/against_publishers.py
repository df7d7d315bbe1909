# SPDX-License-Identifier: Apache-2.0
"""Our models beside their publishers' code: equal on the same weights, as fast?

  python -m tests.benchmarks.against_publishers [TASK ...] [--rounds 3]
  python -m tests.benchmarks.against_publishers --device cuda

needs the extra `parity`. A task is a model at its true size, or a small one,
and what is done with it. Weights are random, drawn by the publishers' code and
written to a published file that we read. Each side is a process of its own, so
that neither holds the other's memory or threads; sides take turns, and wait
while another is timed. Printed are the largest difference of the first result,
relative to the largest value, the median times, and how often ours goes into
theirs: a ratio above 1 says that ours is faster.

On a CPU all is float32. On a GPU all is bfloat16, batches are larger, torch's
memory format is channels-last, and there is a third side: torch.compile. "peak"
is the share of `--peak` that ours reaches, in TFLOP/s, of the operations that
torch counts; 989 is what an H100 or H200 (SXM) is specified to do without
sparsity. A few tasks compile at a time (`--beside`).
"""

import argparse
import importlib
import os
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np

from suti.runtime import xla_flags
from tests.benchmarks.sides import Side, answers

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
SD15, SD15_VAE = "stable-diffusion-v1-5", "stable-diffusion-v1-5-vae"
CLIP = "clip-vit-large-patch14"

# task -> (family, real model or config, what is done, shape of the input on a
# CPU, batch on a GPU)
TASKS = {
  "small_forward": ("unet", SMALL_UNET, "forward", (8, 32, 32, 4), 64),
  "small_train": ("unet", SMALL_UNET, "train", (8, 32, 32, 4), 64),
  "small_sample": ("unet", SMALL_UNET, "sample", (4, 32, 32, 4), 32),
  "sd15_forward": ("unet", SD15, "forward", (2, 64, 64, 4), 8),
  "sd15_train": ("unet", SD15, "train", (1, 32, 32, 4), 16),
  "sd15_sample": ("unet", SD15, "sample", (1, 64, 64, 4), 4),
  "vae_decode": ("vae", SD15_VAE, "decode", (1, 64, 64, 4), 4),
  "vae_encode": ("vae", SD15_VAE, "encode", (1, 512, 512, 3), 4),
  "clip_l14": ("clip", CLIP, "both", (4, 224, 224, 3), 64),
  "dino_s16": ("dino", "dino-vits16", "image", (16, 224, 224, 3), 256),
  "t5_small": ("t5", T5_SMALL, "text", (8, 77), 64),
}
SAMPLE_STEPS = 20
GUIDANCE = 7.5
LEARNING_RATE = 1e-4


def main() -> None:
  """Runs tasks, or one side of one task in a process of its own."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("tasks", nargs="*", metavar="TASK", help=", ".join(TASKS))
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
  parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s")
  parser.add_argument("--beside", type=int, help="tasks that compile at once")
  parser.add_argument("--side", choices=SIDES)
  parser.add_argument("--folder", type=pathlib.Path)
  args = parser.parse_args()
  gpu = args.device == "cuda"
  if args.side:
    SIDES[args.side](args.tasks[0], args.folder, gpu=gpu)
    return
  print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {args.device}")
  columns = ["theirs", *["compiled"] * gpu, "ours"]
  ratios = ["ratio", *["to compiled", "TFLOP/s", "peak"] * gpu]
  print(f"{'task':14}difference", *[f"{c:>11}" for c in [*columns, *ratios]])
  tasks = args.tasks or list(TASKS)
  beside = args.beside or (3 if gpu else 1)
  for start in range(0, len(tasks), beside):
    report(tasks[start : start + beside], args, columns)


def report(tasks, args, sides) -> None:
  """Starts all sides of some tasks, has them measure in turns, prints rows."""
  with tempfile.TemporaryDirectory() as name:
    started = {}
    for task in tasks:
      folder = pathlib.Path(name) / task
      folder.mkdir()
      # The first writes the weights, the others wait for the file.
      command = [__spec__.name, task, "--folder", str(folder)]
      command += ["--device", args.device]
      started[task] = {}
      for side in sides:
        started[task][side] = Side([*command, "--side", side])
        if args.device == "cpu":  # nothing beside its first call
          started[task][side].tell()
    if args.device != "cpu":
      for side in (side for task in tasks for side in started[task].values()):
        side.tell()
    for task in tasks:
      times = {side: [] for side in sides}
      for _ in range(args.rounds):
        for side, process in started[task].items():
          times[side] += process.ask("time").get("times", [])
      flops = started[task]["theirs"].ask("flops").get("flops", 0)
      if all(times.values()):
        row(task, folder.parent / task, times, flops, args)
      else:
        print(f"{task:14}failed", *[s for s in sides if not times[s]])
      for process in started[task].values():
        process.end()


def row(task, folder, times, flops, args) -> None:
  """Prints one line of the table."""
  theirs, ours = (np.load(folder / f"{s}.npy") for s in ("theirs", "ours"))
  difference = np.abs(theirs - ours).max() / np.abs(theirs).max()
  medians = {side: statistics.median(found) for side, found in times.items()}
  last = medians["ours"]
  cells = [f"{seconds * 1e3:8.1f} ms" for seconds in medians.values()]
  cells += [f"{medians['theirs'] / last:11.2f}"]
  if "compiled" in medians:
    rate = flops / last / 1e12
    cells += [f"{medians['compiled'] / last:11.2f}", f"{rate:11.0f}"]
    cells += [f"{rate / args.peak:11.0%}"]
  print(f"{task:14}{difference:10.1e}", *cells, flush=True)


def setting(task: str, *, gpu: bool):
  """The family, the config, what is done, and the inputs."""
  from tests.goldens import drawing

  name, model, action, shape, batch = TASKS[task]
  if gpu:
    shape = (batch, *((64, 64, 4) if task == "sd15_train" else shape[1:]))
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


def measure(run, wait, side: str, folder: pathlib.Path, *, flops=None) -> None:
  """Calls once, keeps the result, then times whenever it is asked to.

  Args:
    run: () -> the result, which may not be there yet.
    wait: waits until a result is there.
    side: whose.
    folder: where the result goes.
    flops: () -> the operations of a call.
  """
  say = answers()
  once, calls = float("inf"), 0
  # A call of many seconds has nothing left to warm up; one of minutes is timed
  # by its first, which compiles nothing.
  while calls < 3 and (calls == 0 or once < 10):
    start = time.perf_counter()
    result = run()
    wait(result)
    once = time.perf_counter() - start
    if calls == 0:
      np.save(folder / f"{side}.npy", as_numpy(result))
    calls += 1
  say()
  for line in sys.stdin:
    if line.strip() == "flops":
      say(flops=flops() if flops else 0)
      continue
    # Calls follow each other as they do in use: where the device works by
    # itself, it need not wait for the next.
    number = max(1, min(50, int(0.5 / once)))
    times = [once] if once > 60 else []
    while sum(times) < 2.0 and len(times) < 5:
      start = time.perf_counter()
      for _ in range(number):
        result = run()
      wait(result)
      times.append((time.perf_counter() - start) / number)
    say(times=times)


def as_numpy(result) -> np.ndarray:
  """An array of either side in float32."""
  if hasattr(result, "detach"):
    result = result.detach().float().cpu().numpy()
  return np.asarray(result).astype(np.float32)


def wait_for(path: pathlib.Path) -> None:
  """Waits until another process has written a file."""
  while not path.exists():
    time.sleep(0.2)


# --- Theirs ------------------------------------------------------------------


def theirs(task, folder, *, gpu: bool, compiled: bool = False) -> None:
  """The publishers' code, in torch."""
  import torch

  family, config, action, values = setting(task, gpu=gpu)
  torch.manual_seed(0)
  model = family.build(config)
  if not compiled:
    write_weights(family, model, folder)
  given = {k: torch.from_numpy(v) for k, v in values.items()}
  if "x" in given:
    given["x"] = given["x"].permute(0, 3, 1, 2).contiguous()
  if gpu:
    model = model.to("cuda", torch.bfloat16)
    model = model.to(memory_format=torch.channels_last)
    given = {
      k: v.to("cuda", torch.bfloat16 if v.is_floating_point() else None)
      for k, v in given.items()
    }
  function = globals()[f"_their_{action}"]
  call = model
  if compiled:
    call = {
      "decode": lambda: torch.compile(model.decode),
      "encode": lambda: torch.compile(model.encode),
    }.get(action, lambda: torch.compile(model))()

  def run():
    if action == "train":
      return function(call, model, given)
    with torch.no_grad():
      return function(call, model, given)

  def flops():
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
      run()
    return counter.get_total_flops()

  measure(
    run,
    lambda _: torch.cuda.synchronize() if gpu else None,
    "compiled" if compiled else "theirs",
    folder,
    flops=flops,
  )


def write_weights(family, model, folder) -> None:
  """Writes the file that we read; it appears whole."""
  import safetensors.torch

  part = folder / "part.safetensors"
  stored = {k: v.contiguous() for k, v in family.published(model).items()}
  safetensors.torch.save_file(stored, part, metadata={"format": "pt"})
  part.rename(folder / "model.safetensors")


def theirs_compiled(task, folder, *, gpu: bool) -> None:
  """The same through torch.compile."""
  theirs(task, folder, gpu=gpu, compiled=True)


def _their_forward(call, model, given):
  return _nhwc(call(given["x"], given["t"], given["text"]).sample)


def _their_train(call, model, given):
  """One step of gradient descent, which is undone: each call does the same."""
  import torch

  model.train()
  out = call(given["x"], given["t"], given["text"]).sample
  loss = torch.nn.functional.mse_loss(out, given["x"])
  loss.backward()
  with torch.no_grad():
    params = list(model.parameters())
    gradients = [p.grad for p in params]
    result = model.conv_in.weight.grad.clone()
    torch._foreach_add_(params, gradients, alpha=-LEARNING_RATE)
    torch._foreach_add_(params, gradients, alpha=LEARNING_RATE)
  model.zero_grad()
  return result


def _their_sample(call, model, given):
  import diffusers
  import torch

  scheduler = diffusers.DDIMScheduler.from_config(_SCHEDULER)
  scheduler.set_timesteps(SAMPLE_STEPS)
  text = torch.cat([given["text"], given["null"]])
  x = given["x"]
  for t in scheduler.timesteps:
    steps = t.to(x.device).expand(2 * len(x))
    out = call(torch.cat([x, x]), steps, text).sample
    with_text, null = out.chunk(2)
    out = null + GUIDANCE * (with_text - null)
    x = scheduler.step(out, t, x).prev_sample
  return _nhwc(x)


def _their_decode(call, model, given):
  decode = call if callable(call) and call is not model else model.decode
  return _nhwc(decode(given["x"]).sample)


def _their_encode(call, model, given):
  encode = call if callable(call) and call is not model else model.encode
  return _nhwc(encode(given["x"]).latent_dist.mean)


def _their_both(call, model, given):
  import torch

  out = call(input_ids=given["ids"].long(), pixel_values=given["x"])
  return torch.cat([out.image_embeds, out.text_embeds])


def _their_image(call, model, given):
  return call(given["x"]).last_hidden_state


def _their_text(call, model, given):
  return call(given["ids"].long()).last_hidden_state


def _nhwc(x):
  return x.permute(0, 2, 3, 1)


# --- Ours --------------------------------------------------------------------


def ours(task: str, folder: pathlib.Path, *, gpu: bool) -> None:
  """Our model, on the file that theirs wrote."""
  xla_flags.use_eigen_convolutions()
  import jax
  import jax.numpy as jnp

  from suti.hf.weights import load
  from suti.nn.param import functional

  family, config, action, values = setting(task, gpu=gpu)
  spec, apply = functional(family.declare(config))
  path = folder / "model.safetensors"
  wait_for(path)
  dtype = "bfloat16" if gpu else None
  params = load(spec, path, renames=family.RENAMES, dtype=dtype)
  given = {
    k: jnp.asarray(v, dtype if v.dtype == np.float32 else None)
    for k, v in values.items()
  }
  run = jax.jit(globals()[f"_our_{action}"](apply))
  run = run.lower(params, given).compile()
  measure(lambda: run(params, given), jax.block_until_ready, "ours", folder)


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
    first_HWIO = gradients["conv_in.weight"] + 0 * alive
    return first_HWIO.transpose(3, 2, 0, 1)

  return train


def _our_sample(apply):
  import jax

  from suti.diffusion.guidance import classifier_free, guided
  from suti.diffusion.samplers import sample
  from suti.diffusion.scheduler_config import from_config

  plan = from_config(_SCHEDULER, num_steps=SAMPLE_STEPS)

  def draw(params, v):
    denoise = guided(
      lambda x, t, text: apply(params, x, t, text),
      v["text"],
      v["null"],
      combine=lambda conditioning, not_told: classifier_free(
        conditioning, not_told, GUIDANCE
      ),
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


SIDES = {"theirs": theirs, "compiled": theirs_compiled, "ours": ours}
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
