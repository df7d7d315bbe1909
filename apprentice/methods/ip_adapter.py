# SPDX-License-Identifier: Apache-2.0
"""IP-Adapter: attention to CLIP's view of pictures beside that to the text.

arXiv 2308.06721. A frozen CLIP sees a picture, a small net makes tokens of
that, and each cross-attention of the frozen U-Net gets keys and values of its
own for them, whose result is added (section 3.2). It is SynCD's baseline.

As published, a picture is the prompt of itself in training
(`config.method.shows="target"`), dropped in 5% of the examples, the text in 5%,
both in 5%, excluding each other (`config.train.exclusive_dropout`). With
"demonstrations" it is trained on what it is then asked for: the subject in
other pictures. In sampling it sees the demonstrations, several of them as their
tokens in one row, as its publisher's code does; the paper has one picture. A
branch of guidance without the subject sees the null picture.

Trained arrays have the published names, behind "adapter:". Published files,
which need no training, are sampled with by `suti generate --adapter`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from apprentice.method import (
  DEMONSTRATION_MASK,
  IMAGE,
  TEXT,
  Encoder,
  Field,
  Method,
)
from suti.nn.nets import Nets
from suti.pipeline import image_prompt

# B batch, K demonstrations, H W C latent, X features of a picture.

_EXAMPLE = "configs/apprentice/ip_adapter_world.py"
_SHOWS = ("target", "demonstrations")


def declare(backbone: Any, config: Any) -> Nets:
  """The U-Net that attends to pictures, and the adapter.

  Args:
    backbone: has `unet`.
    config: `config.method`: encoder, a CLIP; kind, num_tokens, width, depth and
      num_heads of the adapter; null; adapter, a file to start from; shows.

  Raises:
    ValueError: a field is missing or wrong, there is no such encoder, or the
      U-Net has no cross-attentions.
  """
  image_prompt.check_section(config, example=_EXAMPLE)
  if config.get("shows") not in _SHOWS:
    raise ValueError(
      f"config.method.shows={config.get('shows')!r}: expected one of "
      f"{', '.join(_SHOWS)}; as published, it is 'target'."
    )
  unet, nets = image_prompt.declare(backbone.unet, config)
  return {"": unet, **nets}


def fields(config: Any) -> tuple[Field, ...]:
  """What CLIP says of the demonstrations, or of the target."""
  own = Field(name="own_image", source="image", made="clip")
  return (
    IMAGE,
    TEXT,
    DEMONSTRATION_MASK,
    Field(name="demonstration_images", source="demonstrations", made="clip"),
    *([own] if config.shows == "target" else []),
  )


def encoders(config: Any) -> dict[str, Encoder]:
  """CLIP."""
  output = image_prompt.output_of(config.kind)
  return {"clip": Encoder(folder=config.encoder, output=output)}


def encode(
  apply: Callable, params: Mapping[str, jax.Array], batch: Mapping[str, Any]
) -> Any:
  """Pictures -> keys and values of every cross-attention, once an image."""
  images_BKX = batch["demonstration_images"]
  shown_BK = batch["demonstration_mask"]
  if images_BKX.shape[1] == 0:
    return None
  if "own_image" in batch:  # In training alone.
    images_BKX = batch["own_image"][:, None]
    shown_BK = shown_BK.any(1, keepdims=True)
  scale = batch.get("subject_scale", 1.0)
  return image_prompt.make_prompt(
    apply, params, images_BKX, shown_BK, scale=scale
  )


def without_subject(batch: Mapping[str, Any], gone_B: jax.Array) -> dict:
  """No picture is shown."""
  mask_BK = batch["demonstration_mask"] & ~gone_B[:, None]
  return {**batch, "demonstration_mask": mask_BK}


METHOD = Method(
  paper="https://arxiv.org/abs/2308.06721",
  declare=declare,
  trainable=rf"^{image_prompt.ADAPTER}:",
  fields=fields,
  encode=encode,
  encoders=encoders,
  hide={"subject": without_subject},
  # The pictures' keys and values start as the text's, which is not silent.
  starts_as_base=False,
  start=image_prompt.start,
  scaled=lambda config: True,
)
