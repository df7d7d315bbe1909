# SPDX-License-Identifier: Apache-2.0
"""The recipe of diffusers' DreamBooth examples, in torch, as one side.

What train_dreambooth_lora.py does with a subject, and of all weights what
train_dreambooth.py does; written anew for given latents and states of texts.
"""

import json
import statistics
import time
from typing import Any

import numpy as np

from tests.benchmarks.sides import answers
from tests.benchmarks.tuning import task as tasks
from tests.benchmarks.tuning.task import LEARNING_RATE, PICTURES, RANK, Task

# B batch, H W C latent, L text tokens, D width, I O in and out.


def write_weights(args) -> None:
  """Writes Stable Diffusion's U-Net, drawn by the publisher's own code."""
  import diffusers
  import safetensors.torch
  import torch

  from tests.goldens import theirs, unets

  config = unets.PUBLISHED["stable-diffusion-v1-5"]
  torch.manual_seed(0)
  unet = diffusers.UNet2DConditionModel(**theirs.diffusers_config(config))
  folder = args.folder / "unet"
  folder.mkdir()
  stored = {k: v.contiguous() for k, v in unet.state_dict().items()}
  path = folder / tasks.WEIGHTS
  safetensors.torch.save_file(stored, path, metadata={"format": "pt"})
  (folder / "config.json").write_text(json.dumps(config))


def run(args) -> None:
  """One subject after the other."""
  import torch

  say = answers()
  device = "cuda" if args.device == "gpu" else "cpu"
  torch.backends.cuda.matmul.allow_tf32 = True
  torch.backends.cudnn.allow_tf32 = True
  task = tasks.find_task(args)
  unet = _open(task, args, device)
  renew = _renewal(unet)
  compiled = args.side == "compiled"
  net = torch.compile(unet, mode=args.compile) if compiled else unet
  step = _make_step(net, unet, task, args, device)

  draws = np.load(args.folder / "draws.npz")
  renew(dict(np.load(args.folder / "start.npz")))
  optimizer = _make_optimizer(unet)
  began = time.perf_counter()
  losses = [
    step(
      optimizer,
      *(_tensor(draws[f"{name}_{i}"], device) for name in tasks.DRAWS),
    )
    for i in range(tasks.CHECKED_STEPS)
  ]
  first_s = time.perf_counter() - began
  say(losses=losses, compile_s=first_s if compiled else None)
  tasks.serve(
    say,
    time=lambda: _time_subject(step, unet, renew, task, args, device),
    flops=lambda: {"flops": _count_flops(unet, task, args, device)},
  )


def _time_subject(step, unet, renew, task: Task, args, device) -> dict:
  """Tunes one subject for some steps."""
  import torch

  (batch,) = args.batch
  num_times = task.scheduler["num_train_timesteps"]
  x_KCHW, text_KLD = (_tensor(v, device) for v in task.subject(0))
  began = time.perf_counter()
  renew()
  optimizer = _make_optimizer(unet)
  if device == "cuda":
    torch.cuda.synchronize()
  start_s = time.perf_counter() - began
  seconds = []
  for _ in range(1 + args.steps):
    began = time.perf_counter()
    rows_B = torch.randint(PICTURES, (batch,), device=device)
    x0_BCHW = x_KCHW[rows_B]
    noise_BCHW = torch.randn_like(x0_BCHW)
    t_B = torch.randint(num_times, (batch,), device=device)
    step(optimizer, x0_BCHW, noise_BCHW, t_B, text_KLD[rows_B])
    seconds.append(time.perf_counter() - began)
  highest = tasks.highest_rss()
  if device == "cuda":
    highest = torch.cuda.max_memory_allocated()
  # The first step makes the optimizer's state.
  return {
    "seconds": statistics.median(seconds[1:]),
    "start_s": start_s,
    "bytes": highest,
  }


def _tensor(value: np.ndarray, device: str):
  """An array of ours; pictures have their channels in front."""
  import torch

  tensor = torch.from_numpy(np.ascontiguousarray(value)).to(device)
  return tensor.permute(0, 3, 1, 2).contiguous() if value.ndim == 4 else tensor


