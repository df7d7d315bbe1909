# SPDX-License-Identifier: Apache-2.0
"""Examples -> batches: one grain chain, on one screen.

An example becomes a target with its text and K of its cluster's demonstrations,
drawn without replacement and in random order (SuTI, arXiv 2304.00186, section
4: K = 3 in training; how the 3 of a cluster are chosen it does not say). The
order, the draw and so each batch follow from the seed and the step alone; the
iterator's state is one integer, kept with the checkpoint.

Nothing is dropped here: dropping text or demonstrations is the loop's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np

from apprentice.fields import EncodeText, make_fields, pick
from apprentice.latents import LatentExample
from suti.io.records import open_examples
from suti.schema import Example

# B batch, K demonstrations, H W C image.


def batches(
  sources: Sequence[Sequence[Example] | Sequence[LatentExample]],
  *,
  fields: Sequence[str],
  encode_text: EncodeText,
  size_px: int,
  batch_size: int,
  num_demonstrations: int,
  demonstration_targets: float = 0.0,
  seed: int = 0,
) -> grain.DatasetIterator:
  """Endless batches of this process's share.

  Args:
    sources: examples with random access, joined: `open_folder`, or what
      `apprentice.latents` made of it.
    fields: what the method needs of an example.
    encode_text: texts -> their conditioning, see
      `suti.pipeline.conditioning`.
    size_px: side of the images; others are cropped and resized.
    batch_size: of all processes together.
    num_demonstrations: K; where a cluster has fewer, the mask says so.
    demonstration_targets: share of the examples whose target is one of the
      cluster's own pictures with its caption, not shown as a demonstration
      (not in SuTI; it ties the apprentice to real pictures).
    seed: of order and draws.

  Returns: a grain iterator of {field: array_B...}; images are uint8, latents
    float16. It has `get_state` and `set_state`.

  Raises:
    ValueError: a field is none that we make.
  """
  dataset = grain.MapDataset.concatenate(
    [grain.MapDataset.source(source) for source in sources]
  )

  def draw(
    example: Example | LatentExample, rng: np.random.Generator
  ) -> dict[str, Any]:
    order = rng.permutation(len(example.demonstrations))
    image, prompt = example.image, example.prompt
    if rng.random() < demonstration_targets and len(order) > 1:
      image, prompt = (
        example.demonstrations[order[0]],
        example.captions[order[0]],
      )
      order = order[1:]
    drawn = order[:num_demonstrations]
    arrays = make_fields(
      image=image,
      prompt=prompt,
      demonstrations=[example.demonstrations[i] for i in drawn],
      captions=[example.captions[i] for i in drawn],
      num_demonstrations=num_demonstrations,
      encode_text=encode_text,
      size_px=size_px,
    )
    return pick(arrays, fields)

  per_process = batch_size // jax.process_count()
  dataset = (
    dataset.seed(seed)
    .shuffle()
    .repeat()
    .random_map(draw)
    .batch(per_process, drop_remainder=True)
    # After it: the batches of all processes together are those of one.
    .slice(slice(jax.process_index(), None, jax.process_count()))
  )
  # Few threads: decoding is light, and the step wants the cores.
  return iter(
    dataset.to_iter_dataset(
      grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    )
  )


def open_folder(folder: str | Path) -> Sequence[Example]:
  """Opens a dataset that `experts.pack` wrote.

  Raises:
    ValueError: it is none, or holds no example.
  """
  source = open_examples(folder)
  if not len(source):
    raise ValueError(
      f"{folder} holds no examples: lower config.filter.threshold and run "
      "experts.filter and experts.pack again."
    )
  return source
