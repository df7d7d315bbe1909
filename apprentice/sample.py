# SPDX-License-Identifier: Apache-2.0
"""Stage 7: samples the benchmark's subjects from the apprentice, in context.

SuTI (arXiv 2304.00186), section 4: 4 demonstrations, guidance 15. For
comparison, other systems (`apprentice.systems`), such as the base without
demonstrations, sample the same prompts from the same noise. Nothing is
fine-tuned and nothing is scored here.

  reads   apprentice/train/model, benchmark/experts/{mine,prompts}, and label
          where the benchmark's subjects have masks
  writes  apprentice/sample/SYSTEM-00000.array_record: Candidates
  resumes at the shard: an image depends on its own seed alone

  python -m apprentice.sample --config configs/quickstart.py --workdir runs/q
"""

import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from apprentice.generate import make_batch, make_sample_fn, see, weights
from apprentice.model import Apprentice, load_apprentice
from apprentice.start import start_params
from apprentice.systems import MODELS, Request, list_requests
from suti.images import to_u8
from suti.io.files import read_json, write_json
from suti.io.records import read_lines, read_records, write_records
from suti.nn.param import functional
from suti.parallel.mesh import (
  batch_sharding,
  check_batch,
  flat_mesh,
  replicated,
)
from suti.pipeline.backbone import Params, load_backbone
from suti.pipeline.conditioning import apply_denoiser
from suti.runtime.stage import main, progress, stage
from suti.schema import Candidate, Cluster, Label, Prompt, content_key

# B images of a batch.

BENCHMARK = "benchmark"  # the folder of a workdir where its subjects lie
BENCHMARK_STAGES = ("benchmark/experts/mine", "benchmark/experts/prompts")
_SHARD_BATCHES = 8  # about a minute of work on two cores


def run(config: Any, workdir: Path) -> dict:
  """Samples every prompt of every benchmark subject.

  Args:
    config: apprentice_sample, backbone, train.init, seed.
    workdir: with the stages that this one reads.

  Returns: how many images, and seconds an image without compilation.

  Raises:
    ValueError: a stage before this one is not finished.
  """
  sampling = config.apprentice_sample
  clusters, prompts = read_benchmark(workdir)
  current = stage(
    workdir,
    "apprentice/sample",
    {"apprentice_sample": sampling, "seed": config.seed},
    reads=("apprentice/train", *BENCHMARK_STAGES, *_labels(workdir)),
  )
  if current.done is not None:
    return current.done
  mesh = flat_mesh()
  check_batch("config.apprentice_sample.batch_size", sampling.batch_size, mesh)
  apprentice = load_apprentice(workdir / "apprentice" / "train" / "model")
  systems = list(sampling.systems)
  if "before" in systems and not config.train.num_steps:
    systems.remove("before")
    print("Nothing was trained: 'before' would be 'apprentice', left out.")
  masks = read_masks(workdir, clusters)
  requests = {
    name: list_requests(
      clusters,
      prompts,
      system=name,
      num_demonstrations=sampling.num_demonstrations,
      images_each=sampling.images_per_prompt,
      seed=config.seed,
      masks=masks,
    )
    # Those of one model after another: it is compiled once, and then freed.
    for name in sorted(systems, key=list(MODELS).index)
  }
  (num,) = {len(rows) for rows in requests.values()}
  summary: dict[str, Any] = {
    "images": num,
    "systems": systems,
    "demonstrations": sampling.num_demonstrations,
  }
  if "copy" in requests:
    _copy_all(requests.pop("copy"), current.folder)
  sampler = _Sampler(apprentice, sampling, mesh)
  for model, names in itertools.groupby(requests, key=MODELS.__getitem__):
    if model == "before":
      sampler.take(
        start_params(
          apprentice, config.train, base=config.backbone, seed=config.seed
        )
      )
    elif model == "base":
      system = without_subjects(apprentice, base=config.backbone)
      sampler = _Sampler(system, of_base(sampling), mesh)
    for name in names:
      times = _sample_all(sampler, requests[name], current.folder, name=name)
      prefix = "" if name == "apprentice" else f"{name}_"
      summary[f"{prefix}seconds_per_image"] = times["seconds"] / num
      summary[f"{prefix}seconds_to_compile"] = times["compile"]
  return current.finish(summary)


