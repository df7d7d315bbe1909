# SPDX-License-Identifier: Apache-2.0
"""A tiny workdir for the apprentice's stages, as the stages before leave it."""

import collections
import contextlib
import dataclasses
import itertools
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import apprentice.sample
import apprentice.train
from apprentice.model import declare, save_apprentice
from configs.quickstart import get_config
from suti.io.records import (
  read_records,
  write_examples,
  write_lines,
  write_records,
)
from suti.nn.param import without
from suti.parallel.mesh import flat_mesh, make_mesh
from suti.pipeline.backbone import load_backbone
from suti.runtime.stage import stage
from suti.schema import Candidate, Cluster, Example, Prompt
from tests.tiny import SIZE_PX

TEXTS = ("a dog in the snow", "a dog on the beach", "a red dog", "a wet dog")


def make_config(
  backbone: pathlib.Path,
  *,
  clip: pathlib.Path | str = "world_clip",
  identity: pathlib.Path | str = "world_identity",
  num_devices: int = -1,
  **train,
) -> ConfigDict:
  """The quickstart's smallest config on a tiny random backbone."""
  config = get_config("tiny").unlock()
  config.size_px = SIZE_PX
  config.backbone, config.train.init = str(backbone), str(backbone)
  config.clip, config.identity = str(clip), str(identity)
  config.mesh.data = num_devices
  config.method.num_heads = 2
  config.train.update(batch_size=8, **train)
  # Joint guidance is the least to compile.
  config.apprentice_sample.update(
    batch_size=8,
    num_demonstrations=2,
    guidance_mode="joint",
    guidance=3.0,
    text_guidance=None,
  )
  return config.lock()


@contextlib.contextmanager
def on_devices(num: int):
  """Stages see this many of the emulated devices: fewer compile faster."""
  devices = jax.devices()[:num]

  def few(config, **_):
    return make_mesh(config, devices=devices)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(apprentice.train, "make_mesh", few)
    patch.setattr(apprentice.sample, "flat_mesh", lambda: flat_mesh(devices))
    yield


def draw_picture(rng: np.random.Generator) -> np.ndarray:
  """A disc on a plain ground: something that a tiny net can learn."""
  y, x = np.mgrid[:SIZE_PX, :SIZE_PX] - rng.uniform(5, 11, (2, 1, 1))
  inside = (x**2 + y**2 < 16)[..., None]
  ground, subject = rng.integers(0, 256, (2, 3))
  return np.where(inside, subject, ground).astype(np.uint8)


def draw_examples(num: int, *, num_demonstrations: int = 4) -> list[Example]:
  """Examples that differ in every picture and are distinguished by key."""
  rng = np.random.default_rng(5)
  return [
    Example(
      key=f"{number:012x}",
      cluster=f"c{number:011x}",
      prompt=TEXTS[number % len(TEXTS)],
      image=draw_picture(rng),
      demonstrations=tuple(
        draw_picture(rng) for _ in range(num_demonstrations)
      ),
      captions=tuple(TEXTS[i % len(TEXTS)] for i in range(num_demonstrations)),
      values={"delta_clip": 0.1},
    )
    for number in range(num)
  ]


def write_pack(workdir: pathlib.Path, *, num: int = 8) -> None:
  """experts/pack, finished."""
  folder = workdir / "experts" / "pack"
  write_examples(folder, draw_examples(num), shard_size=4)
  stage(workdir, "experts/pack", {}).finish({"examples": num})


def mean_identity(
  encode, real: dict[str, Sequence], drawn: dict[str, Sequence] | None
) -> float:
  """DreamBench's identity by its definition, one cosine after the other.

  Args:
    encode: pictures -> unit embeddings.
    real: {cluster: its pictures}.
    drawn: {cluster: what was drawn of it}; None is the row "real".
  """
  means = []
  for key, images in real.items():
    theirs = encode(images)
    if drawn is None:
      pairs = [x @ y for x, y in itertools.combinations(theirs, 2)]
    elif key in drawn:
      pairs = [x @ y for x in encode(drawn[key]) for y in theirs]
    else:
      continue
    means.append(np.mean(pairs))
  return float(np.mean(means))


def drawn_by(paths) -> dict[str, list[np.ndarray]]:
  """{cluster: pictures} of files of candidates."""
  found = collections.defaultdict(list)
  for path in paths:
    for candidate in read_records(path, Candidate):
      found[candidate.cluster].append(candidate.image)
  return found


def write_trained(workdir, config):
  """apprentice/train, finished, without training."""
  backbone = load_backbone(config.backbone)
  declared = declare(backbone, name="suti", config=config.method)
  new = without(declared.spec, backbone.params)
  rng = np.random.default_rng(0)
  params = backbone.params | {
    name: rng.normal(size=p.shape, scale=0.5).astype(np.float32)
    for name, p in new.items()
  }
  model = dataclasses.replace(
    declared,
    params=params,
    sampling=config.apprentice_sample.to_dict()
    | {"max_demonstrations": config.train.max_demonstrations},
  )
  save_apprentice(model, workdir / "apprentice" / "train" / "model")
  stage(workdir, "apprentice/train", {}).finish({})


def write_benchmark(workdir: pathlib.Path) -> list[Cluster]:
  """benchmark/experts/{mine,prompts}, finished: two subjects, two prompts."""
  rng = np.random.default_rng(6)
  clusters = [
    Cluster(
      key=f"{number:012x}",
      subject="dog",
      caption="a brown dog",
      images=tuple(draw_picture(rng) for _ in range(3)),
      captions=TEXTS[:3],
      live=True,
      source="here",
    )
    for number in range(2)
  ]
  prompts = [
    Prompt(cluster=cluster.key, prompt=text, skill="attribute")
    for cluster in clusters
    for text in TEXTS[2:]
  ]
  folder = workdir / "benchmark" / "experts"
  write_records(
    folder / "mine" / "clusters.array_record", clusters, kind=Cluster
  )
  write_lines(folder / "prompts" / "prompts.jsonl", prompts)
  for name in ("mine", "prompts"):
    stage(workdir / "benchmark", f"experts/{name}", {}).finish({})
  return clusters
