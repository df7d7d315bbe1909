# SPDX-License-Identifier: Apache-2.0
"""Reads a linear head on CLIP embeddings, such as LAION's of aesthetics.

A file of safetensors with `weight`, of D numbers, and `bias`, of one, as
`torch.nn.Linear(D, 1)` names them. LAION's own file is a pickle, which nothing
here opens: convert it where you trust it, in PyTorch,

  safetensors.torch.save_file(torch.load("sa_0_4_vit_l_14_linear.pth"),
                              "aesthetic.safetensors")

Shape legend: D width of an embedding.
"""

import dataclasses
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from suti.io.paths import local, path_of


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Head:
  """A linear head: a weight for each number of an embedding, and a bias."""

  weight_D: np.ndarray
  bias: float

  def score(self, clip_D: np.ndarray) -> float:
    """Of a unit embedding of CLIP."""
    return float(clip_D @ self.weight_D) + self.bias


def find_head(path: str) -> Path:
  """The file of a head.

  Raises:
    ValueError: there is none.
  """
  file = path_of(path)
  if not file.is_file():
    raise ValueError(
      f"config.filter.aesthetic='{path}': there is no such file; give a linear "
      "head on CLIP as .safetensors, or '' for none."
    )
  return file


def load_head(path: str, *, width: int) -> Head:
  """Opens a head.

  Args:
    path: of its file.
    width: D of the CLIP that it is used with.

  Raises:
    ValueError: there is no such file, it is no head, or one of another CLIP.
  """
  field, file = f"config.filter.aesthetic='{path}'", find_head(path)
  try:
    arrays = load_file(local(file))
  except (SafetensorError, OSError) as error:
    raise ValueError(
      f"{field} is no file of safetensors: convert a pickle where you trust it "
      "(suti/hf/linear_head.py says how)."
    ) from error
  sizes = {name: x.size for name, x in arrays.items()}
  if sizes != {"weight": width, "bias": 1}:
    raise ValueError(
      f"{field} holds {', '.join(f'{n} of {s}' for n, s in sizes.items())}: "
      f"expected weight of {width}, as wide as the embeddings of config.clip, "
      "and bias of 1."
    )
  return Head(
    weight_D=arrays["weight"].astype(np.float32).ravel(),
    bias=float(arrays["bias"].astype(np.float32).ravel()[0]),
  )
