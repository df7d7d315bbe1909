# SPDX-License-Identifier: Apache-2.0
"""Samples the candidates of a wave: the loop and its compiled program.

SuTI (arXiv 2304.00186), algorithm 1, line 10: each expert samples its cluster's
unseen prompt. Here the experts of a wave sample together, their weights
arguments of one program, mapped as in `experts.farm.train_step`. An image
depends on cluster, prompt and its number alone, not on the rest of its batch,
and begins with the noise that `apprentice.sample` gives the same image.

The weights come from the caller: `experts.finetune` samples with those on the
devices, `experts.sample` with those on disk.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experts.farm.asked import Asked, open_asked
from experts.farm.expert_model import ExpertModel
from experts.farm.rows import Row, rows_of
from experts.farm.wave_files import write_times
from experts.farm.waves import map_devices, map_experts
from experts.prompts import read_prompts
from experts.teacher import Teacher
from suti.diffusion.samplers import row_keys
from suti.images import square_crop_resize_plane, to_u8
from suti.io.files import write_json
from suti.io.records import write_records
from suti.parallel.mesh import replicated
from suti.pipeline.backbone import Backbone
from suti.pipeline.codec import decode_in_parts
from suti.schema import Candidate, content_key

# E experts, B rows of one expert in a batch, N rows of a device, H W C image.


def make_sample_wave(
  model: ExpertModel, config, *, inner: str, workdir: Path
) -> Callable[..., None]:
  """Makes the function that samples and writes the candidates of a wave.

  It is (groups, name, experts, folder) -> None: parameters with E in front on
  the devices, one group after another, the name of the wave, its experts as
  fields of `Expert` (without the padding of the last group), and the folder of
  `experts.sample`. `inner` is that of `map_experts`.
  """
  backbone, mesh = model.backbone, model.mesh
  vae_params = jax.device_put(backbone.codec.params, replicated(mesh))
  sample = make_sample(
    model.teacher, model.apply, backbone, config, mesh, inner=inner
  )
  null = backbone.null_text(config.sample.negative_prompt)
  ask = open_asked(model.teacher, backbone, config, workdir)
  rows = rows_of(
    read_prompts(workdir),
    num=config.sample.images_per_prompt,
    seed=config.seed,
    together=config.sample.together,
    suffix=config.sample.suffix,
  )
  compiled = False

  def sample_group(
    params, requested, asked, seconds
  ) -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
    """Yields (expert of the group, some of its images), batch by batch.

    Images come alone, or with their masks if the teacher makes them.
    """
    nonlocal compiled
    num_experts = _group_size(params, requested, mesh.size)
    for start in range(0, max(map(len, requested)), config.sample.batch_size):
      began = time.monotonic()
      request = make_request(
        requested,
        backbone,
        slots=range(start, start + config.sample.batch_size),
        num_experts=num_experts,
        asked=asked,
      )
      made = sample(model.frozen, null, vae_params, params, request)
      made = made if model.teacher.masks else (made,)
      made = [np.asarray(each) for each in made]
      left = [max(0, len(wanted) - start) for wanted in requested]
      sampled = [
        tuple(each[i][:num] for each in made) for i, num in enumerate(left)
      ]
      if compiled:
        num = sum(len(each[0]) for each in sampled)
        seconds.append((time.monotonic() - began) / num)
      compiled = True
      yield from enumerate(sampled)

  def sample_wave(groups, name: str, experts, folder: Path) -> None:
    requested = [rows[expert["cluster"]] for expert in experts]
    keys = [expert["cluster"] for expert in experts]
    asked = ask(keys, requested)
    made = [_Made(cause=cause) for cause in asked.causes]
    seconds: list[float] = []  # of each call that did not compile, per image
    # In one call: they are cached, and the encoders leave the device.
    backbone.encode_text([r.text for each in requested for r in each])
    first = 0
    for params in groups:
      num = _group_size(params, requested, mesh.size)
      some = slice(first, first + num)
      for i, sampled in sample_group(
        params,
        requested[some],
        asked.of_experts(some),
        seconds,
      ):
        made[first + i].take(*sampled)
      first += num
      del params  # before the next group is loaded
    write_times(folder, name, seconds)
    _write_candidates(
      folder / name,
      list(zip(experts, requested, made, strict=True)),
      guidance=config.sample.guidance,
    )

  return sample_wave


def _group_size(params, requested: Sequence, num_devices: int) -> int:
  """How many experts a group has, padding included."""
  if params:
    (num,) = {len(x) for x in params.values()}
    return num
  # Nothing is tuned: all experts of the wave, evenly on the devices.
  return -(-len(requested) // num_devices) * num_devices


@dataclasses.dataclass(kw_only=True)
class _Made:
  """What was sampled of one expert.

  Attributes:
    images: uint8, of its rows in order.
    masks: of each, if the teacher makes them.
    cause: why they are not kept; "" if they are.
  """

  images: list[np.ndarray] = dataclasses.field(default_factory=list)
  masks: list[np.ndarray] = dataclasses.field(default_factory=list)
  cause: str = ""

  def take(self, images: np.ndarray, masks: Iterable[np.ndarray] = ()) -> None:
    """Adds some, unless one of them is not finite."""
    if not np.isfinite(images).all():
      self.cause = self.cause or "a picture is not finite"
      return
    self.images.extend(to_u8(images))
    side = images.shape[1]
    self.masks.extend(square_crop_resize_plane(each, side) for each in masks)


def _write_candidates(
  stem: Path,
  sampled: Sequence[tuple[dict, Sequence[Row], _Made]],
  *,
  guidance,
) -> None:
  """Writes the candidates of a wave, then the record that it was sampled.

  Args:
    stem: of the wave's files.
    sampled: for each expert its rows and what was made of them; a cause
      quarantines it. Those without status ok are passed over.
    guidance: the weight they were sampled with.
  """
  sampled = [each for each in sampled if each[0]["status"] == "ok"]
  num = write_records(
    stem.with_name(f"{stem.name}.array_record"),
    (
      candidate_of(row, image_u8, guidance=guidance, mask=mask)
      for _, rows, made in sampled
      if not made.cause
      for row, image_u8, mask in zip(
        rows, made.images, made.masks or [None] * len(rows), strict=True
      )
    ),
    kind=Candidate,
  )
  quarantined = [
    {"cluster": expert["cluster"], "cause": made.cause}
    for expert, _, made in sampled
    if made.cause
  ]
  write_json(
    stem.with_name(f"{stem.name}.json"),
    {"candidates": num, "quarantined": quarantined},
  )


def candidate_of(
  row: Row,
  image_u8: np.ndarray,
  *,
  guidance: float,
  mask: np.ndarray | None = None,
) -> Candidate:
  """The record of a generated image."""
  prompt = row.prompt
  return Candidate(
    key=content_key(prompt.cluster, prompt.prompt, row.seed),
    cluster=prompt.cluster,
    prompt=prompt.prompt,
    skill=prompt.skill,
    image=image_u8,
    seed=row.seed,
    guidance=float(guidance),
    group=row.group,
    number=row.number,
    mask=mask,
  )


def make_sample(
  teacher: Teacher, apply, backbone: Backbone, config, mesh: Mesh, *, inner: str
) -> Callable[..., jax.Array]:
  """Makes the compiled program; returns it.

  It is (frozen, null, vae_params, params, request) -> images, float32
  (E, B, H, W, C), about [-1, 1], and beside them masks, bool (E, B, R, R), if
  the teacher makes them. `null` is the backbone's null text, vae_params are its
  autoencoder's; params and request lead with E.
  """

  def sample_expert(shared, params, request):
    frozen, null = shared
    asked = {n: x for n, x in request.items() if n != "seeds_B"}
    # As `apprentice.generate` has it: the seeds are of config.seed already.
    keys_B = row_keys(jax.random.key(0), request["seeds_B"])
    return teacher.sample(
      apply,
      backbone,
      frozen | params,
      asked | {"null": null},
      keys_B,
      config.sample,
    )

  def decode(vae_params, x_EBHWC):
    x_NHWC = x_EBHWC.reshape(-1, *x_EBHWC.shape[2:])
    images_NHWC = decode_in_parts(backbone.codec, vae_params, x_NHWC)
    return images_NHWC.reshape(*x_EBHWC.shape[:2], *images_NHWC.shape[1:])

  sample_all = map_experts(sample_expert, mesh, inner=inner)
  # Decoded together for all experts of a device: they share the autoencoder,
  # whose activations are many times the size of an image.
  decode_all = map_devices(decode, mesh)

  def sample_wave(frozen, null, vae_params, params, request):
    sampled = sample_all((frozen, null), params, request)
    if not teacher.masks:
      return decode_all(vae_params, sampled)
    x_EBHWC, mask_EBRR = sampled
    return decode_all(vae_params, x_EBHWC), mask_EBRR

  return jax.jit(sample_wave)


def make_request(
  requested: Sequence[Sequence[Row]],
  backbone: Backbone,
  *,
  slots: range,
  num_experts: int,
  asked: Asked | None = None,
) -> dict[str, Any]:
  """Some rows of each expert as arrays.

  Args:
    requested: all rows of each expert, one or more, without padding.
    backbone: encodes texts.
    slots: B row numbers; past an expert's last row, that row is repeated.
    num_experts: E; the last expert is repeated as padding.
    asked: of the same experts, what the teacher asks for.

  Returns: `seeds_B`, what is asked for, and `conditioning` (see
    `suti.pipeline.conditioning`), with E in front.
  """

  def block_of(each):
    block = [[rows[min(i, len(rows) - 1)] for i in slots] for rows in each]
    return block + block[-1:] * (num_experts - len(block))

  block = block_of(requested)
  conditioning = backbone.encode_text(
    [row.text for rows in block for row in rows]
  )
  shape = (len(block), len(slots))
  shown: dict[str, np.ndarray] = {}
  if asked is not None:
    rows_E = np.minimum(np.arange(num_experts), len(requested) - 1)
    shown = {name: x_E[rows_E] for name, x_E in asked.of_cluster.items()}
    beside = block_of(asked.of_rows)
    shown |= {
      name: np.stack([[row[name] for row in rows] for rows in beside])
      for name in beside[0][0]
    }
  return shown | {
    "seeds_B": np.array([[r.seed for r in rows] for rows in block], np.uint32),
    "conditioning": {
      n: x.reshape(*shape, *x.shape[1:]) for n, x in conditioning.items()
    },
  }
