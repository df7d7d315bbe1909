# SPDX-License-Identifier: Apache-2.0
"""Recognises a published model by the names and shapes of its tensors.

Families are data: which names must be among a model's, and which sizes
distinguish its variants. The first family that fits is returned, so the more
particular stand before the more general. Nothing is loaded: this serves
messages on what a folder holds.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

Shapes = Mapping[str, Sequence[int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
  """One dim of one tensor, and what its size means.

  Attributes:
    name: regular expression of the tensor's name.
    dim: which dim of the published tensor; negative ones count from the end.
    means: `{size: words}`, nothing where there is nothing to say.
  """

  name: str
  dim: int
  means: Mapping[int, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """How a family is recognised.

  Attributes:
    name: in words.
    has: regular expressions; each is found in the name of some tensor.
    only: a size that it must have.
    sizes: sizes that say more, where they are known.
  """

  name: str
  has: tuple[str, ...]
  only: Size | None = None
  sizes: tuple[Size, ...] = ()


_TASKS = Size(
  name=r"^conv_in\.weight$",
  dim=1,
  means={
    5: "guided by depth",
    7: "enlarging pictures",
    8: "editing by instruction",
    9: "inpainting",
  },
)
_STAGES = Size(
  name=r"^conv_in\.weight$",
  dim=1,
  means={3: "stage I", 6: "stage II or III"},
)
_LATENTS = Size(
  name=r"^decoder\.conv_in\.weight$",
  dim=1,
  means={4: "4 channels", 16: "16 channels"},
)
_VIT = {
  192: "ViT-Ti",
  384: "ViT-S",
  768: "ViT-B",
  1024: "ViT-L",
  1280: "ViT-H",
  1536: "ViT-g",
}
_TEXT_TOWER = Size(
  name=r"text_model\.embeddings\.token_embedding\.weight$",
  dim=1,
  means={512: "ViT-B", 768: "ViT-L", 1024: "ViT-H", 1280: "ViT-bigG"},
)
_VISION_TOWER = Size(
  name=r"vision_model\.embeddings\.class_embedding$",
  dim=0,
  means={768: "ViT-B", 1024: "ViT-L", 1280: "ViT-H", 1664: "ViT-bigG"},
)
_T5 = Size(
  name=r"^(shared|encoder\.embed_tokens)\.weight$",
  dim=1,
  means={512: "small", 768: "base", 1024: "large", 2048: "XL", 4096: "XXL"},
)


def _text_width(width: int) -> Size:
  """The width of the text that a U-Net attends to."""
  return Size(name=r"attn2\.to_k\.weight$", dim=1, means={width: ""})


FAMILIES = (
  # What goes beside a model, or holds several.
  Family(
    name="a LoRA",
    has=(r"[._](lora_A|lora_B|lora_down|lora_up|lora\.down|lora\.up)\b",),
  ),
  Family(name="an IP-Adapter", has=(r"^image_proj", r"(^|\.)to_k_ip\b")),
  Family(
    name="an original checkpoint of a whole model (one file, not of diffusers)",
    has=(r"^(model\.diffusion_model|first_stage_model|cond_stage_model)\.",),
  ),
  Family(name="a ControlNet", has=(r"^controlnet_(cond_embedding|down_)",)),
  # U-Nets, by their conditioning.
  Family(
    name="a U-Net of DeepFloyd IF",
    has=(r"^encoder_hid_proj\.", r"^add_embedding\.pool\."),
    sizes=(_STAGES,),
  ),
  Family(
    name="a U-Net of SDXL",
    has=(r"^add_embedding\.linear_1\.",),
    only=_text_width(2048),
    sizes=(_TASKS,),
  ),
  Family(
    name="a U-Net of SDXL's refiner",
    has=(r"^add_embedding\.linear_1\.",),
    only=_text_width(1280),
  ),
  Family(
    name="a U-Net of Stable Diffusion 1",
    has=(r"^down_blocks\.\d+\.attentions\.",),
    only=_text_width(768),
    sizes=(_TASKS,),
  ),
  Family(
    name="a U-Net of Stable Diffusion 2",
    has=(r"^down_blocks\.\d+\.attentions\.",),
    only=_text_width(1024),
    sizes=(_TASKS,),
  ),
  Family(
    name="a text-to-image U-Net",
    has=(r"^down_blocks\.", r"^mid_block\.", r"^conv_in\."),
  ),
  Family(
    name="a diffusion transformer (Stable Diffusion 3, Flux or kin)",
    has=(r"^((single_)?transformer_blocks|joint_blocks|double_blocks)\.\d",),
  ),
  # Autoencoders.
  Family(name="a VQ autoencoder", has=(r"^quantize\.", r"^decoder\.")),
  Family(
    name="an AutoencoderKL",
    has=(r"^decoder\.up_blocks\.", r"^encoder\.down_blocks\."),
    sizes=(_LATENTS,),
  ),
  # Encoders of texts.
  Family(
    name="a T5 encoder with its decoder",
    has=(r"^encoder\.block\.\d+\.layer\.", r"^decoder\.block\."),
    sizes=(_T5,),
  ),
  Family(
    name="a T5 encoder",
    has=(r"^encoder\.block\.\d+\.layer\.",),
    sizes=(_T5,),
  ),
  Family(
    name="a CLIP",
    has=(r"^text_model\.", r"^vision_model\."),
    sizes=(_VISION_TOWER,),
  ),
  Family(
    name="a CLIP text encoder with projection",
    has=(r"^text_model\.", r"^text_projection\."),
    sizes=(_TEXT_TOWER,),
  ),
  Family(
    name="a CLIP text encoder", has=(r"^text_model\.",), sizes=(_TEXT_TOWER,)
  ),
  Family(
    name="a CLIP image encoder",
    has=(r"^vision_model\.",),
    sizes=(_VISION_TOWER,),
  ),
  Family(
    name="a CLIP in OpenCLIP's own names",
    has=(r"^visual\.", r"^transformer\.resblocks\."),
  ),
  # Encoders of images.
  Family(
    name="a DINOv2",
    has=(r"^embeddings\.mask_token$", r"\.layer_scale1\."),
    sizes=(Size(name=r"^embeddings\.cls_token$", dim=-1, means=_VIT),),
  ),
  Family(
    name="a DINOv2 in torch hub's names",
    has=(r"^blocks\.\d+\.attn\.qkv\.", r"^blocks\.\d+\.ls1\."),
    sizes=(Size(name=r"^cls_token$", dim=-1, means=_VIT),),
  ),
  Family(
    name="a DINO in torch hub's names",
    has=(r"^blocks\.\d+\.attn\.qkv\.",),
    sizes=(Size(name=r"^cls_token$", dim=-1, means=_VIT),),
  ),
  Family(
    name="a DINO or another ViT",
    has=(r"^(vit\.)?embeddings\.cls_token$",),
    sizes=(Size(name=r"embeddings\.cls_token$", dim=-1, means=_VIT),),
  ),
)


def recognise(shapes: Shapes) -> str | None:
  """Names the family of a model.

  Args:
    shapes: `{published name: published shape}`.

  Returns:
    Words such as "a U-Net of Stable Diffusion 1, inpainting", or None.
  """
  for family in FAMILIES:
    if all(_find(shapes, pattern) for pattern in family.has) and (
      family.only is None or _words(shapes, family.only) is not None
    ):
      words = [family.name, *(_words(shapes, size) for size in family.sizes)]
      return ", ".join(filter(None, words))
  return None


def _find(shapes: Shapes, pattern: str) -> str | None:
  return next((name for name in shapes if re.search(pattern, name)), None)


def _words(shapes: Shapes, size: Size) -> str | None:
  name = _find(shapes, size.name)
  shape = shapes[name] if name else ()
  if len(shape) <= max(size.dim, -1 - size.dim):
    return None
  return size.means.get(shape[size.dim])
