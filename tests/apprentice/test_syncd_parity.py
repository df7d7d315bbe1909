# SPDX-License-Identifier: Apache-2.0
"""SynCD's net against its definition in torch, on diffusers' U-Net.

The definition is written here, after the paper's section 4.2 and what its
published code computes: two passes of `UNet2DConditionModel` with diffusers'
IP-Adapter-Plus, and self-attentions that keep what they are given, or join it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apprentice.methods import syncd
from configs.apprentice.syncd_world import get_config
from suti.hf.weights import save
from suti.nn.nets import functional_nets, of_net
from suti.nn.param import init
from suti.pipeline import image_prompt
from suti.pipeline.backbone import load_backbone
from tests import tiny
from tests.pipeline import tiny_pipelines

B, K = 2, 3
DILATION = 3
STEPS = (17, 803)


@pytest.fixture(scope="module")
def ours(tmp_path_factory, tiny_clip):
  """The nets, their arrays, a batch, and a function of our predictions."""
  folder = tmp_path_factory.mktemp("sdxl")
  tiny_pipelines.write("sdxl", folder)
  backbone = load_backbone(folder)
  config = get_config().unlock().method
  config.update(
    encoder=str(tiny_clip),
    rank=2,
    num_tokens=3,
    width=24,
    depth=4,  # their loader knows no other
    num_heads=2,
    mask_dilation=DILATION,
    mask_edges="whole",
  )
  spec, apply = functional_nets(syncd.declare(backbone, config))
  rng = np.random.default_rng(0)
  params = init(spec, jax.random.key(1)) | backbone.params
  params |= {
    # No update is silent, and the empty picture is none of zeros.
    name: jnp.asarray(0.3 * rng.normal(size=p.shape), jnp.float32)
    for name, p in spec.items()
    if name.endswith("lora_B.weight") or name.startswith("null:")
  }
  texts = ["a dog in the snow", "a cat", "a red dog", "a hat"]
  text = backbone.encode_text(texts)
  rows = np.asarray([[1, 2, 3], [3, 1, 0]])
  seen = spec["null:features"].shape
  batch = {
    "demonstrations": rng.normal(size=(B, K, *backbone.latent_shape)),
    "demonstration_mask": np.asarray([[1, 1, 1], [1, 1, 0]], bool),
    "reference_mask": np.asarray([[1, 1, 1], [1, 1, 0]], bool),
    "demonstration_text": {name: x[rows] for name, x in text.items()},
    "demonstration_images": rng.normal(size=(B, K, *seen)),
    "demonstration_masks": rng.random((B, K, 16, 16)) < 0.05,
    "subject_scale": np.full(B, 0.6),
  }
  batch = jax.tree.map(
    lambda x: x.astype(np.float32) if x.dtype == np.float64 else x, batch
  )
  x = rng.normal(size=(B, *backbone.latent_shape)).astype(np.float32)
  target = {name: x[:B] for name, x in text.items()}
  t_B, keys_B = jnp.asarray(STEPS), jax.random.split(jax.random.key(5), B)

  @jax.jit
  def predict(batch):
    context = syncd.encode(apply, params, batch)
    context = syncd.refresh(apply, params, context, t_B, keys_B)
    return syncd.denoise(apply, params, x, t_B, target, context)

  noised, _ = apply(params, batch["demonstrations"], t_B, keys_B, net="noising")
  return {
    "folder": folder,
    "spec": spec,
    "params": params,
    "batch": batch,
    "predict": predict,
    "noised": np.asarray(noised),
    "x": x,
    "text": target,
  }


class _Passes:
  """What the self-attentions of the two passes have in common."""

  def __init__(self):
    self.mode, self.kept, self.seen = "references", {}, None


def _self_attention(passes, name, lora):
  """A processor of diffusers: keeps what it sees, or joins it to its own."""
  import torch

  def project(layer, name_of, x):
    y = layer(x)
    if passes.mode == "target":
      down, up = lora[name_of]
      y = y + x @ down @ up
    return y

  class Processor:
    def __call__(self, attn, hidden_states, **kw):
      x, size = hidden_states, hidden_states.shape[1]
      keys, allowed = x, torch.ones(len(x), size, dtype=torch.bool)
      if passes.mode == "references":
        passes.kept[name] = x
      elif passes.seen is not None:
        more = passes.kept[name].reshape(len(x), -1, x.shape[-1])
        keys = torch.cat([x, more], 1)
        side = int(size**0.5)
        small = torch.nn.functional.interpolate(
          passes.seen.float().flatten(0, 1)[:, None], size=(side, side)
        )
        allowed = torch.cat([allowed, small.reshape(len(x), -1) > 0], 1)
      q, k, v = (
        project(layer, which, of)
        .unflatten(-1, (attn.heads, -1))
        .transpose(1, 2)
        for layer, which, of in (
          (attn.to_q, "to_q", x),
          (attn.to_k, "to_k", keys),
          (attn.to_v, "to_v", keys),
        )
      )
      logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
      logits = logits.masked_fill(~allowed[:, None, None], -torch.inf)
      y = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
      return project(attn.to_out[0], "to_out.0", y)

  return Processor()


def theirs(ours, *, whole, references, seen, scale, tmp_path):
  """The prediction by the definition.

  Args:
    ours: the fixture.
    whole: (B, 1, S, D), the picture that is seen as a whole.
    references: (B * K, 1, S, D), the references' own.
    seen: bool (B, K, H, W), by cells of the latent; None is no references.
    scale: of the whole picture.
    tmp_path: for the adapter's file.
  """
  import diffusers
  import safetensors.torch
  import torch

  params = {name: np.asarray(x) for name, x in ours["params"].items()}
  unet = diffusers.UNet2DConditionModel.from_pretrained(
    ours["folder"], subfolder="unet", low_cpu_mem_usage=False
  ).eval()
  file = tmp_path / "adapter.safetensors"
  names = of_net(ours["spec"], image_prompt.ADAPTER)
  save(of_net(ours["params"], image_prompt.ADAPTER), names, file)
  tensors = safetensors.torch.load_file(file)
  parts = {
    part: {
      name.removeprefix(f"{part}."): x
      for name, x in tensors.items()
      if name.startswith(f"{part}.")
    }
    for part in ("image_proj", "ip_adapter")
  }
  unet._load_ip_adapter_weights([parts], low_cpu_mem_usage=False)
  passes, processors = _Passes(), dict(unet.attn_processors)
  for name in processors:
    if not name.endswith("attn1.processor"):
      continue
    site = name.removesuffix(".processor")
    lora = {
      which: tuple(
        torch.from_numpy(params[f"{site}.{which}.lora_{half}.weight"].copy())
        for half in "AB"
      )
      for which in ("to_q", "to_k", "to_v", "to_out.0")
    }
    processors[name] = _self_attention(passes, name, lora)
  unet.set_attn_processor(processors)

  def run(x, t, text, images, scale):
    for processor in unet.attn_processors.values():
      if hasattr(processor, "to_k_ip"):
        processor.scale = [scale]
    given = {n: torch.from_numpy(np.array(v)) for n, v in text.items()}
    with torch.no_grad():
      return unet(
        torch.from_numpy(np.moveaxis(x, -1, 1).copy()),
        torch.from_numpy(np.asarray(t)),
        given["text_BLD"],
        added_cond_kwargs={
          "text_embeds": given["pooled_BD"],
          "time_ids": given["time_ids_BI"],
          "image_embeds": [torch.from_numpy(np.array(images))],
        },
      ).sample

  if seen is not None:
    flat = {
      name: x.reshape(B * K, *x.shape[2:])
      for name, x in ours["batch"]["demonstration_text"].items()
    }
    noised = ours["noised"].reshape(B * K, *ours["noised"].shape[2:])
    run(noised, np.repeat(STEPS, K), flat, references, 1.0)
  passes.mode, passes.seen = "target", seen
  out = run(ours["x"], STEPS, ours["text"], whole, scale)
  return np.moveaxis(out.numpy(), 1, -1)


def cells(ours):
  """Where the subjects are, by torch: 16 px become 8 cells, then widened."""
  import torch

  mask = torch.from_numpy(ours["batch"]["demonstration_masks"]).float()
  side = ours["x"].shape[1]
  step = mask.shape[-1] // side
  mask = torch.nn.functional.max_pool2d(mask, step)
  mask = torch.nn.functional.max_pool2d(
    mask, DILATION, stride=1, padding=DILATION // 2
  )
  there = torch.from_numpy(ours["batch"]["reference_mask"])
  return (mask > 0) & there[:, :, None, None]


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ["whole", "dropped", "without", "everywhere"])
def test_both_passes_are_as_defined(case, ours, tmp_path, record_property):
  for needed in ("torch", "diffusers", "accelerate"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: [parity]")
  batch = dict(ours["batch"])
  null = np.asarray(ours["params"]["null:features"])
  images = batch["demonstration_images"]
  shown = batch["demonstration_mask"]
  seen = cells(ours)
  if case == "dropped":
    shown = np.zeros_like(shown)
    batch["demonstration_mask"] = shown
  if case == "without":
    batch = syncd.without_subject(batch, jnp.ones(B, bool))
    shown, seen = np.zeros_like(shown), None
  if case == "everywhere":
    batch = syncd.without_masks(batch, jnp.ones(B, bool))
    there = batch["reference_mask"][:, :, None, None]
    seen = seen.new_tensor(np.broadcast_to(there, seen.shape))
  wide = shown.reshape(B * K, 1, 1, 1)
  references = np.where(
    wide, images.reshape(B * K, 1, *images.shape[2:]), null
  ).astype(np.float32)
  whole = references.reshape(B, K, *references.shape[1:])[:, 0]
  expected = theirs(
    ours,
    whole=whole,
    references=references,
    seen=seen,
    scale=0.6,
    tmp_path=tmp_path,
  )
  found = np.asarray(ours["predict"](batch))
  error = np.abs(found - expected).max()
  record_property("largest_error", float(error))
  # What is compared depends on the references.
  assert np.abs(expected).max() > 0.1
  assert error < 1e-4


@pytest.mark.parity
def test_the_cases_differ(ours):
  """Each part of what is seen counts, and rows by themselves."""
  batch = ours["batch"]
  whole = np.asarray(ours["predict"](batch))
  mask = batch["demonstration_mask"]
  for other in (
    {"demonstration_mask": np.zeros_like(mask)},
    {"demonstration_masks": np.ones_like(batch["demonstration_masks"])},
    {"subject_scale": np.zeros(B, np.float32)},
  ):
    found = np.asarray(ours["predict"](batch | other))
    assert (np.abs(found - whole).max((1, 2, 3)) > 1e-3).all()
  assert batch["demonstration_masks"].shape[-1] == tiny.SIZE_PX
