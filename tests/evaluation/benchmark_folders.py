# SPDX-License-Identifier: Apache-2.0
"""Small benchmarks, folders of pictures, encoders, and their scoring."""

import pathlib

import numpy as np

from suti.evaluation.benchmark.evaluate import Job, evaluate
from suti.evaluation.benchmark.subjects import read_folder
from suti.evaluation.folders.reading import read_pictures
from suti.images import save_png

SUBJECTS = {"dog": "dog", "teapot": "teapot"}
PROMPTS = ("a {} in the snow", "a red {}")


def picture(seed: int, *, size_px: int = 64) -> np.ndarray:
  """Blocks of colour, so that resizing leaves something to see."""
  rng = np.random.default_rng(seed)
  blocks = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
  return blocks.repeat(size_px // 4, 0).repeat(size_px // 4, 1)


def write_subjects(folder: pathlib.Path, *, photographs: int = 3) -> None:
  """A benchmark's folder: two subjects, two prompts."""
  for i, name in enumerate(SUBJECTS):
    for k in range(photographs + i):
      save_png(folder / name / f"{k:02d}.png", picture(100 * i + k))
  (folder / "prompts.txt").write_text("\n".join(PROMPTS))


def write_pictures(
  folder: pathlib.Path, *, num: int = 2, seed: int = 0
) -> None:
  """SUBJECT/PROMPT/N.png of that benchmark."""
  for i, (name, noun) in enumerate(SUBJECTS.items()):
    for j, prompt in enumerate(PROMPTS):
      place = folder / name / prompt.format(noun).replace(" ", "_")
      for k in range(num):
        save_png(
          place / f"{k}.png", picture(1000 + seed + 100 * i + 10 * j + k)
        )


def link_encoders(
  folder: pathlib.Path, *, clip: pathlib.Path, identity: pathlib.Path
) -> pathlib.Path:
  """A folder of encoders, by links."""
  folder.mkdir(parents=True)
  (folder / "clip").symlink_to(clip)
  (folder / "dino").symlink_to(identity)
  return folder


def argv(data, encoders, out, *more):
  return (
    "evaluate",
    data / "pictures",
    "--benchmark",
    data / "subjects",
    "--encoders",
    encoders,
    "--out",
    out,
    *more,
  )


def score(data, encoders, out, *variants):
  benchmark = read_folder(data / "subjects")
  reading = read_pictures(
    data / "pictures", layout="plain", benchmark=benchmark
  )
  job = Job(
    system="x", reading=reading, encoders=encoders, variants=tuple(variants)
  )
  return evaluate(job, out)
