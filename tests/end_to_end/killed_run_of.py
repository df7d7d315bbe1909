# SPDX-License-Identifier: Apache-2.0
"""Runs of all stages on tiny models, in processes of their own, some killed."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from tests import compiler, tiny

KILLED_RUN = pathlib.Path(__file__).with_name("killed_run.py")
EXTENDED = "SUTI_TESTS_EXTENDED"  # as killed_run.py says
SUBJECTS = ("brown_dog", "grey_cat", "blue_teapot", "red_sneaker")


def draw_photos(folder: pathlib.Path, *, seed: int) -> pathlib.Path:
  """Four pictures each of four subjects: a disc of its colour on grounds."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:64, :64]
  for name in SUBJECTS:
    (folder / name).mkdir(parents=True)
    colour = rng.integers(0, 256, 3)
    for number in range(4):
      image = np.tile(rng.integers(0, 256, 3), (64, 64, 1))
      at_y, at_x = rng.uniform(24, 40, 2)
      image[(y - at_y) ** 2 + (x - at_x) ** 2 < 300] = colour
      path = folder / name / f"{number}.png"
      Image.fromarray(image.astype(np.uint8)).save(path)
  return folder


class Runs:
  """Starts runs that differ in nothing but their workdir and their death."""

  def __init__(
    self,
    root: pathlib.Path,
    models: dict[str, pathlib.Path],
    *,
    config: str = "configs/quickstart.py:tiny",
    fields: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
  ):
    self.root, self.environment = root, dict(environment or {})
    photos = draw_photos(root / "photos", seed=0)
    held_out = draw_photos(root / "held_out", seed=1)
    all_fields = {
      "size_px": tiny.SIZE_PX,
      **models,
      "mine.source": "folder",
      "mine.path": photos,
      "train.init": models["backbone"],
      "method.sites": r"transformer_blocks\.0$",
      "benchmark.source": "folder",
      "benchmark.path": held_out,
      **({"method.num_heads": 2} if fields is None else fields),
    }
    self.arguments = [
      "--config",
      config,
      *(f"--config.{name}={value}" for name, value in all_fields.items()),
    ]

  def start(
    self, name: str, *more: str, deaths: Sequence[tuple[str, int]] = ()
  ) -> subprocess.CompletedProcess:
    """A run to the end, after others that die."""
    command = [
      sys.executable,
      str(KILLED_RUN),
      json.dumps(deaths),
      *self.arguments,
      *more,
      "--workdir",
      str(self.root / name),
    ]
    environment = os.environ | {
      "PYTHONPATH": str(KILLED_RUN.parent.parent.parent),
      "XLA_FLAGS": compiler.FLAGS,
      # Each of the many processes finds what the first one compiled.
      "JAX_COMPILATION_CACHE_DIR": str(self.root / "compiled"),
      **compiler.KEEP_ALL,
      **self.environment,
    }
    return subprocess.run(
      command,
      cwd=KILLED_RUN.parent.parent.parent,
      env=environment,
      capture_output=True,
      text=True,
      check=False,
    )
