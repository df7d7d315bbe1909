# SPDX-License-Identifier: Apache-2.0
"""IP-Adapter: the published files, through diffusers' loader.

They have no config: here a config is what their shapes follow from.
"""

import types

import jax
import numpy as np

from suti.hf.layout import published_shape
from suti.models import ip_adapter
from suti.models.unet import declare_unet
from suti.nn.param import functional
from tests.goldens import drawing, theirs, unets
from tests.goldens.ours import drawn

UNET = unets.TINY
# Widths of the cross-attentions: on the way down, on the way up, the middle.
_TINY = {"text": 16, "widths": [8, 12, 12, 12, 8, 8, 12]}
_SD15 = {
  "text": 768,
  "widths": [
    *[320] * 2, *[640] * 2, *[1280] * 2,
    *[1280] * 3, *[640] * 3, *[320] * 3,
    1280,
  ],
}  # fmt: skip
_SDXL = {
  "text": 2048,
  "widths": [*[640] * 4, *[1280] * 20, *[1280] * 30, *[640] * 6, *[1280] * 10],
}
_PLUS = {"kind": "plus", "tokens": 16, "depth": 4, "image": 1280}

CASES = {
  "ip_adapter": (
    _TINY | {"kind": "base", "tokens": 4, "image": 10},
    (2, 3, 10),
  ),
  "ip_adapter_plus": (
    _TINY
    | {"kind": "plus", "tokens": 3, "image": 10}
    | {"depth": 4, "dim": 24, "heads": 2},
    (2, 2, 6, 10),
  ),
  "ip_adapter_full_face": (
    _TINY | {"kind": "full", "image": 10},
    (2, 1, 5, 10),
  ),
}
PUBLISHED = {
  "ip-adapter_sd15": _SD15 | {"kind": "base", "tokens": 4, "image": 1024},
  "ip-adapter-plus_sd15": _SD15 | _PLUS | {"dim": 768, "heads": 12},
  "ip-adapter-full-face_sd15": _SD15 | {"kind": "full", "image": 1280},
  "ip-adapter_sdxl": _SDXL | {"kind": "base", "tokens": 4, "image": 1280},
  "ip-adapter_sdxl_vit-h": _SDXL | {"kind": "base", "tokens": 4, "image": 1024},
  "ip-adapter-plus_sdxl_vit-h": _SDXL | _PLUS | {"dim": 1280, "heads": 20},
}
RENAMES = {}


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
  """Names and shapes of the published file."""
  text, image = config["text"], config["image"]
  found = {
    f"ip_adapter.{1 + 2 * i}.to_{x}_ip.weight": (width, text)
    for i, width in enumerate(config["widths"])
    for x in "kv"
  }
  match config["kind"]:
    case "base":
      part = {"proj.weight": (config["tokens"] * text, image)}
      part |= {"proj.bias": (config["tokens"] * text,)}
      part |= _norm("norm", text)
    case "full":
      part = {"proj.0.weight": (image, image), "proj.0.bias": (image,)}
      part |= {"proj.2.weight": (text, image), "proj.2.bias": (text,)}
      part |= _norm("proj.3", text)
    case "plus":
      dim, inner = config["dim"], 64 * config["heads"]
      part = {"latents": (1, config["tokens"], dim)}
      part |= {"proj_in.weight": (dim, image), "proj_in.bias": (dim,)}
      part |= {"proj_out.weight": (text, dim), "proj_out.bias": (text,)}
      part |= _norm("norm_out", text)
      for i in range(config["depth"]):
        for norm in ("0.norm1", "0.norm2", "1.0"):
          part |= _norm(f"layers.{i}.{norm}", dim)
        part |= {
          f"layers.{i}.0.to_q.weight": (inner, dim),
          f"layers.{i}.0.to_kv.weight": (2 * inner, dim),
          f"layers.{i}.0.to_out.weight": (dim, inner),
          f"layers.{i}.1.1.weight": (4 * dim, dim),
          f"layers.{i}.1.3.weight": (dim, 4 * dim),
        }
  return found | {f"image_proj.{name}": shape for name, shape in part.items()}


def _norm(name, dim):
  return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def declare(config: dict):
  return ip_adapter.declare_ip_adapter(shapes(config))


def inputs(case: str) -> dict[str, np.ndarray]:
  """What CLIP says of several `images`, and what a U-Net is called with."""
  _, shape = CASES[case]
  return {
    "images": drawing.normal(f"{case}.images", shape),
    "x": drawing.normal(f"{case}.x", (2, 8, 8, 4)),
    "t": np.array([1, 873], np.int32),
    "text": drawing.normal(f"{case}.text", (2, 5, 16)),
    "scale": np.float32(0.6),
  }


# --- Ours --------------------------------------------------------------------


def call(spec, apply):
  module = ip_adapter.declare_ip_adapter(
    {name: published_shape(p) for name, p in spec.items()}
  )
  unet_spec, unet = functional(ip_adapter.decouple(declare_unet(UNET), module))
  unet_params = drawn(unet_spec)

  @jax.jit
  def run_all(params, images, x, t, text, scale):
    prompt = ip_adapter.ImagePrompt(apply(params, images), scale)
    return {
      "tokens": apply(params, images, method="tokens"),
      "out": unet(unet_params, x, t, text, context=prompt),
    }

  return run_all


# --- Theirs ------------------------------------------------------------------


def build(config: dict):
  """A U-Net, and the tensors of a published file."""
  import diffusers
  import torch

  unet = diffusers.UNet2DConditionModel(**UNET).eval()
  names = {k: tuple(v.shape) for k, v in unet.state_dict().items()}
  unet.load_state_dict(theirs.tensors(drawing.weights(names)))
  tensors = {k: torch.randn(v) / 4 for k, v in shapes(config).items()}
  return _opened(unet, tensors)


def published(model) -> dict:
  """Its tensors under the names of the published file."""
  return model.tensors


def fill(model, values: dict[str, np.ndarray]):
  """The model with these tensors of the published file."""
  return _opened(model.unet, theirs.tensors(values))


def _opened(unet, tensors):
  parts = {
    part: {
      name.removeprefix(f"{part}."): value
      for name, value in tensors.items()
      if name.startswith(f"{part}.")
    }
    for part in ("image_proj", "ip_adapter")
  }
  unet._load_ip_adapter_weights([parts], low_cpu_mem_usage=False)
  return types.SimpleNamespace(unet=unet, tensors=tensors)


def run(model, values: dict) -> dict[str, np.ndarray]:
  """Calls the publisher's U-Net with pictures."""
  import torch

  for processor in model.unet.attn_processors.values():
    if hasattr(processor, "to_k_ip"):
      processor.scale = [float(values["scale"])]
  with torch.no_grad():
    (tokens,) = model.unet.encoder_hid_proj([values["images"]])
    out = model.unet(
      theirs.nchw(values["x"]),
      values["t"].long(),
      values["text"],
      added_cond_kwargs={"image_embeds": [values["images"]]},
    ).sample
  return {"tokens": tokens.flatten(1, 2).numpy(), "out": theirs.nhwc(out)}


def published_index(config: dict) -> dict:
  """Shapes alone are enough."""
  import torch

  return {
    name: torch.empty(shape, device="meta")
    for name, shape in shapes(config).items()
  }