def read_benchmark(workdir: Path) -> tuple[dict[str, Cluster], list[Prompt]]:
  """The held-out subjects by key, and their prompts in order.

  Raises:
    ValueError: they have not been made.
  """
  for name in BENCHMARK_STAGES:
    if not (workdir / name / "done.json").is_file():
      raise ValueError(
        f"{workdir / name} is not finished: `suti run` makes the benchmark's "
        "subjects there (config.benchmark) before it samples; run it with the "
        "same --config and --workdir."
      )
  folder = workdir / BENCHMARK / "experts"
  clusters = read_records(folder / "mine" / "clusters.array_record", Cluster)
  prompts = read_lines(folder / "prompts" / "prompts.jsonl", Prompt)
  return {cluster.key: cluster for cluster in clusters}, list(prompts)


def _labels(workdir: Path) -> list[str]:
  """The stage of the benchmark's labels, if it was run."""
  name = f"{BENCHMARK}/experts/label"
  return [name] if (workdir / name / "done.json").is_file() else []


def read_masks(
  workdir: Path, clusters: Mapping[str, Cluster]
) -> dict[str, list[np.ndarray]]:
  """{cluster: where the subject is in each picture}; {} without labels.

  All of a picture in which it was not found.
  """
  masks: dict[str, list[np.ndarray]] = {}
  for name in _labels(workdir):
    masks = {
      key: [np.ones(image.shape[:2], bool) for image in cluster.images]
      for key, cluster in clusters.items()
    }
    for file in sorted((workdir / name).glob("part-*.array_record")):
      for label in read_records(file, Label):
        if label.masks and label.key in masks:
          masks[label.key][label.number] = label.masks[0]
  return masks


def without_subjects(apprentice: Apprentice, *, base: str) -> Apprentice:
  """The base model as an apprentice: same texts, no demonstrations."""
  backbone = load_backbone(base)
  spec, apply = functional(backbone.unet)
  return dataclasses.replace(
    apprentice,
    method=dataclasses.replace(
      apprentice.method,
      encode=lambda apply, params, batch: None,
      # The net has nothing of the method, so that it is called as it is.
      denoise=lambda apply, params, x, t, text, context: apply_denoiser(
        apply, params, x, t, text
      ),
      refresh=None,
    ),
    backbone=backbone,
    spec=spec,
    apply=apply,
    params=backbone.params,
  )


def of_base(sampling: Any) -> Any:
  """`config.apprentice_sample` for the base: its text alone guides."""
  return ConfigDict(
    sampling.to_dict()
    | {
      "guidance_mode": "joint",
      "guidance": sampling.base_guidance,
      "text_guidance": None,
      "guidance_ramp": 0.0,
      "guidance_until": 0.0,
    }
  )


def _copy_all(rows: Sequence[Request], folder: Path) -> None:
  """Writes a demonstration as each image, in turn."""
  candidates = [
    _candidate(row, row.images[row.number % len(row.images)], guidance=0.0)
    for row in rows
  ]
  write_records(folder / "copy-00000.array_record", candidates, kind=Candidate)


def _candidate(
  row: Request, image_u8_HWC: np.ndarray, *, guidance: float
) -> Candidate:
  """The record of an image."""
  return Candidate(
    key=content_key(row.cluster.key, row.prompt.prompt, row.seed, image_u8_HWC),
    cluster=row.cluster.key,
    prompt=row.prompt.prompt,
    skill=row.prompt.skill,
    image=image_u8_HWC,
    seed=row.seed,
    guidance=guidance,
  )


