# SPDX-License-Identifier: Apache-2.0
"""Times `suti generate`: cold, with compiled programs kept, and warm.

  python tests/benchmarks/time_generate.py [MODEL] [STEPS]

MODEL is a shipped apprentice or a folder. Not a test: a machine at work on
something else decides the figures.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))
NUM = 4


def main() -> None:
  """Prints one line for each way to start."""
  model = sys.argv[1] if len(sys.argv) > 1 else "world_apprentice"
  steps = sys.argv[2:3]
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    pictures = write_pictures(folder / "pictures")
    command = [
      *(sys.executable, "-m", "suti.cli", "generate"),
      *("--subject", str(pictures), "--prompt", "a dog in the snow"),
      *("--out", str(folder / "out.png"), "--num", str(NUM)),
      *("--model", model),
      *(("--steps", steps[0]) if steps else ()),
    ]
    environment = os.environ | {
      "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")
    }
    print(f"{NUM} pictures by {model}, load {os.getloadavg()[0]:.1f}")
    for title in ("cold", "compiled programs kept"):
      start = time.monotonic()
      subprocess.run(
        command, cwd=ROOT, env=environment, check=True, capture_output=True
      )
      print(f"  the command, {title}: {time.monotonic() - start:.1f} s")
    time_warm(model, pictures, int(steps[0]) if steps else None)


def write_pictures(folder: pathlib.Path) -> pathlib.Path:
  """Four photographs' worth of noise."""
  import numpy as np

  from suti.images import save_png

  rng = np.random.default_rng(0)
  for number in range(4):
    picture = rng.integers(0, 256, (96, 128, 3), np.uint8)
    save_png(folder / f"{number}.png", picture)
  return folder


def time_warm(model: str, pictures: pathlib.Path, steps: int | None) -> None:
  """Times calls in one process: the first compiles."""
  from apprentice.generate import generate
  from apprentice.model import load_apprentice
  from suti.io.image_files import load_image

  start = time.monotonic()
  apprentice = load_apprentice(model)
  images = [load_image(path) for path in sorted(pictures.iterdir())]
  print(f"  loading: {time.monotonic() - start:.1f} s")
  for title in ("first", "second", "third"):
    start = time.monotonic()
    generate(
      apprentice,
      images,
      "a dog in the snow",
      captions=["a dog"] * len(images),
      num=NUM,
      steps=steps,
    )
    print(f"  {title} call: {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
  main()
