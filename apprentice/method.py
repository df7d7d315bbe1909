# SPDX-License-Identifier: Apache-2.0
"""The `Method` record: the interface of a subject-driven method.

`apprentice.train`, `.sample` and `.evaluate` know a method through this record
alone. To add one, add a file to `apprentice/methods`; nothing is registered.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from apprentice import methods
from suti.config.names import find_record
from suti.nn.nets import Nets
from suti.pipeline.conditioning import Conditioning, apply_denoiser

# B batch, K demonstrations, H W C image or latent, L text tokens, D width.


# What an example has, by the attribute's name.
SOURCES = (
  "image",
  "prompt",
  "demonstrations",
  "captions",
  "mask",
  "depth",
  "demonstration_masks",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
  """One array of a batch, and how it is made of an example.

  From it follows what is read, what is cropped with the picture it belongs to,
  what is encoded once and cached, and what is missing in sampling.

  Attributes:
    name: in the batch.
    source: of `SOURCES`: what of the example it is made of. Those of
      demonstrations lead with K, and what is not there is zeros.
    made: "latent", what the U-Net denoises; "text", its conditioning; "exists",
      which demonstrations there are; "plane", a mask or a depth as it is, of
      the picture's size; or the name of an encoder of the method.
    absent: what a plane is filled with where an example, or a user, has none;
      None refuses it.
    with_text: of a text: whether it is the null text wherever the prompt is,
      in training and in a branch of guidance.
  """

  name: str
  source: str
  made: str
  absent: float | None = None
  with_text: bool = False

  def __post_init__(self) -> None:
    """Checks the source."""
    assert self.source in SOURCES, self.source


IMAGE = Field(name="image", source="image", made="latent")
TEXT = Field(name="text", source="prompt", made="text")
DEMONSTRATIONS = Field(
  name="demonstrations", source="demonstrations", made="latent"
)
DEMONSTRATION_MASK = Field(
  name="demonstration_mask", source="demonstrations", made="exists"
)
DEMONSTRATION_TEXT = Field(
  name="demonstration_text", source="captions", made="text"
)
STANDARD = (
  IMAGE,
  TEXT,
  DEMONSTRATIONS,
  DEMONSTRATION_MASK,
  DEMONSTRATION_TEXT,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder:
  """A frozen net that a method sees pictures through, once a picture.

  Attributes:
    folder: a shipped name, or a folder in the published layout.
    output: (apply, params, pixels_BHWC) -> features_B...; pixels are made by
      the folder's own preprocessing.
  """

  folder: str
  output: Callable[..., Any]


def denoise(
  apply: Callable,
  params: Mapping[str, Any],
  x_BHWC: Any,
  t_B: Any,
  text: Conditioning,
  context: Any,
) -> Any:
  """One prediction of the U-Net; context None is the base model."""
  return apply_denoiser(apply, params, x_BHWC, t_B, text, context=context)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
  """A published method of subject-driven generation.

  A `text` is the conditioning of texts (`suti.pipeline.conditioning`). A
  batch holds the arrays that `fields` names, stacked, images already as
  latents; in sampling, the same without the target.

  Attributes:
    paper: link to it; becomes a row of docs/stages.md.
    declare: (backbone, config.method) -> declared module: the backbone's U-Net
      with new layers. No arrays; the base's parameters keep their names. Or
      several nets by name, the backbone's under "", see `suti.nn.nets`.
    trainable: regex over parameter names; the rest is frozen and neither
      updated nor checkpointed. `config.method.trainable` overrides it.
    fields: (config.method) -> the arrays that the method needs.
    encode: (apply, params, batch) -> context: encodes the subjects, once per
      image.
    denoise: (apply, params, x_BHWC, t_B, text, context) -> prediction_BHWC;
      context None is the base model. By default the first net's own.
    encoders: (config.method) -> {name: Encoder}; a field may be made by one.
    refresh: (apply, params, context, t_B, keys_B) -> context: for a method
      whose context follows t, called before each `denoise`.
    hide: {condition: (batch, gone_B) -> batch without it in these rows}; its
      own conditions are dropped in training by `config.train.
      condition_dropout`, each by itself. One named "subject" says what a
      branch of guidance without the subject sees, in all rows; without it, that
      is the base model. In training, demonstrations are dropped by themselves.
    loss: (apply, backbone, params, batch, key, config.train) -> scalar, in the
      place of the loss of denoising, for a method that learns something else;
      beside `losses` it is logged as `loss_main`.
    losses: (apply, params, batch, context) -> {name: scalar}, added to that and
      logged.
    starts_as_base: whether it predicts what its base does before it is trained.
    start: (config.method, params) -> some of the new arrays, for a method whose
      training starts from more than random draws; `params` are all.
    scaled: (config.method) -> whether its batch may have `subject_scale`, float
      (B,), how strongly pictures are seen: `config.apprentice_sample.
      subject_scale` in sampling, nothing, which is 1, in training.
  """

  paper: str
  declare: Callable[[Any, Any], Nets]
  trainable: str
  fields: Callable[[Any], Sequence[Field]]
  encode: Callable[[Callable, Mapping, Mapping], Any]
  denoise: Callable[..., Any] = denoise
  encoders: Callable[[Any], Mapping[str, Encoder]] | None = None
  refresh: Callable[..., Any] | None = None
  hide: Mapping[str, Callable[..., Any]] = dataclasses.field(
    default_factory=dict
  )
  loss: Callable[..., Any] | None = None
  losses: Callable[..., Mapping[str, Any]] | None = None
  starts_as_base: bool = True
  start: Callable[[Any, Mapping], Mapping[str, Any]] | None = None
  scaled: Callable[[Any], bool] = lambda config: False


def predict(
  method: Method,
  apply: Callable[..., Any],
  params: Mapping[str, Any],
  x_BHWC: Any,
  t_B: Any,
  text: Any,
  context: Any,
  *,
  keys_B: Any,
) -> Any:
  """`Method.denoise` with the context of this step.

  Args:
    keys_B: of each row, for what `refresh` draws.
  """
  if method.refresh is not None and context is not None:
    context = method.refresh(apply, params, context, t_B, keys_B)
  return method.denoise(apply, params, x_BHWC, t_B, text, context)


def find(name: str) -> Method:
  """The method of a file of `apprentice/methods`.

  Args:
    name: "suti" for `apprentice/methods/suti.py`.

  Raises:
    ValueError: there is no such file; lists those there are, and the nearest.
  """
  return find_record(
    name, package=methods, record="METHOD", field="config.train.method"
  )
