# SPDX-License-Identifier: Apache-2.0
"""A cache of latents on disk: each distinct picture is encoded once.

A latent model reads the same pictures in every epoch, and a subject's pictures
in many examples; without a cache, the autoencoder would encode each of them
many times. Latents are stored as float16. Beside them lie the features of the
method's own encoders, in a file each, and the masks and depths of examples, as
large as the pictures the model sees.

Shape legend: `B` pictures of a batch, `H` `W` `C` latent.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from apprentice.encoders import Opened
from apprentice.fields import fit, mirrored
from apprentice.method import Field
from suti.images import square_crop_resize_plane
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

  That of a method with encoders always does, whatever this says.

  Args:
    train: `config.train`.
    backbone: pixel models have nothing to encode.
    num_processes: that train together; only a single process uses the cache.
  """
  wanted = bool(train.cache_latents and backbone.codec.params)
  return wanted and num_processes == 1


class LatentExample(NamedTuple):
  """The fields of an `Example` that `apprentice.data` reads, as latents.

  With encoders a picture is {"latent": x, NAME: its features}. `mirrors` are
  the mirror images of the target and the demonstrations, where they are needed.
  """

  image: Any
  prompt: str
  demonstrations: tuple[Any, ...]
  captions: tuple[str, ...]
  mask: np.ndarray | None = None
  depth: np.ndarray | None = None
  demonstration_masks: tuple[np.ndarray, ...] = ()
  mirrors: tuple[Any, ...] = ()


class LatentExamples(Sequence):
  """Random access to a folder of `encode_examples`."""

  def __init__(self, folder: Path):
    """Memory-maps the latents: they are read on access."""
    index = read_json(folder / _INDEX)
    self._texts, self._rows = index["texts"], index["rows"]
    self._planes, side = index["planes"], index["size_px"]
    self._mirrors = index["mirrors"]

    def opened(name: str, dtype: Any, num: int, shape: Sequence[int]) -> Any:
      if not num:
        return np.zeros((0, *shape), dtype)  # An empty file cannot be mapped.
      return np.memmap(
        folder / f"{name}.bin", dtype, mode="r", shape=(num, *shape)
      )

    num = index["pictures"]
    self._latents_NHWC = opened("latents", np.float16, num, index["shape"])
    self._features = {
      name: opened(f"features-{name}", np.float16, num, shape)
      for name, shape in index["features"].items()
    }
    self._masks = opened("masks", np.bool_, index["masks"], (side, side))
    self._depths = opened("depths", np.float16, index["depths"], (side, side))

  def __len__(self) -> int:
    """The number of examples."""
    return len(self._rows)

  def __getitem__(self, index):
    """The example at an index."""
    target, *shown = self._rows[index]
    prompt, *captions = self._texts[index]
    mask, depth, masks = self._planes[index]
    return LatentExample(
      image=self._picture(target),
      prompt=prompt,
      demonstrations=tuple(map(self._picture, shown)),
      captions=tuple(captions),
      mask=None if mask is None else self._masks[mask],
      depth=None if depth is None else self._depths[depth],
      demonstration_masks=tuple(self._masks[row] for row in masks),
      mirrors=tuple(map(self._picture, self._mirrors[index])),
    )

  def count_without(self, source: str) -> int:
    """How many examples lack a mask, a depth or their demonstrations' masks."""
    place = ("mask", "depth", "demonstration_masks").index(source)
    return sum(
      planes[place] is None or planes[place] == [] for planes in self._planes
    )

  def _picture(self, row: int) -> Any:
    latent = self._latents_NHWC[row]
    if not self._features:
      return latent
    features = {name: rows[row] for name, rows in self._features.items()}
    return {"latent": latent} | features


def describe_absent(
  sources: Sequence[Any], fields: Sequence[Field]
) -> list[str]:
  """Lines on what a method sees and examples lack: it is filled in.

  Args:
    sources: of examples; those of pictures are not counted.
    fields: of the method.
  """
  cached = [each for each in sources if isinstance(each, LatentExamples)]
  total = sum(map(len, cached))
  return [
    f"{num} of {total} examples have no {field.source}: {field.name} is "
    f"{field.absent:g} everywhere in them; config.label.source gives masks to "
    "pictures, and a teacher to its own."
    for field in fields
    if field.made == "plane"
    and field.absent is not None
    and (num := sum(each.count_without(field.source) for each in cached))
  ]


def encode_examples(
  examples: Sequence[Example],
  backbone: Backbone,
  folder: Path,
  *,
  encoders: Mapping[str, Opened] | None = None,
  mirror_below: int = 0,
) -> LatentExamples:
  """Encodes the pictures of examples, unless `folder` has them already.

  The folder appears whole or not at all: a killed run encodes them again.

  Args:
    examples: as `experts.pack` wrote them.
    backbone: its codec encodes them.
    folder: of the cache.
    encoders: of the method.
    mirror_below: of examples with fewer demonstrations mirror images are
      encoded too.

  Returns: the same examples, in the same order.
  """
  if (folder / _INDEX).is_file():
    return LatentExamples(local(folder))
  encoders, size_px = encoders or {}, backbone.size_px
  row_of: dict[bytes, int] = {}
  texts, rows, planes, mirrors = [], [], [], []

  def new_pictures() -> Iterator[np.ndarray]:
    for example in progress(examples, "encode pictures"):
      texts.append([example.prompt, *example.captions])
      pictures = (example.image, *example.demonstrations)
      own = [fit(picture, size_px) for picture in pictures]
      is_few = len(example.demonstrations) < mirror_below
      turned = [mirrored(fitted) for fitted in own] if is_few else []
      found = []
      for fitted in (*own, *turned):
        key = hashlib.blake2b(fitted.tobytes(), digest_size=16).digest()
        if key not in row_of:
          row_of[key] = len(row_of)
          yield fitted
        found.append(row_of[key])
      rows.append(found[: len(own)])
      mirrors.append(found[len(own) :])
      planes.append(write_planes(example))

  def write_planes(example: Example) -> list[Any]:
    """Writes an example's masks and depth; their numbers in the files."""

    def write(name: str, plane_HW: np.ndarray | None) -> int | None:
      if plane_HW is None:
        return None
      files[name].write(square_crop_resize_plane(plane_HW, size_px).tobytes())
      counts[name] += 1
      return counts[name] - 1

    masks = [write("masks", each) for each in example.demonstration_masks]
    return [write("masks", example.mask), write("depths", example.depth), masks]

  counts = {"masks": 0, "depths": 0}
  with replacing_folder(folder, last=_INDEX) as part:
    pictures = new_pictures()
    names = ["latents", "masks", "depths", *(f"features-{n}" for n in encoders)]
    with contextlib.ExitStack() as stack:
      files = {
        name: stack.enter_context((part / f"{name}.bin").open("wb"))
        for name in names
      }
      while block := list(islice(pictures, _BLOCK)):
        x_BHWC = backbone.encode_pictures(block, batch_size=_BLOCK)
        files["latents"].write(x_BHWC.astype(np.float16).tobytes())
        for name, encoder in encoders.items():
          files[f"features-{name}"].write(encoder.encode(block).tobytes())
    index: dict[str, Any] = {"texts": texts, "rows": rows, "planes": planes}
    index |= {"mirrors": mirrors, "size_px": size_px, **counts}
    index |= {"pictures": len(row_of), "shape": backbone.latent_shape}
    index["features"] = {name: each.shape for name, each in encoders.items()}
    write_json(part / _INDEX, index)
  return LatentExamples(local(folder))
