# SPDX-License-Identifier: Apache-2.0
"""SubjectWorld as a TensorFlow Datasets builder, which needs no TensorFlow.

  import tensorflow_datasets as tfds
  import suti.world.builder   # makes the name known

  builder = tfds.builder("subject_world/captioned", data_dir="...")
  builder.download_and_prepare(file_format="array_record")
  source = builder.as_data_source("train")   # random access, for Grain

Nothing is downloaded: pictures are rendered when the dataset is prepared. Other
sizes: `SubjectWorld(config=Config(name=..., size_px=128, ...))`.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from suti.io.record_bytes import encode_png
from suti.world.captions import caption, describe
from suti.world.dataset import VERSION, web_rows
from suti.world.render import render_shots
from suti.world.templates import (
  SPLITS,
  Shot,
  class_of,
  draws,
  subject_seeds,
)

_SUBJECTS_A_BATCH = 16


@dataclasses.dataclass(kw_only=True)
class Config(tfds.core.BuilderConfig):
  """What to render.

  Attributes:
    web: pages as `dataset.web_rows` gives them, else captioned pictures.
    size_px: side of the pictures.
    num_train, num_eval: subjects (or pages) of the split "train", and of
      "validation" and "test" each.
    images_each: pictures of a subject, each with another template.
    seed: which web.
  """

  web: bool = False
  size_px: int = 64
  num_train: int = 1000
  num_eval: int = 100
  images_each: int = 8
  seed: int = 0


class SubjectWorld(tfds.core.GeneratorBasedBuilder):
  """Pictures of SubjectWorld with caption, mask, depth, box and camera."""

  VERSION = tfds.core.Version(VERSION)
  BUILDER_CONFIGS = [  # noqa: RUF012  the name is tfds's
    Config(name="captioned", description="Captioned pictures of subjects."),
    Config(name="web", description="Pages of a noisy web.", web=True),
  ]
  builder_config: Config

  def _info(self) -> tfds.core.DatasetInfo:
    features = tfds.features
    size_px = self.builder_config.size_px
    image = features.Image(shape=(size_px, size_px, 3), encoding_format="png")
    if self.builder_config.web:
      fields = {
        "url": features.Text(),
        "alt_text": features.Text(),
        "image": image,
        "truth": features.Text(),
        "view": features.Text(),
      }
    else:
      fields = {
        "subject": np.int64,
        "template": np.int64,
        "seed": np.int64,
        "class": features.Text(),
        "description": features.Text(),
        "caption": features.Text(),
        "detailed_caption": features.Text(),
        "image": image,
        "mask": features.Image(
          shape=(size_px, size_px, 1), encoding_format="png"
        ),
        "depth": features.Tensor(shape=(size_px, size_px), dtype=np.float32),
        "box": features.Tensor(shape=(4,), dtype=np.int32),
        "eye": features.Tensor(shape=(3,), dtype=np.float32),
        "axes": features.Tensor(shape=(3, 3), dtype=np.float32),
        "focal": np.float32,
      }
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.builder_config.description,
      features=features.FeaturesDict(fields),
      disable_shuffling=True,  # a subject's pictures side by side
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    del dl_manager  # nothing to download
    config = self.builder_config
    return {
      split: self._generate_examples(
        split, config.num_train if split == "train" else config.num_eval
      )
      for split in SPLITS
    }

  def _generate_examples(self, split: str, count: int) -> Iterator:
    config = self.builder_config
    if config.web:
      rows = web_rows(
        split, num_pages=count, seed=config.seed, size_px=config.size_px
      )
      for key, row in enumerate(rows):
        yield key, dataclasses.asdict(row) | {"image": encode_png(row.image)}
      return
    key = 0
    for start in range(0, count, _SUBJECTS_A_BATCH):
      subjects = subject_seeds(
        split, start, min(_SUBJECTS_A_BATCH, count - start)
      )
      shots = varied_shots(subjects, images_each=config.images_each)
      drawn = render_shots(shots, size_px=config.size_px)
      for i, shot in enumerate(shots):
        yield key, _example(shot, {k: v[i] for k, v in drawn.items()})
        key += 1


def varied_shots(subjects: list[int], *, images_each: int) -> list[Shot]:
  """Shots of each subject in different templates, the studio included.

  Args:
    subjects: seeds.
    images_each: shots a subject; above 26 templates come again.

  Returns:
    images_each shots of the first subject, then of the next.
  """
  order = draws(subjects, stream=11, count=26).argsort(1) - 1
  return [
    Shot(subject, int(order[row, k % 26]), k)
    for row, subject in enumerate(subjects)
    for k in range(images_each)
  ]


def _example(shot: Shot, drawn: dict[str, np.ndarray]) -> dict[str, Any]:
  """One picture as tfds encodes it; pictures as PNG, which it takes as is."""
  mask_u8 = drawn["mask"].astype(np.uint8)[..., None] * 255
  return {
    "subject": shot.subject,
    "template": shot.template,
    "seed": shot.seed,
    "class": class_of(shot.subject),
    "description": describe(shot.subject),
    "caption": caption(shot),
    "detailed_caption": caption(shot, detailed=True),
    "image": encode_png(drawn["image"]),
    "mask": encode_png(mask_u8[..., 0]),
    **{k: drawn[k] for k in ("depth", "box", "eye", "axes", "focal")},
  }
