# SPDX-License-Identifier: Apache-2.0
"""A tiny workdir for the teacher's stages, and fakes of their models."""

import hashlib
import pathlib

import numpy as np
from ml_collections import ConfigDict

from configs.quickstart import get_config
from experts.clusters import write_clusters
from suti.evaluation.scores import Scorer
from suti.io.records import write_lines
from suti.runtime.stage import stage
from suti.schema import Cluster, Prompt, content_key
from tests.tiny import SIZE_PX

CAPTIONS = ("a dog in the snow", "a dog on the beach", "a dog", "a wet dog")
PROMPTS = ("a red dog", "a dog wearing a red hat", "a shiny dog")


def make_config(models: dict[str, pathlib.Path], **finetune) -> ConfigDict:
  """The quickstart's smallest config on tiny random models."""
  config = get_config("tiny").unlock()
  config.size_px = SIZE_PX
  config.update({name: str(path) for name, path in models.items()})
  config.mine.max_images = 4
  config.finetune.update(
    num_steps=4,
    batch_size=2,
    experts_per_wave=16,
    checkpoint_every=2,
    inner="vmap",
    sample_after_tuning=False,
  )
  config.finetune.update(finetune)
  return config.lock()


def draw_pictures(
  seed: int, num: int, *, size_px: int = SIZE_PX
) -> tuple[np.ndarray, ...]:
  """Noise around a colour of the seed's own."""
  rng = np.random.default_rng(seed)
  colour = rng.integers(40, 216, 3)
  return tuple(
    (colour + rng.integers(-20, 20, (size_px, size_px, 3))).astype(np.uint8)
    for _ in range(num)
  )


def make_clusters(num: int, *, size_px: int = SIZE_PX) -> list[Cluster]:
  """Clusters of three or four pictures, in the order of their keys."""
  clusters = []
  for seed in range(num):
    images = draw_pictures(seed, 3 + seed % 2, size_px=size_px)
    clusters.append(
      Cluster(
        key=content_key(*images),
        subject="dog",
        caption="a brown dog",
        images=images,
        captions=CAPTIONS[: len(images)],
        live=True,
        source=f"page-{seed}",
      )
    )
  return sorted(clusters, key=lambda cluster: cluster.key)


def write_stages(workdir: pathlib.Path, clusters: list[Cluster]) -> None:
  """experts/mine and experts/prompts, finished; one to three prompts each."""
  keys = [cluster.key for cluster in clusters]
  write_clusters(workdir / "experts/mine", keys, iter(clusters))
  prompts = [
    Prompt(cluster=cluster.key, prompt=text, skill="attribute")
    for number, cluster in enumerate(clusters)
    for text in PROMPTS[: 1 + number % 3]
  ]
  write_lines(workdir / "experts/prompts/prompts.jsonl", prompts)
  for name in ("mine", "prompts"):
    stage(workdir, f"experts/{name}", {}).finish({})


def unit(x_BD: np.ndarray) -> np.ndarray:
  x_BD = np.asarray(x_BD, np.float32)
  return x_BD / np.linalg.norm(x_BD, axis=-1, keepdims=True)


def colour_scorer() -> Scorer:
  """Judges by mean colour; a text is a direction drawn from its letters."""

  def images(batch):
    return unit([image.mean((0, 1)) - 127.5 for image in batch])

  def texts(batch):
    seeds = [hashlib.blake2s(t.encode(), digest_size=4) for t in batch]
    return unit(
      [
        np.random.default_rng(int(seed.hexdigest(), 16)).normal(size=3)
        for seed in seeds
      ]
    )

  return Scorer(clip_images=images, clip_texts=texts, identity=images)
