# SPDX-License-Identifier: Apache-2.0
"""Experts x unseen prompts -> candidates.

SuTI (arXiv 2304.00186), algorithm 1, line 10: each expert draws its cluster's
unseen prompt, DDPM with guidance 30, one picture each. Here experts of a wave
draw together, their weights arguments of one compiled program, mapped as in
`experts.finetune`. A picture follows from cluster, prompt and its number alone,
whatever is drawn beside it.

Where `experts.finetune` drew a wave at once, nothing is left to do for it. With
`config.finetune.keep="nothing"` a wave's weights are deleted once its
candidates are on disk: the paper keeps samples only. An expert that draws a
picture with a value that is not finite is quarantined: none of its pictures
count. Nothing else is judged here. As in `experts.finetune`, many processes may
share a workdir.
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

from experts.claims import finished, work
from experts.packing import inner_of
from experts.prompts import read_prompts
from experts.teacher import Teacher, declare, find, open_backbone
from experts.wave_files import (
  load_wave,
  median_time,
  write_times,
)
from experts.waves import map_experts
from suti.backbone import Backbone
from suti.diffusion.samplers import row_keys
from suti.images import to_u8
from suti.io.files import read_json, write_json
from suti.io.records import read_records, write_records
from suti.parallel.mesh import batch_sharding, flat_mesh, replicated
from suti.schema import Candidate, Prompt, content_key
from suti.stage import Stage, main, stage

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
  """What this stage wrote: a lazily opened file for each wave, in order.

  Raises:
    ValueError: one of them is gone, or cannot be read.
  """
  folder = workdir / "experts/sample"
  num = read_json(folder / "done.json")["summary"]["waves"]
  files = [folder / f"wave-{i:05d}.array_record" for i in range(num)]
  for file in files:
    if not file.is_file():
      raise ValueError(
        f"{file} is gone, and with it the candidates of a wave: put it back, or"
        f" delete {file.stem}.json and done.json in {folder} and run"
        " experts.sample again."
      )
  return [read_records(file, Candidate) for file in files]


def open_stage(config, workdir: Path, *, during: str | None = None) -> Stage:
  """Opens the folder of this stage.

  Args:
    config: the whole config.
    workdir: the workdir.
    during: "experts/finetune", if that is what is running.

  Raises:
    ValueError: see `suti.stage.stage`.
  """
  return stage(
    workdir,
    "experts/sample",
    {"seed": config.seed, "sample": config.sample},
    reads=["experts/prompts", "experts/finetune"],
    during=during,
  )


def run(config, workdir: Path) -> dict:
  """Writes experts/sample/wave-*.array_record and wave-*.json."""
  current = open_stage(config, workdir)
  weights = workdir / "experts/finetune"
  names = sorted(finished(weights))
  left = set(names) - finished(current.folder)
  if config.finetune.keep == "nothing":
    for name in set(names) - left:
      (weights / f"{name}.safetensors").unlink(missing_ok=True)
  if current.done is not None:
    return current.done
  if left:
    _draw_waves(config, workdir, names, folder=current.folder)

  records = [read_json(current.folder / f"{name}.json") for name in names]
  lost = [
    f"{row['cluster']} ({row['cause']})"
    for record in records
    for row in record["quarantined"]
  ]
  summary: dict[str, Any] = {
    "candidates": sum(record["candidates"] for record in records),
    "quarantined": ", ".join(lost) or 0,
    "waves": len(names),
  }
  if (each_s := median_time(current.folder)) is not None:
    summary["seconds_per_image"] = each_s
  return current.finish(summary)


def _draw_waves(
  config, workdir: Path, names: Sequence[str], *, folder: Path
) -> None:
  """Draws what nobody has drawn, with weights from the disk."""
  mesh = flat_mesh()
  teacher = find(config.finetune.teacher)
  backbone = open_backbone(config)
  apply, trainable, frozen = declare(teacher, backbone, config)
  frozen = jax.device_put(frozen, replicated(mesh))
  weights = workdir / "experts/finetune"
  draw = make_draw_wave(
    teacher,
    apply,
    backbone,
    frozen,
    config,
    inner=inner_of(config.finetune, weights),
    mesh=mesh,
    workdir=workdir,
  )
  experts = {
    name: read_json(weights / f"{name}.json")["experts"] for name in names
  }
  # Every wave is filled up to one size, so that one program draws them all.
  size = -(-max(map(len, experts.values())) // mesh.size) * mesh.size
  with work(
    folder,
    {name: len(experts[name]) for name in names},
    label="sample",
    lease_s=config.finetune.lease_s,
    grace_s=config.finetune.grace_s,
  ) as farm:
    for claim in farm:
      name = claim.name
      params = load_wave(weights / f"{name}.safetensors", trainable, size=size)
      params = jax.device_put(params, batch_sharding(mesh))
      draw(params, name, experts[name], folder)
      if config.finetune.keep == "nothing":
        (weights / f"{name}.safetensors").unlink(missing_ok=True)


def make_draw_wave(
  teacher: Teacher,
  apply,
  backbone: Backbone,
  frozen,
  config,
  *,
  inner: str,
  mesh: Mesh,
  workdir: Path,
) -> Callable[..., None]:
  """Makes the function that draws and writes the candidates of a wave.

  It is (params, name, experts, folder) -> None: parameters with E in front on
  the devices, the name of the wave, its experts as fields of `Expert` (without
  the padding), and the folder of this stage. `inner` is that of `map_experts`.
  """
  vae_params = jax.device_put(backbone.codec.params, replicated(mesh))
  draw = make_draw(teacher, apply, backbone, config, mesh, inner=inner)
  null = backbone.null_text()
  rows = rows_of(read_prompts(workdir), num=config.sample.images_per_prompt)
  compiled = False

  def draw_wave(params, name: str, experts, folder: Path) -> None:
    nonlocal compiled
    asked = [rows[expert["cluster"]] for expert in experts]
    (num_experts,) = {len(x) for x in params.values()}
    pictures: list[list[np.ndarray]] = [[] for _ in asked]
    spoiled: set[int] = set()
    seconds = []  # of each call that did not compile, a picture
    # All at once: they are remembered, and the encoders leave the device.
    backbone.encode_text([r.prompt.prompt for each in asked for r in each])
    for start in range(0, max(map(len, asked)), config.sample.batch_size):
      began = time.monotonic()
      request = make_request(
        asked,
        backbone,
        places=range(start, start + config.sample.batch_size),
        num_experts=num_experts,
      )
      images = np.asarray(draw(frozen, null, vae_params, params, request))
      num = 0
      for i, wanted in enumerate(asked):
        drawn = images[i][: max(0, len(wanted) - start)]
        num += len(drawn)
        if np.isfinite(drawn).all():
          pictures[i].extend(to_u8(drawn))
        else:
          spoiled.add(i)
      if compiled:
        seconds.append((time.monotonic() - began) / num)
      compiled = True
    good = [i for i, expert in enumerate(experts) if expert["status"] == "ok"]
    write_times(folder, name, seconds)
    num_candidates = write_records(
      folder / f"{name}.array_record",
      (
        candidate_of(row, image_u8, guidance=config.sample.guidance)
        for i in good
        if i not in spoiled
        for row, image_u8 in zip(asked[i], pictures[i], strict=True)
      ),
      kind=Candidate,
    )
    quarantined = [
      {"cluster": experts[i]["cluster"], "cause": "a picture is not finite"}
      for i in good
      if i in spoiled
    ]
    # Last: with it the wave is drawn.
    write_json(
      folder / f"{name}.json",
      {"candidates": num_candidates, "quarantined": quarantined},
    )

  return draw_wave


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
  teacher: Teacher, apply, backbone: Backbone, config, mesh: Mesh, *, inner: str
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
  main("experts.sample", run, how="each")
