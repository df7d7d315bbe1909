# SPDX-License-Identifier: Apache-2.0
"""A cache of latents on disk: each distinct picture is encoded once.

A latent model reads the same pictures in every epoch, and a subject's pictures
in many examples; without a cache, the autoencoder would encode each of them
many times. Latents are stored as float16.

Shape legend: `B` pictures of a batch, `H` `W` `C` latent.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from apprentice.fields import fit
from suti.io.files import read_json, replacing_folder, write_json
from suti.io.paths import local
from suti.pipeline.backbone import Backbone
from suti.runtime.stage import progress
from suti.schema import Example

_INDEX = "index.json"
_BLOCK = 256  # pictures of a batch, at most


def caches_latents(
  train: Any, backbone: Backbone, *, num_processes: int
) -> bool:
  """Whether training reads cached latents instead of pictures.

  Args:
    train: `config.train`.
    backbone: pixel models have nothing to encode.
    num_processes: that train together; only a single process uses the cache.
  """
  wanted = bool(train.cache_latents and backbone.codec.params)
  return wanted and num_processes == 1


class LatentExample(NamedTuple):
  """The fields of an `Example` that `apprentice.data` reads, as latents."""

  image: np.ndarray
  prompt: str
  demonstrations: tuple[np.ndarray, ...]
  captions: tuple[str, ...]


class LatentExamples(Sequence):
  """Random access to a folder of `encode_examples`."""

  def __init__(self, folder: Path):
    """Memory-maps the latents: they are read on access."""
    index = read_json(folder / _INDEX)
    self._texts, self._rows = index["texts"], index["rows"]
    self._latents_NHWC = np.memmap(
      folder / "latents.bin",
      np.float16,
      mode="r",
      shape=(index["pictures"], *index["shape"]),
    )

  def __len__(self) -> int:
    """The number of examples."""
    return len(self._rows)

  def __getitem__(self, index):
    """The example at an index."""
    target, *shown = self._rows[index]
    prompt, *captions = self._texts[index]
    return LatentExample(
      image=self._latents_NHWC[target],
      prompt=prompt,
      demonstrations=tuple(self._latents_NHWC[row] for row in shown),
      captions=tuple(captions),
    )


def encode_examples(
  examples: Sequence[Example], backbone: Backbone, folder: Path
) -> LatentExamples:
  """Encodes the pictures of examples, unless `folder` has them already.

  The folder appears whole or not at all: a killed run encodes them again.

  Args:
    examples: as `experts.pack` wrote them.
    backbone: its codec encodes them.
    folder: of the cache.

  Returns: the same examples, in the same order.
  """
  if (folder / _INDEX).is_file():
    return LatentExamples(local(folder))
  row_of: dict[bytes, int] = {}
  texts, rows = [], []

  def new_pictures() -> Iterator[np.ndarray]:
    for example in progress(examples, "encode pictures"):
      texts.append([example.prompt, *example.captions])
      found = []
      for image_u8_HWC in (example.image, *example.demonstrations):
        fitted = fit(image_u8_HWC, backbone.size_px)
        key = hashlib.blake2b(fitted.tobytes(), digest_size=16).digest()
        if key not in row_of:
          row_of[key] = len(row_of)
          yield fitted
        found.append(row_of[key])
      rows.append(found)

  with replacing_folder(folder, last=_INDEX) as part:
    pictures = new_pictures()
    with (part / "latents.bin").open("wb") as file:
      while block := list(islice(pictures, _BLOCK)):
        x_BHWC = backbone.encode_pictures(block, batch_size=_BLOCK)
        file.write(x_BHWC.astype(np.float16).tobytes())
    write_json(
      part / _INDEX,
      {
        "pictures": len(row_of),
        "shape": backbone.latent_shape,
        "texts": texts,
        "rows": rows,
      },
    )
  return LatentExamples(local(folder))
