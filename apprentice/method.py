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

# B batch, K demonstrations, H W C image or latent, L text tokens, D width.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
  """A published method of subject-driven generation.

  A `text` is the conditioning of texts (`suti.pipeline.conditioning`). A
  batch holds the arrays that `fields` names, stacked, images already as
  latents; in sampling, the same without the target.

  Attributes:
    paper: link to it; becomes a row of docs/stages.md.
    declare: (backbone, config.method) -> declared module: the backbone's U-Net
      with new layers. No arrays; the base's parameters keep their names.
    trainable: regex over parameter names; the rest is frozen and neither
      updated nor checkpointed. `config.method.trainable` overrides it.
    fields: (config.method) -> names of the arrays that the method needs, of
      those that `apprentice.fields.make_fields` makes.
    encode: (apply, params, batch) -> context: encodes the subjects, once per
      image.
    denoise: (apply, params, x_BHWC, t_B, text, context) -> prediction_BHWC;
      context None is the base model.
  """

  paper: str
  declare: Callable[[Any, Any], Any]
  trainable: str
  fields: Callable[[Any], Sequence[str]]
  encode: Callable[[Callable, Mapping, Mapping], Any]
  denoise: Callable[..., Any]


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
