# SPDX-License-Identifier: Apache-2.0
"""Times `suti generate`: cold, with compiled programs kept, and warm.

  python tests/benchmarks/time_generate.py [MODEL] [STEPS]

MODEL is a shipped apprentice or a folder; without one, or where none is
shipped, a random apprentice of the shipped size is made. Not a test: a machine
at work on something else decides the figures.
"""

import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))
NUM = 4


def write_random(folder: pathlib.Path) -> pathlib.Path:
  """An apprentice with the shapes of the shipped one and no skill."""
  import jax
  import jax.numpy as jnp
  from ml_collections import ConfigDict

  from apprentice.model import declare, save_apprentice
  from configs.pretrain.text_to_image import get_config
  from configs.quickstart import get_config as get_quickstart
  from suti.backbone import load_backbone
  from suti.io.files import write_json
  from suti.io.weights import save
  from suti.models.clip import declare_clip_text
  from suti.models.unet import declare_unet
  from suti.nn.param import functional, init
  from suti.text import train_tokenizer

  config = get_config()
  base = folder / "base"
  for part, values, module, file in (
    ("unet", config.unet.to_dict(), declare_unet, "diffusion_pytorch_model"),
    ("text_encoder", config.text_encoder.to_dict(), declare_clip_text, "model"),
  ):
    spec, _ = functional(module(values))
    params = init(spec, jax.random.key(0))
    write_json(base / part / "config.json", values)
    save(params, spec, base / part / f"{file}.safetensors", dtype=jnp.float16)
  write_json(
    base / "scheduler" / "scheduler_config.json", config.scheduler.to_dict()
  )
  write_json(base / "model_index.json", {"patch_size": config.patch_size})
  train_tokenizer(
    ["a dog in the snow wearing a red hat"] * 3,
    base / "tokenizer",
    vocab_size=320,
    max_length=config.text_encoder.max_position_embeddings,
  )
  quick = get_quickstart()
  backbone = load_backbone(base)
  apprentice = declare(
    backbone, name="suti", config=ConfigDict(quick.method.to_dict())
  )
  params = init(apprentice.spec, jax.random.key(1)) | backbone.params
  save_apprentice(
    dataclasses.replace(
      apprentice, params=params, sampling=quick.apprentice_sample.to_dict()
    ),
    folder / "apprentice",
    dtype=jnp.float16,
  )
  return folder / "apprentice"


def main() -> None:
  """Prints one line for each way to start."""
  model = sys.argv[1] if len(sys.argv) > 1 else ""
  steps = sys.argv[2:3]
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    shipped = ROOT / "suti" / "pretrained" / "world_apprentice"
    if not model and (shipped / "apprentice.json").is_file():
      model = "world_apprentice"
    model = model or str(write_random(folder))
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
  from suti.images import load_image

  start = time.monotonic()
  apprentice = load_apprentice(model)
  images = [load_image(path) for path in sorted(pictures.iterdir())]
  print(f"  loading: {time.monotonic() - start:.1f} s")
  for title in ("first", "second", "third"):
    start = time.monotonic()
    generate(apprentice, images, "a dog in the snow", num=NUM, steps=steps)
    print(f"  {title} call: {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
  main()
