# SPDX-License-Identifier: Apache-2.0
"""The input pipeline of the apprentice: examples -> batches, with Grain.

An example becomes a target with its text and K of its cluster's demonstrations,
chosen without replacement and in random order (SuTI, arXiv 2304.00186, section
4: K = 3 in training; the paper does not say how the 3 are chosen). The order,
the choice and so each batch depend on the seed and the step alone; the
iterator's state is one integer, saved with the checkpoint.

Text and demonstrations are dropped in the training step, not here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np

from apprentice.encoders import Opened
from apprentice.fields import EncodeText, make_fields, mirrored
from apprentice.latents import LatentExample
from apprentice.method import Field
from suti.io.records import Examples, open_examples
from suti.schema import Example

# B batch, K demonstrations, H W C image.


def batches(
  sources: Sequence[Sequence[Example] | Sequence[LatentExample]],
  *,
  fields: Sequence[Field],
  encode_text: EncodeText,
  size_px: int,
  batch_size: int,
  num_demonstrations: int,
  demonstration_targets: float = 0.0,
  encoders: Mapping[str, Opened] | None = None,
  mirror: str = "none",
  seed: int = 0,
) -> grain.DatasetIterator:
  """Endless batches of this process's share.

  Args:
    sources: examples with random access, concatenated: from `open_folder`, or
      `apprentice.latents.encode_examples`.
    fields: that the method needs.
    encode_text: texts -> their conditioning, see
      `suti.pipeline.conditioning`.
    size_px: side of the images; others are cropped and resized.
    batch_size: of all processes together.
    num_demonstrations: K; missing ones of smaller clusters are masked.
    demonstration_targets: share of the examples whose target is one of the
      cluster's own pictures with its caption, which is then not among the
      demonstrations (not in SuTI; it ties the apprentice to real pictures).
    encoders: of the method; the sources then hold their features.
    mirror: whether an example with too few demonstrations is also shown mirror
      images: none | demonstrations, theirs | all, the target's too, never as
      the first (SynCD, arXiv 2502.01720, appendix C.2, and its code).
    seed: of the order and of all random choices.

  Returns: a grain iterator of {field: array_B...}; images are uint8, latents
    float16. It has `get_state` and `set_state`.

  Raises:
    ValueError: when it is read, of an example that lacks what a field is made
      of.
  """
  dataset = grain.MapDataset.concatenate(
    [grain.MapDataset.source(source) for source in sources]
  )

  def choose(
    example: Example | LatentExample, rng: np.random.Generator
  ) -> dict[str, Any]:
    return make_fields(
      **_choose(
        example,
        rng,
        num=num_demonstrations,
        own=demonstration_targets,
        mirror=mirror,
      ),
      num_demonstrations=num_demonstrations,
      encode_text=encode_text,
      size_px=size_px,
      fields=fields,
      encoders=encoders,
    )

  per_process = batch_size // jax.process_count()
  dataset = (
    dataset.seed(seed)
    .shuffle()
    .repeat()
    .random_map(choose)
    .batch(per_process, drop_remainder=True)
    # After batching, so that the processes together see the batches of one.
    .slice(slice(jax.process_index(), None, jax.process_count()))
  )
  # Few threads: decoding is light, and the step wants the cores.
  return iter(
    dataset.to_iter_dataset(
      grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    )
  )


def _choose(
  example: Example | LatentExample,
  rng: np.random.Generator,
  *,
  num: int,
  own: float,
  mirror: str = "none",
) -> dict[str, Any]:
  """Which pictures of an example are shown, in which order, and the target.

  Args:
    example: all of it.
    rng: of this reading of it.
    num: demonstrations at most.
    own: how often the target is one of the cluster's own pictures.
    mirror: see `batches`.

  Returns: arguments of `make_fields`.
  """
  if mirror != "none" and len(example.demonstrations) < num:
    return _choose_mirrored(example, rng, num=num, mirror=mirror)
  order = rng.permutation(len(example.demonstrations))
  image, prompt = example.image, example.prompt
  masks = example.demonstration_masks
  planes: dict[str, Any] = {"mask": example.mask, "depth": example.depth}
  if rng.random() < own and len(order) > 1:
    image = example.demonstrations[order[0]]
    prompt = example.captions[order[0]]
    planes = {"mask": masks[order[0]] if masks else None}
    order = order[1:]
  chosen = order[:num]
  planes["demonstration_masks"] = [masks[i] for i in chosen] if masks else ()
  return {
    "image": image,
    "prompt": prompt,
    "demonstrations": [example.demonstrations[i] for i in chosen],
    "captions": [example.captions[i] for i in chosen],
    "planes": planes,
  }


def _choose_mirrored(
  example: Example | LatentExample,
  rng: np.random.Generator,
  *,
  num: int,
  mirror: str,
) -> dict[str, Any]:
  """The same of few pictures: some of them and of their mirror images."""
  shown, own = example.demonstrations, example.mask
  turned = getattr(example, "mirrors", None) or [
    mirrored(picture) for picture in (example.image, *shown)
  ]
  masks: list[Any] = list(example.demonstration_masks)
  masks += [mirrored(mask) for mask in masks]
  pictures, captions = [*shown, *turned[1:]], [*example.captions] * 2
  if mirror == "all" and shown:
    pictures.append(turned[0])
    captions.append(example.prompt)
    if masks or own is not None:
      # Where one mask is not known, the picture counts whole.
      side = next(each.shape for each in (*masks, own) if each is not None)
      masks = masks or [np.ones(side, bool)] * (len(pictures) - 1)
      masks.append(np.ones(side, bool) if own is None else mirrored(own))
  order = [int(i) for i in rng.permutation(len(pictures))]
  last = len(pictures) - 1
  if mirror == "all" and shown and order[0] == last:
    order[0], order[1] = order[1], order[0]
  chosen = order[:num]
  return {
    "image": example.image,
    "prompt": example.prompt,
    "demonstrations": [pictures[i] for i in chosen],
    "captions": [captions[i] for i in chosen],
    "planes": {
      "mask": example.mask,
      "depth": example.depth,
      "demonstration_masks": [masks[i] for i in chosen] if masks else (),
    },
  }


def open_folder(folder: str | Path) -> Examples:
  """Opens a dataset that `experts.pack` wrote.

  Raises:
    ValueError: it is not such a dataset, or holds no example.
  """
  source = open_examples(folder)
  if not len(source):
    raise ValueError(
      f"{folder} holds no examples: loosen config.filter.rule and run "
      "experts.filter and experts.pack again."
    )
  return source
