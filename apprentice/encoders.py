# SPDX-License-Identifier: Apache-2.0
"""The frozen encoders of a method: pictures -> features, once a picture.

They see a picture through the preprocessing of their own folder, outside of
every compiled step: training reads features from the cache of
`apprentice.latents`, sampling makes them once an image.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from apprentice.method import Encoder, Method
from suti.hf.find import find_model
from suti.hf.image_processor import pixel_reader_of
from suti.hf.model import open_model
from suti.nn.param import shapes

_ROWS = 16  # pictures of a batch: one program for any number


class Opened(NamedTuple):
  """An encoder, opened.

  Attributes:
    shape: of one picture's features.
    encode: any number of uint8 pictures -> float16 (B, *shape).
  """

  shape: tuple[int, ...]
  encode: Callable[[Sequence[np.ndarray]], np.ndarray]


def open_encoders(method: Method, config: Any) -> dict[str, Opened]:
  """Opens a method's encoders.

  Args:
    method: the record.
    config: `config.method`.

  Returns: by name; their weights are read at the first picture.

  Raises:
    ValueError: there is no such folder.
  """
  if method.encoders is None:
    return {}
  return {
    name: _open(encoder) for name, encoder in method.encoders(config).items()
  }


@functools.lru_cache(maxsize=8)
def _open(encoder: Encoder) -> Opened:
  folder = find_model(encoder.folder)
  model = open_model(folder, weights=False)
  read = pixel_reader_of(folder, model.config)
  blank = np.zeros((8, 8, 3), np.uint8)
  features = jax.eval_shape(
    lambda params, pixels: encoder.output(model.apply, params, pixels),
    shapes(model.spec),
    read([blank]),
  )

  @functools.cache
  def weights() -> Mapping[str, Any]:
    return open_model(folder).params

  @jax.jit
  def program(params, pixels_BHWC):
    return encoder.output(model.apply, params, pixels_BHWC)

  def encode(images_u8: Sequence[np.ndarray]) -> np.ndarray:
    blocks = [np.zeros((0, *features.shape[1:]), np.float16)]
    for start in range(0, len(images_u8), _ROWS):
      rows = list(images_u8[start : start + _ROWS])
      padded = rows + [rows[-1]] * (_ROWS - len(rows))
      made = program(weights(), jnp.asarray(read(padded)))
      blocks.append(np.asarray(made[: len(rows)], np.float16))
    return np.concatenate(blocks)

  return Opened(features.shape[1:], encode)


def look(
  images: Sequence[np.ndarray], encoders: Mapping[str, Opened]
) -> list[Any]:
  """Pictures as a method sees them.

  Returns: the pictures themselves or, of a method with encoders, dicts of the
    picture under "latent" and its features by encoder.
  """
  if not encoders:
    return list(images)
  made = {name: opened.encode(images) for name, opened in encoders.items()}
  return [
    {"latent": image} | {name: rows[i] for name, rows in made.items()}
    for i, image in enumerate(images)
  ]


def check_alone(encoders: Mapping[str, Opened], *, num_processes: int) -> None:
  """Checks that one process trains, as features are cached by one.

  Raises:
    ValueError: several do.
  """
  if encoders and num_processes > 1:
    raise ValueError(
      f"This method sees pictures through {', '.join(encoders)}, whose "
      f"features one process caches, and {num_processes} processes train: use "
      "one host."
    )