def _open(task: Task, args, device: str):
  """The U-Net, ready to be tuned."""
  import diffusers
  import peft
  import safetensors.torch
  import torch
  from diffusers.training_utils import cast_training_params

  from tests.goldens import theirs

  config = theirs.diffusers_config(task.config)
  unet = diffusers.UNet2DConditionModel(**config)
  unet.load_state_dict(safetensors.torch.load_file(task.unet / tasks.WEIGHTS))
  if args.teacher == "dreambooth":
    return unet.to(device).train()
  unet.requires_grad_(False)
  unet.to(device, dtype=getattr(torch, args.dtype))
  unet.add_adapter(
    peft.LoraConfig(
      r=RANK,
      lora_alpha=RANK,
      init_lora_weights="gaussian",
      target_modules=["to_q", "to_k", "to_v", "to_out.0"],
    )
  )
  cast_training_params(unet, dtype=torch.float32)
  return unet.train()


def _renewal(unet):
  """A function that gives the net to the next subject, in place."""
  import torch

  base = {
    name: value.detach().clone()
    for name, value in unet.named_parameters()
    if value.requires_grad and "lora_" not in name
  }

  @torch.no_grad()
  def renew(given: dict[str, np.ndarray] | None = None) -> None:
    """Fresh low-rank matrices, or those given; else the base's weights."""
    for name, value in unet.named_parameters():
      if name in base:
        value.copy_(base[name])
      elif not value.requires_grad:
        continue
      elif given:
        matrix_IO = given[name.replace(".default", "")]
        value.copy_(torch.from_numpy(matrix_IO.T))
      elif "lora_A" in name:
        value.normal_(std=1 / RANK)
      else:
        value.zero_()

  return renew


def _trained(unet) -> list:
  return [p for p in unet.parameters() if p.requires_grad]


def _make_optimizer(unet):
  import torch

  return torch.optim.AdamW(_trained(unet), lr=LEARNING_RATE)


def _make_step(net, unet, task: Task, args, device: str):
  """One step: noise, prediction, squared error, clipped gradients, AdamW.

  `net` is `unet` or what torch.compile made of it.
  """
  import diffusers
  import torch

  scheduler = diffusers.DDPMScheduler(**_known(task.scheduler))
  trained = _trained(unet)
  # The recipe has no nets that say the picture itself; SubjectWorld's does.
  says_picture = task.scheduler["prediction_type"] == "sample"

  def step(optimizer, x0_BCHW, noise_BCHW, t_B, text_BLD) -> float:
    x_BCHW = scheduler.add_noise(x0_BCHW, noise_BCHW, t_B)
    with _autocast(args, device):
      said_BCHW = net(x_BCHW, t_B, text_BLD, return_dict=False)[0]
    target_BCHW = x0_BCHW if says_picture else noise_BCHW
    loss = torch.nn.functional.mse_loss(said_BCHW.float(), target_BCHW)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()

  return step


def _known(scheduler: dict[str, Any]) -> dict[str, Any]:
  return {k: v for k, v in scheduler.items() if not k.startswith("_")}


def _autocast(args, device: str):
  import torch

  half = args.dtype == "bfloat16"
  return torch.autocast(device, dtype=torch.bfloat16, enabled=half)


def _count_flops(unet, task: Task, args, device: str) -> float:
  """Operations of one picture forward and backward, by torch's own counter."""
  import torch
  from torch.nn.attention import SDPBackend, sdpa_kernel
  from torch.utils.flop_counter import FlopCounterMode

  height, width, channels = task.latent
  x_BCHW = torch.zeros((1, channels, height, width), device=device)
  text_BLD = torch.zeros((1, *task.text), device=device)
  t_B = torch.zeros((1,), dtype=torch.int64, device=device)
  # Attention as plain products, which the counter knows on every device.
  with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
    with _autocast(args, device):
      said = unet(x_BCHW, t_B, text_BLD, return_dict=False)[0]
    said.float().sum().backward()
  unet.zero_grad()
  return float(counter.get_total_flops())
