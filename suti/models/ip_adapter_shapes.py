# SPDX-License-Identifier: Apache-2.0
"""What the published file of an IP-Adapter would hold for a given U-Net.

Ye et al. 2023 (arXiv 2308.06721), section 3.2: an adapter that is to be trained
is declared from these as a published one is from its file. It has no config
there; sizes that are published: 4 tokens of kind "base" (ip-adapter_sd15,
ip-adapter_sdxl), 16 of kind "plus", 4 layers deep, 768 wide with 12 heads
(ip-adapter-plus_sd15) or 1280 wide with 20 (ip-adapter-plus_sdxl_vit-h); kind
"full" (ip-adapter-full-face_sd15) makes a token of each of CLIP's states.

Shapes are the file's: (out, in).
"""

from suti.models.ip_adapter import HEAD_DIM, cross_attentions
from suti.nn.param import Module

KINDS = ("base", "plus", "full")


def shapes_for(
  unet: Module,
  *,
  kind: str,
  d_image: int,
  num_tokens: int,
  width: int,
  depth: int,
  num_heads: int,
) -> dict[str, tuple[int, ...]]:
  """Names and shapes of the file.

  Args:
    unet: declared.
    kind: one of `KINDS`.
    d_image: width of CLIP's embedding or, of other kinds than "base", states.
    num_tokens: of a picture; "full" has as many as there are states.
    width, depth, num_heads: of the resampler of "plus".

  Raises:
    ValueError: the U-Net has no attention that an IP-Adapter goes beside.
  """
  layers = list(cross_attentions(unet).values())
  if not layers:
    raise ValueError(
      "An IP-Adapter goes beside the cross-attentions of a U-Net, attn2, and "
      "this one has none, as those of DeepFloyd IF: use a base like Stable "
      "Diffusion's."
    )
  (text,) = {layer.to_k.d_in for layer in layers}
  found = {
    # Even numbers are the self-attentions.
    f"ip_adapter.{1 + 2 * i}.to_{x}_ip.weight": (layer.to_k.d_out, text)
    for i, layer in enumerate(layers)
    for x in "kv"
  }
  if kind == "base":
    part = _linear("proj", d_image, num_tokens * text) | _norm("norm", text)
  elif kind == "full":
    part = _linear("proj.0", d_image, d_image)
    part |= _linear("proj.2", d_image, text) | _norm("proj.3", text)
  else:
    assert kind == "plus", kind
    part = _resampler(num_tokens, d_image, text, width, depth, num_heads)
  return found | {f"image_proj.{name}": shape for name, shape in part.items()}


def _resampler(num_tokens, d_image, text, width, depth, num_heads):
  inner = HEAD_DIM * num_heads
  part = {"latents": (1, num_tokens, width)}
  part |= _linear("proj_in", d_image, width) | _linear("proj_out", width, text)
  part |= _norm("norm_out", text)
  for i in range(depth):
    for norm in ("0.norm1", "0.norm2", "1.0"):
      part |= _norm(f"layers.{i}.{norm}", width)
    part |= {
      f"layers.{i}.0.to_q.weight": (inner, width),
      f"layers.{i}.0.to_kv.weight": (2 * inner, width),
      f"layers.{i}.0.to_out.weight": (width, inner),
      f"layers.{i}.1.1.weight": (4 * width, width),
      f"layers.{i}.1.3.weight": (width, 4 * width),
    }
  return part


def _linear(name, d_in, d_out):
  return {f"{name}.weight": (d_out, d_in), f"{name}.bias": (d_out,)}


def _norm(name, dim):
  return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}
