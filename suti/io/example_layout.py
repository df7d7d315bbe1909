# SPDX-License-Identifier: Apache-2.0
"""How an `Example` is laid out as features of TensorFlow Datasets, and back.

Pictures, masks and depths are PNG, of 8, 1 and 16 bits. What an example may
lack is a sequence of none or one. `suti.io.records` writes and reads folders.
TFDS alone reads them too; depths, of 16 bits, it decodes with OpenCV only.
"""

import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from suti.io.record_bytes import (
  decode_depth,
  decode_mask,
  decode_png,
  encode_depth,
  encode_mask,
  encode_png,
)
from suti.schema import Example, check_keys


class Summary(NamedTuple):
  """What is known of an example without its pictures."""

  cluster: str
  prompt: str
  values: Mapping[str, float]


def features() -> Any:
  """The features of an example."""
  # Imported where used: it takes 0.3 s. It does without TensorFlow.
  import tensorflow_datasets as tfds

  each = tfds.features.Sequence
  text = tfds.features.Text()
  image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
  plane = (None, None, 1)
  mask = tfds.features.Image(shape=plane, encoding_format="png")
  depth = tfds.features.Image(
    shape=plane, dtype=np.uint16, encoding_format="png"
  )
  box = tfds.features.Tensor(shape=(4,), dtype=np.float32)
  return tfds.features.FeaturesDict(
    {
      "key": text,
      "cluster": text,
      "prompt": text,
      "image": image,
      "demonstrations": each({"image": image, "caption": text}),
      "values": each({"name": text, "value": np.float32}),
      "mask": each(mask),
      "depth": each(depth),
      "camera": each(np.float32),
      "demonstration_masks": each(mask),
      "entities": each({"name": text, "box_xyxy": box, "mask": mask}),
      "group": text,
      "origin": text,
    }
  )


def decoders() -> dict[str, Any]:
  """Leaves all pictures as PNG: `from_tfds` decodes them.

  TFDS would warn that OpenCV is missing, and knows no masks of 1 bit.
  """
  import tensorflow_datasets as tfds

  class Encoded(tfds.decode.SkipDecoding):
    """As its parent does for single pictures, also in a sequence."""

    def decode_batch_example_np(self, encoded: Any) -> Any:
      return encoded

  kept = Encoded()
  return {
    "image": kept,
    "demonstrations": {"image": kept},
    "mask": kept,
    "depth": kept,
    "demonstration_masks": kept,
    "entities": {"mask": kept},
  }


def to_tfds(example: Example) -> dict[str, Any]:
  """An example with its pictures as PNG in memory, which TFDS stores as is."""
  mask, depth = example.mask, example.depth
  return {
    "key": example.key,
    "cluster": example.cluster,
    "prompt": example.prompt,
    "image": io.BytesIO(encode_png(example.image)),
    "demonstrations": [
      {"image": io.BytesIO(encode_png(image)), "caption": caption}
      for image, caption in zip(
        example.demonstrations, example.captions, strict=True
      )
    ],
    "values": [
      {"name": name, "value": value} for name, value in example.values.items()
    ],
    "mask": [] if mask is None else [io.BytesIO(encode_mask(mask))],
    "depth": [] if depth is None else [io.BytesIO(encode_depth(depth))],
    "camera": list(example.camera or ()),
    "demonstration_masks": [
      io.BytesIO(encode_mask(each)) for each in example.demonstration_masks
    ],
    "entities": [
      {
        "name": name,
        "box_xyxy": np.asarray(box, np.float32),
        "mask": io.BytesIO(encode_mask(each)),
      }
      for name, box, each in zip(
        example.names, example.boxes_xyxy, example.masks, strict=True
      )
    ],
    "group": example.group or "",
    "origin": example.origin,
  }


def summary(fields: Mapping[str, Any]) -> Summary:
  """Cluster, prompt and measures, of fields read with `decoders`."""
  return Summary(
    fields["cluster"].decode(),
    fields["prompt"].decode(),
    _values(fields["values"]),
  )


def _values(fields: Mapping[str, Any]) -> dict[str, float]:
  return {
    name.decode(): float(value)
    for name, value in zip(fields["name"], fields["value"], strict=True)
  }


def from_tfds(fields: Mapping[str, Any]) -> Example:
  """The inverse of `to_tfds`, of fields read with `decoders`.

  Raises:
    ValueError: a key is malformed.
  """
  keys = {name: fields[name].decode() for name in ("key", "cluster", "group")}
  keys["group"] = keys["group"] or None
  check_keys(keys)
  shown = fields["demonstrations"]
  entities = fields["entities"]
  masks, depths = fields["mask"], fields["depth"]
  return Example(
    **keys,
    prompt=fields["prompt"].decode(),
    image=decode_png(fields["image"]),
    demonstrations=tuple(map(decode_png, shown["image"])),
    captions=tuple(text.decode() for text in shown["caption"]),
    values=_values(fields["values"]),
    mask=decode_mask(masks[0]) if len(masks) else None,
    depth=decode_depth(depths[0]) if len(depths) else None,
    camera=tuple(float(x) for x in fields["camera"]) or None,
    demonstration_masks=tuple(map(decode_mask, fields["demonstration_masks"])),
    names=tuple(name.decode() for name in entities["name"]),
    boxes_xyxy=tuple(
      tuple(float(x) for x in box) for box in entities["box_xyxy"]
    ),
    masks=tuple(map(decode_mask, entities["mask"])),
    origin=fields["origin"].decode(),
  )
