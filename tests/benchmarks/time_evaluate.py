# SPDX-License-Identifier: Apache-2.0
"""What `suti evaluate` takes beside encoding its pictures.

  python -m tests.benchmarks.time_evaluate [NUM_PICTURES [published]]

Pictures of 30 subjects and 25 prompts, by the shipped encoders, or by random
weights of the published shapes, CLIP ViT-B/32 and DINO ViT-S/16. Encoding alone
is both encoders on the same pictures, read by the same two threads. Then the
whole evaluation, and the same again, which finds all embeddings.
"""

import pathlib
import resource
import sys
import tempfile
import time

import numpy as np

from suti.evaluation.benchmark.embeddings import embed
from suti.evaluation.benchmark.encoders import open_encoders
from suti.evaluation.benchmark.evaluate import Job, evaluate
from suti.evaluation.benchmark.subjects import Benchmark, Subject
from suti.evaluation.folders.pictures import Picture, reading
from suti.evaluation.protocol import Protocol
from suti.images import save_png
from tests import tiny

_SUBJECTS, _PROMPTS, _REFERENCES, _SIZE_PX = 30, 25, 5, 256
_VISION = {
  "num_hidden_layers": 12,
  "image_size": 224,
  "num_channels": 3,
  "hidden_act": "gelu",
  "layer_norm_eps": 1e-6,
}
_DINO = _VISION | {
  "model_type": "vit",
  "qkv_bias": True,
  "patch_size": 16,
  "hidden_size": 384,
  "intermediate_size": 1536,
  "num_attention_heads": 6,
}
_CLIP = tiny.CLIP | {
  "projection_dim": 512,
  "text_config": tiny.TEXT
  | {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "projection_dim": 512,
  },
  "vision_config": _VISION
  | {
    "patch_size": 32,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "projection_dim": 512,
  },
}


def make_reading(folder: pathlib.Path, *, num: int):
  """A folder of noise, `num` pictures in all."""
  rng = np.random.default_rng(0)

  def write(path):
    tile = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    save_png(path, tile.repeat(_SIZE_PX // 16, 0).repeat(_SIZE_PX // 16, 1))
    return path

  subjects = {
    f"s{s}": Subject(
      noun="dog",
      references=tuple(
        write(folder / f"s{s}" / f"{k}.png") for k in range(_REFERENCES)
      ),
      prompts=tuple(f"a dog in scene {p}" for p in range(_PROMPTS)),
      category="live",
    )
    for s in range(_SUBJECTS)
  }
  places = [(s, p) for s in subjects for p in subjects[s].prompts]
  pictures = [
    Picture(
      subject=places[i % len(places)][0],
      prompt=places[i % len(places)][1],
      number=i,
      path=write(folder / "generated" / f"{i}.png"),
    )
    for i in range(num)
  ]
  benchmark = Benchmark(name="noise", subjects=subjects, images_per_prompt=0)
  return reading(pictures, benchmark=benchmark)


def main() -> None:
  """Prints the three times."""
  num = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
  with tempfile.TemporaryDirectory() as place:
    folder = pathlib.Path(place)
    found = make_reading(folder / "pictures", num=num)
    judges: str | pathlib.Path = "world"
    if sys.argv[2:] == ["published"]:
      judges = folder / "encoders"
      tiny.write_clip(judges / "clip", config=_CLIP)
      tiny.write_encoder(judges / "dino", _DINO)
    encoders = open_encoders(judges, Protocol())
    both = {"clip": encoders.clip, "identity": encoders.identity}
    warm = found.pictures[:1]
    embed([p.path for p in warm], both, store=folder / "warm")
    paths = [p.path for p in found.pictures]
    paths += [
      p for s in found.benchmark.subjects.values() for p in s.references
    ]
    started = time.monotonic()
    embed(paths, both, store=folder / "alone")
    seconds = {"encoding alone": time.monotonic() - started}
    job = Job(system="noise", reading=found, encoders=judges)
    for name in ("evaluated", "evaluated again"):
      started = time.monotonic()
      metrics = evaluate(job, folder / "scores")
      seconds[name] = time.monotonic() - started
  print(f"{num} pictures, {metrics['pairs']} pairs:")
  for name, value in seconds.items():
    print(f"  {name:16} {value:7.1f} s  {1000 * value / num:6.1f} ms a picture")
  peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  print(f"  at most {peak_kib / 2**20:.2f} GiB of memory")


if __name__ == "__main__":
  main()
