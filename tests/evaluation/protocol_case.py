# SPDX-License-Identifier: Apache-2.0
"""A case for parity: DreamBench's photographs, encoders of random weights.

The encoders have the published patches and picture sizes, so that pixels go
the published way, and are otherwise tiny. What counts as generated are
photographs of other subjects, and pieces of them that are no squares.
"""

import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from suti.evaluation.benchmark.subjects import Benchmark, Subject
from suti.evaluation.folders.pictures import Picture, Reading, reading
from suti.images import save_png
from suti.io.image_files import load_image
from tests import tiny

# Variants, and the encoder each is judged by.
VARIANTS = {
  (): "dino16",
  ("single-reference",): "dino16",
  ("subject-mean",): "dino16",
  ("vits8",): "dino8",
  ("dinov2",): "dinov2",
  ("masked-dinov2",): "dinov2",
  ("clipscore",): "dino16",
  ("photo-prefix",): "dino16",
  ("squash",): "dino16",
  ("own-pixels",): "dino16",
}
SUBJECTS = {"dog": ("dog", 3), "vase": ("vase", 2)}
PROMPTS = ("a {} in the snow", "a red {}")
# subject, prompt -> the photograph that stands for a generated picture, and
# the piece of it: left, top, right, bottom in shares.
GENERATED = {
  ("dog", 0): ("dog6/00.jpg", (0.0, 0.1, 1.0, 0.75)),
  ("dog", 1): ("cat/01.jpg", None),
  ("vase", 0): ("teapot/02.jpg", (0.2, 0.0, 0.7, 1.0)),
  ("vase", 1): ("vase/03.jpg", None),
}
_VISION = tiny.VISION | {"image_size": 224, "hidden_size": 32}
LENGTH = 64  # of texts, so that none is cut
CLIP = tiny.CLIP | {
  "text_config": tiny.CLIP["text_config"] | {"max_position_embeddings": LENGTH},
  "vision_config": _VISION | {"patch_size": 32},
}
DINO = _VISION | {"model_type": "vit", "qkv_bias": True}
ENCODERS = {
  "dino16": DINO | {"patch_size": 16},
  "dino8": DINO | {"patch_size": 8},
  "dinov2": _VISION
  | {
    "model_type": "dinov2",
    "mlp_ratio": 2,
    "patch_size": 14,
    "image_size": 266,
  },
}
# What is published beside DINO: no crop.
_DIRECT = {
  "image_processor_type": "ViTImageProcessor",
  "size": {"height": 224, "width": 224},
  "resample": 2,
  "image_mean": [0.485, 0.456, 0.406],
  "image_std": [0.229, 0.224, 0.225],
}
_CLIP_PIXELS = {
  "image_processor_type": "CLIPImageProcessor",
  "size": {"shortest_edge": 224},
  "crop_size": {"height": 224, "width": 224},
}


def dreambench() -> pathlib.Path:
  """Where the photographs are; skips the test if they are nowhere."""
  folder = pathlib.Path(os.environ.get("SUTI_DREAMBENCH", ""))
  if not (folder / "dog" / "00.jpg").is_file():
    pytest.skip("SUTI_DREAMBENCH names no folder of DreamBench's photographs")
  return folder


def write_encoders(folder: pathlib.Path, identity: str) -> pathlib.Path:
  """The encoders of a variant; always the same weights."""
  tiny.write_clip(folder / "clip", config=CLIP, pixels=_CLIP_PIXELS)
  tiny.write_encoder(folder / identity, ENCODERS[identity], pixels=_DIRECT)
  return folder


def write_case(folder: pathlib.Path) -> Reading:
  """Copies of the photographs, with masks, as a reading of a folder."""
  photographs = dreambench()
  subjects, pictures = {}, []
  for name, (noun, count) in SUBJECTS.items():
    references = []
    for number in range(count):
      path = folder / name / f"{number:02d}.png"
      write(path, photographs / name / f"{number:02d}.jpg", None)
      references.append(path)
    subjects[name] = Subject(
      noun=noun,
      references=tuple(references),
      prompts=tuple(p.format(noun) for p in PROMPTS),
      category=noun,
    )
  for (name, number), (source, piece) in GENERATED.items():
    path = folder / "generated" / name / f"{number}.png"
    write(path, photographs / source, piece)
    pictures.append(
      Picture(
        subject=name,
        prompt=subjects[name].prompts[number],
        number=0,
        path=path,
      )
    )
  benchmark = Benchmark(
    name="dreambench", subjects=subjects, images_per_prompt=1
  )
  return reading(pictures, benchmark=benchmark)


def write(path: pathlib.Path, source: pathlib.Path, piece) -> None:
  """A photograph or a piece of it at a third of its size, and its mask."""
  image_u8 = load_image(source)
  height, width = image_u8.shape[:2]
  left, top, right, bottom = piece or (0, 0, 1, 1)
  image = Image.fromarray(image_u8).crop(
    (
      int(left * width),
      int(top * height),
      int(right * width),
      int(bottom * height),
    )
  )
  # An even rest on both sides: torchvision's crop differs by a pixel else.
  image = image.resize((image.width // 6 * 2, image.height // 6 * 2))
  save_png(path, np.asarray(image))
  mask = np.zeros((image.height, image.width, 3), np.uint8)
  mask[image.height // 4 : -image.height // 5, image.width // 3 :] = 255
  save_png(path.with_name(f"{path.stem}.mask.png"), mask)
