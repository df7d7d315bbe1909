# SPDX-License-Identifier: Apache-2.0
"""The `Method` record: what a published system must say to be trained here.

`apprentice.train`, `.sample` and `.evaluate` know a method through this record
alone. To add one, add a file to `apprentice/methods`; nothing is registered.
"""

import dataclasses
import difflib
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from apprentice import methods

# B batch, K demonstrations, H W C image or latent, L text tokens, D width.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
  """One array of an example, as `apprentice.data` makes it.

  Attributes:
    dims: its dims without the batch, in the letters of this project ("KHWC");
      of a text, which is a dict (`suti.pipeline.conditioning`), those of its
      states.
    dtype: its NumPy dtype.
  """

  dims: str
  dtype: Any = np.float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
  """A published way to be subject-driven.

  A `text` is the conditioning of texts (`suti.pipeline.conditioning`). A
  batch holds what `fields` names, stacked, images already as latents; sampling
  makes the same batch without the target.

  Attributes:
    paper: link to it; becomes a row of docs/stages.md.
    declare: (backbone, config.method) -> declared module: the backbone's U-Net
      after surgery. No arrays; every base name stays.
    trainable: regex over parameter names; the rest is frozen and neither
      updated nor checkpointed. `config.method.trainable` overrides it.
    fields: (config) -> {name: Field}, what one example must hold.
    encode: (apply, params, batch) -> context: the subjects, once per image.
    denoise: (apply, params, x_BHWC, t_B, text, context) -> prediction_BHWC;
      context None is the base model.
  """

  paper: str
  declare: Callable[[Any, Any], Any]
  trainable: str
  fields: Callable[[Any], Mapping[str, Field]]
  encode: Callable[[Callable, Mapping, Mapping], Any]
  denoise: Callable[..., Any]


def names() -> list[str]:
  """The methods there are: the files of `apprentice/methods`."""
  return sorted(m.name for m in pkgutil.iter_modules(methods.__path__))


def find(name: str) -> Method:
  """Finds a method by the name of its file.

  Args:
    name: "suti" for `apprentice/methods/suti.py`.

  Returns: its `METHOD`.

  Raises:
    ValueError: there is no such file; says what there is and what is nearest.
  """
  known = names()
  if name not in known:
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise ValueError(
      f"No method '{name}'. apprentice/methods has {', '.join(known)}.{hint}"
    )
  return importlib.import_module(f"apprentice.methods.{name}").METHOD