def _sample_all(
  sampler: "_Sampler", rows: Sequence[Request], folder: Path, *, name: str
) -> dict[str, float]:
  """Samples the missing shards; a shard is a file of images and its times.

  Returns: seconds spent sampling and compiling, of this run and earlier ones.
  """
  size = _SHARD_BATCHES * sampler.batch_size
  starts = range(0, len(rows), size)
  paths = [
    folder / f"{name}-{number:05d}.array_record"
    for number in range(len(starts))
  ]
  todo = [
    (path, rows[start : start + size])
    for path, start in zip(paths, starts, strict=True)
    if not _times(path).is_file()
  ]
  num_todo = sum(len(shard) for _, shard in todo)
  with progress(len(rows), f"sample {name}", done=len(rows) - num_todo) as bar:
    for path, shard in todo:
      sampler.seconds = sampler.compile = 0.0
      candidates = []
      for batch in _blocks(shard, sampler.batch_size):
        candidates += sampler(batch)
        bar.update(len(batch))
      write_records(path, candidates, kind=Candidate)
      write_json(
        _times(path), {"seconds": sampler.seconds, "compile": sampler.compile}
      )
  times = [read_json(_times(path)) for path in paths]
  return {key: sum(t[key] for t in times) for key in ("seconds", "compile")}


def _times(path: Path) -> Path:
  return path.with_suffix(".json")


def _blocks(rows: Sequence[Request], size: int) -> Iterator[Sequence[Request]]:
  for start in range(0, len(rows), size):
    yield rows[start : start + size]


class _Sampler:
  """Samples batches of one shape: compiled once, which is timed apart."""

  def __init__(self, system: Apprentice, sampling: Any, mesh: Mesh):
    self.seconds = self.compile = 0.0
    self.batch_size = sampling.batch_size
    self._system, self._sampling = system, sampling
    self._whole, self._rows = replicated(mesh), batch_sharding(mesh)
    self.take(system.params)
    self._vae_params = jax.device_put(system.backbone.codec.params, self._whole)
    self._null_text = jax.device_put(system.backbone.null_text(), self._whole)
    self._compiled: Any = None
    self._seen: Any = None

  def take(self, params: Params) -> None:
    """Samples with these arrays from now on, by the same program."""
    self._params = jax.device_put(params, self._whole)

  def _see(self, images: Sequence[np.ndarray]) -> list[Any]:
    """What the method sees of pictures, once for all images of a subject."""
    if self._seen is None or self._seen[0] is not images:
      self._seen = (images, see(self._system, images))
    return self._seen[1]

  def __call__(self, rows: Sequence[Request]) -> list[Candidate]:
    padded = [*rows, *[rows[-1]] * (self.batch_size - len(rows))]
    shown = self._sampling.num_demonstrations
    batch = make_batch(
      self._system,
      [(row.text, self._see(row.images), row.captions) for row in padded],
      num_demonstrations=shown,
      masks=[row.masks for row in padded],
    )
    seeds_B = np.asarray([row.seed for row in padded], np.uint32)
    arguments = (
      self._params,
      self._vae_params,
      jax.device_put(batch, self._rows),
      self._null_text,
      jax.device_put(seeds_B, self._rows),
      jax.device_put(weights(self._sampling), self._whole),
    )
    if self._compiled is None:
      start = time.monotonic()
      sample_images = jax.jit(make_sample_fn(self._system, self._sampling))
      self._compiled = sample_images.lower(*arguments).compile()
      self.compile += time.monotonic() - start
    start = time.monotonic()
    image_u8_BHWC = to_u8(np.asarray(self._compiled(*arguments)))
    self.seconds += time.monotonic() - start
    return [
      _candidate(row, image, guidance=float(self._sampling.guidance))
      for row, image in zip(rows, image_u8_BHWC, strict=False)
    ]


if __name__ == "__main__":
  main("apprentice.sample", run)
