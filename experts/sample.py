# SPDX-License-Identifier: Apache-2.0
"""Experts x unseen prompts -> candidates.

SuTI (arXiv 2304.00186), algorithm 1, line 10: each expert draws its cluster's
unseen prompt, DDPM with guidance 30, one picture each. Here experts of a wave
draw together, their weights arguments of one compiled program, mapped as in
`experts.finetune`. A picture follows from cluster, prompt and its number alone,
whatever is drawn beside it.

With `config.finetune.keep_weights=False` a wave's weights are deleted once its
candidates are on disk: the paper keeps samples only. Nothing is judged here.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experts.prompts import read_prompts
from experts.teacher import Teacher, declare, find, open_backbone
from experts.wave_files import (
  load_wave,
  median_time,
  read_experts,
  write_times,
)
from experts.waves import map_experts
from suti.backbone import Backbone
from suti.diffusion.samplers import row_keys
from suti.images import to_u8
from suti.io.records import read_records, write_records
from suti.parallel.mesh import batch_sharding, make_mesh, replicated
from suti.schema import Candidate, Prompt, content_key
from suti.stage import main, progress, stage

# E experts, B rows of one expert drawn at once, H W C image.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """A picture to draw: a prompt, and what its noise is drawn from."""

  prompt: Prompt
  seed: int


def rows_of(prompts: Iterable[Prompt], *, num: int) -> dict[str, list[Row]]:
  """{cluster: its pictures to draw}, `num` for each prompt."""
  rows = collections.defaultdict(list)
  for prompt in prompts:
    for number in range(num):
      key = content_key(prompt.cluster, prompt.prompt, number)
      rows[prompt.cluster].append(Row(prompt=prompt, seed=int(key[:7], 16)))
  return rows


def open_candidates(workdir: Path) -> list[Sequence[Candidate]]:
  """What this stage wrote: a lazily opened file for each wave, in order."""
  files = sorted((workdir / "experts/sample").glob("wave-*.array_record"))
  return [read_records(file, Candidate) for file in files]


def run(config, workdir: Path) -> dict:
  """Writes experts/sample/wave-*.array_record."""
  current = stage(
    workdir,
    "experts/sample",
    {"seed": config.seed, "sample": config.sample},
    reads=["experts/prompts", "experts/finetune"],
  )
  weights = workdir / "experts/finetune"
  names = sorted(path.stem for path in weights.glob("wave-*.json"))
  left = [
    name
    for name in names
    if not (current.folder / f"{name}.array_record").exists()
  ]
  if not config.finetune.keep_weights:
    for name in set(names) - set(left):
      (weights / f"{name}.safetensors").unlink(missing_ok=True)
  if current.done is not None:
    return current.done

  mesh = make_mesh(config.mesh)
  teacher = find(config.finetune.teacher)
  backbone = open_backbone(config)
  apply, trainable, frozen = declare(teacher, backbone, config)
  frozen = jax.device_put(frozen, replicated(mesh))
  vae_params = jax.device_put(backbone.codec.params, replicated(mesh))
  draw = make_draw(teacher, apply, backbone, config, mesh)
  null = backbone.null_text()
  experts = {name: read_experts(weights, name) for name in names}
  rows = rows_of(read_prompts(workdir), num=config.sample.images_per_prompt)
  counts = {n: sum(len(rows[e.cluster]) for e in experts[n]) for n in names}
  # Every wave is filled up to one size, so that one program draws them all.
  size = -(-max(map(len, experts.values())) // mesh.size) * mesh.size
  done = sum(counts[name] for name in set(names) - set(left))
  compiled = False
  with progress(sum(counts.values()), "sample", done=done) as bar:
    for name in left:
      params = load_wave(weights / f"{name}.safetensors", trainable, size=size)
      params = jax.device_put(params, batch_sharding(mesh))
      asked = [rows[e.cluster] for e in experts[name]]
      pictures: list[list[np.ndarray]] = [[] for _ in asked]
      most = max(map(len, asked))
      seconds = []  # of each call that did not compile, a picture
      for start in range(0, most, config.sample.batch_size):
        began = time.monotonic()
        request = make_request(
          asked,
          backbone,
          places=range(start, start + config.sample.batch_size),
          num_experts=size,
        )
        images = to_u8(
          np.asarray(draw(frozen, null, vae_params, params, request))
        )
        num = 0
        for i, wanted in enumerate(asked):
          part = images[i][: max(0, len(wanted) - start)]
          pictures[i].extend(part)
          num += len(part)
        if compiled:
          seconds.append((time.monotonic() - began) / num)
        compiled = True
        bar.update(num)
      candidates = [
        candidate_of(row, image_u8, guidance=config.sample.guidance)
        for expert, wanted, drawn in zip(
          experts[name], asked, pictures, strict=True
        )
        for row, image_u8 in zip(wanted, drawn, strict=True)
        if expert.status == "ok"
      ]
      write_times(current.folder, name, seconds)
      file = current.folder / f"{name}.array_record"
      write_records(file, candidates, kind=Candidate)
      if not config.finetune.keep_weights:
        (weights / f"{name}.safetensors").unlink()

  summary: dict[str, Any] = {
    "candidates": sum(map(len, open_candidates(workdir))),
    "waves": len(names),
  }
  if (each_s := median_time(current.folder)) is not None:
    summary["seconds_per_image"] = each_s
  return current.finish(summary)


def candidate_of(
  row: Row, image_u8: np.ndarray, *, guidance: float
) -> Candidate:
  """The record of a drawn picture."""
  prompt = row.prompt
  return Candidate(
    key=content_key(prompt.cluster, prompt.prompt, row.seed),
    cluster=prompt.cluster,
    prompt=prompt.prompt,
    skill=prompt.skill,
    image=image_u8,
    seed=row.seed,
    guidance=float(guidance),
  )


def make_draw(
  teacher: Teacher, apply, backbone: Backbone, config, mesh: Mesh
) -> Callable[..., jax.Array]:
  """Makes the compiled program; returns it.

  It is (frozen, null, vae_params, params, request) -> images, float32
  (E, B, H, W, C), about [-1, 1]. `null` is the backbone's null text, vae_params
  are its autoencoder's; params and request lead with E.
  """

  def draw_expert(shared, params, request):
    frozen, null, vae_params = shared
    keys_B = row_keys(jax.random.key(config.seed), request["seeds_B"])
    x_BHWC = teacher.propose(
      apply,
      backbone,
      frozen | params,
      {"told": request["told"], "null": null},
      keys_B,
      config.sample,
    )
    return backbone.codec.decode(vae_params, x_BHWC)

  inner = "map" if config.finetune.inner == "map" else "vmap"
  draw_all = map_experts(draw_expert, mesh, inner=inner)
  return jax.jit(
    lambda frozen, null, vae_params, params, request: draw_all(
      (frozen, null, vae_params), params, request
    )
  )


def make_request(
  asked: Sequence[Sequence[Row]],
  backbone: Backbone,
  *,
  places: range,
  num_experts: int,
) -> dict[str, Any]:
  """Some rows of each expert as arrays.

  Args:
    asked: all rows of each real expert, one or more.
    backbone: encodes texts.
    places: B of them; past an expert's last row, that row is drawn again.
    num_experts: E; the last real expert is repeated.

  Returns: `seeds_B` and `told` (see `suti.conditions`), with E in front.
  """
  block = [[rows[min(i, len(rows) - 1)] for i in places] for rows in asked]
  block += block[-1:] * (num_experts - len(block))
  told = backbone.encode_text(
    [row.prompt.prompt for rows in block for row in rows]
  )
  shape = (len(block), len(places))
  return {
    "seeds_B": np.array([[r.seed for r in rows] for rows in block], np.uint32),
    "told": {n: x.reshape(*shape, *x.shape[1:]) for n, x in told.items()},
  }


if __name__ == "__main__":
  main("experts.sample", run)
