# SPDX-License-Identifier: Apache-2.0
"""Does a judge's cosine follow the subject or the scene? On true pictures.

SubjectWorld can render any subject in any scene, and a finished run keeps such
pictures of its benchmark's subjects (`apprentice.evaluate`, the row "scenes").
Two means of each judge: over pairs of one subject in two scenes, and over pairs
of two subjects in one scene.

  python -m tests.benchmarks.scene_or_subject runs/quickstart
"""

import pathlib
import sys

import numpy as np

from apprentice.sample import read_benchmark
from suti.evaluation.scores import load_scorer
from suti.io.records import read_records
from suti.schema import Candidate

# G pictures, D embedding width.

SCENES = "apprentice/evaluate/scenes.array_record"


def compare(
  unit_GD: np.ndarray, subjects: np.ndarray, scenes: np.ndarray
) -> tuple[float, float]:
  """Mean cosines of (one subject in two scenes, two subjects in one scene)."""
  cosine_GG = unit_GD @ unit_GD.T
  same_subject = subjects[:, None] == subjects
  same_scene = scenes[:, None] == scenes
  return (
    float(cosine_GG[same_subject & ~same_scene].mean()),
    float(cosine_GG[~same_subject & same_scene].mean()),
  )


def main(workdir: str) -> None:
  """Prints a line for each judge."""
  folder = pathlib.Path(workdir)
  clusters, _ = read_benchmark(folder)
  pictures = list(read_records(folder / SCENES, Candidate))
  images = [picture.image for picture in pictures]
  subjects = np.array([picture.cluster for picture in pictures])
  scenes = np.array(
    [p.prompt.replace(clusters[p.cluster].subject, "{}") for p in pictures]
  )
  scorer = load_scorer()
  for name, embed in (
    ("identity", scorer.identity),
    ("CLIP-I", scorer.clip_images),
  ):
    one, two = compare(embed(images), subjects, scenes)
    print(
      f"{name:9} one subject in two scenes {one:.3f}, two subjects in one "
      f"scene {two:.3f}"
    )


if __name__ == "__main__":
  main(sys.argv[1])
