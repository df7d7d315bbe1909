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

import collections
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experts.farm.expert_model import ExpertModel
from experts.farm.requests import Asked, ask
from experts.farm.wave_files import write_times
from experts.farm.waves import map_devices, map_experts
from experts.prompts import read_prompts
from experts.teacher import Teacher
from suti.diffusion.samplers import row_keys
from suti.images import to_u8
from suti.io.files import write_json
from suti.io.records import write_records
from suti.parallel.mesh import replicated
from suti.pipeline.backbone import Backbone
from suti.pipeline.codec import decode_in_parts
from suti.schema import Candidate, Prompt, content_key, image_seed

# E experts, B rows of one expert in a batch, N rows of a device, H W C image.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """An image to sample.

  Attributes:
    prompt: of its candidate.
    text: what it is sampled with, the prompt and `config.sample.suffix`.
    seed: of its noise.
    group: key of its group; None if it is sampled alone.
    number: its place in the group.
  """

  prompt: Prompt
  text: str
  seed: int
  group: str | None
  number: int


def rows_of(
  prompts: Iterable[Prompt],
  *,
  num: int,
  seed: int,
  together: int = 1,
  suffix: str = "",
) -> dict[str, list[Row]]:
  """The images to sample.

  Args:
    prompts: of all clusters.
    num: images for each prompt.
    seed: of the config.
    together: rows of a cluster, side by side, that see each other.
    suffix: what is added to each prompt.

  Returns: {cluster: its rows}.

  Raises:
    ValueError: a cluster's rows are not whole groups.
  """
  rows = collections.defaultdict(list)
  for prompt in prompts:
    for number in range(num):
      index = len(rows[prompt.cluster])
      group = content_key(prompt.cluster, "group", index // together)
      rows[prompt.cluster].append(
        Row(
          prompt=prompt,
          text=prompt.prompt + suffix,
          seed=image_seed(seed, prompt, number),
          group=group if together > 1 else None,
          number=index % together,
        )
      )
  for cluster, each in rows.items():
    if len(each) % together:
      raise ValueError(
        f"Cluster {cluster} has {len(each)} images to sample, no multiple of "
        f"config.sample.together={together}: allow more skills in "
        "config.prompts.skills, or sample fewer together."
      )
  return rows


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
  ) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
    """Yields (expert of the group, some images, their masks), by batches."""
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
      images, masks = _with_masks(
        sample(model.frozen, null, vae_params, params, request), model.teacher
      )
      left = [max(0, len(wanted) - start) for wanted in requested]
      if compiled:
        num_images = sum(min(n, len(images[i])) for i, n in enumerate(left))
        seconds.append((time.monotonic() - began) / num_images)
      compiled = True
      for i, num in enumerate(left):
        yield i, images[i][:num], None if masks is None else masks[i][:num]

  def sample_wave(groups, name: str, experts, folder: Path) -> None:
    requested = [rows[expert["cluster"]] for expert in experts]
    results = [_Sampled(expert=expert) for expert in experts]
    seconds: list[float] = []  # of each call that did not compile, per image
    # In one call: they are cached, and the encoders leave the device.
    backbone.encode_text([r.text for each in requested for r in each])
    first = 0
    for params in groups:
      some = slice(first, first + _group_size(params, requested, mesh.size))
      keys = [expert["cluster"] for expert in experts[some]]
      texts = {key: [row.text for row in rows[key]] for key in keys}
      asked = ask(model.teacher, backbone, config, workdir, texts)
      for result in results[some]:
        result.views = asked.views.get(result.expert["cluster"], ())
        result.cause = asked.causes.get(result.expert["cluster"], "")
      for i, images, masks in sample_group(
        params, requested[some], asked, seconds
      ):
        results[first + i].add(images, masks)
      first = some.stop
      del params  # before the next group is loaded
    write_times(folder, name, seconds)
    _write_candidates(
      folder / name,
      [(each, requested[i]) for i, each in enumerate(results)],
      guidance=config.sample.guidance,
    )

  return sample_wave


@dataclasses.dataclass(kw_only=True)
class _Sampled:
  """What an expert has sampled so far, and why it is not kept, if so."""

  expert: Mapping[str, Any]
  images: list[np.ndarray] = dataclasses.field(default_factory=list)
  masks: list[np.ndarray] = dataclasses.field(default_factory=list)
  views: tuple[int, ...] = ()
  cause: str = ""

  def add(self, images: np.ndarray, masks: np.ndarray | None) -> None:
    """Keeps some images, or none of them if one is not finite."""
    if not np.isfinite(images).all():
      self.cause = self.cause or "a picture is not finite"
    if self.cause:
      self.images.clear()
      self.masks.clear()
      return
    self.images += list(to_u8(images))
    self.masks += [] if masks is None else list(masks)

  def candidates(
    self, rows: Sequence[Row], *, guidance: float
  ) -> Iterator[Candidate]:
    """The records of its images, in the order of its rows."""
    for index, (row, image_u8) in enumerate(
      zip(rows, self.images, strict=True)
    ):
      yield candidate_of(
        row,
        image_u8,
        guidance=guidance,
        mask=self.masks[index] if self.masks else None,
        view=self.views[row.number] if self.views else None,
      )


def _with_masks(
  sampled: Any, teacher: Teacher
) -> tuple[np.ndarray, np.ndarray | None]:
  """Images, and where the subject is in each if the teacher says so."""
  if not teacher.masks:
    return np.asarray(sampled), None
  images, masks = sampled
  return np.asarray(images), np.asarray(masks)


def _group_size(params, requested: Sequence, num_devices: int) -> int:
  """How many experts a group has, padding included."""
  if params:
    (num,) = {len(x) for x in params.values()}
    return num
  # Nothing is tuned: all experts of the wave, evenly on the devices.
  return -(-len(requested) // num_devices) * num_devices


def _write_candidates(
  stem: Path,
  sampled: Sequence[tuple[_Sampled, Sequence[Row]]],
  *,
  guidance: float,
) -> None:
  """Writes the candidates of a wave, then the record that it was sampled.

  Args:
    stem: of the wave's files.
    sampled: for each expert what it sampled, and its rows; one with a cause is
      quarantined. Those without status ok are passed over.
    guidance: the weight they were sampled with.
  """
  sampled = [each for each in sampled if each[0].expert["status"] == "ok"]
  num = write_records(
    stem.with_name(f"{stem.name}.array_record"),
    (
      candidate
      for each, rows in sampled
      if not each.cause
      for candidate in each.candidates(rows, guidance=guidance)
    ),
    kind=Candidate,
  )
  quarantined = [
    {"cluster": each.expert["cluster"], "cause": each.cause}
    for each, _ in sampled
    if each.cause
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
  view: int | None = None,
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
    view=view,
  )


def make_sample(
  teacher: Teacher, apply, backbone: Backbone, config, mesh: Mesh, *, inner: str
) -> Callable[..., jax.Array]:
  """Makes the compiled program; returns it.

  It is (frozen, null, vae_params, params, request) -> images, float32
  (E, B, H, W, C), about [-1, 1]; or images and masks, bool (E, B, H, W), of a
  teacher that makes them. `null` is the backbone's null text, vae_params are
  its autoencoder's; params and request lead with E.
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
    x_EBHWC, share_EBHW = sampled
    images = decode_all(vae_params, x_EBHWC)
    # Of any resolution, such as that of an attention. By the nearest: with
    # `jax.image.resize` in this program XLA made all of a mask False on a CPU.
    mask_EBHW = share_EBHW if share_EBHW.dtype == bool else share_EBHW > 0.5
    for axis in (2, 3):
      side, own = images.shape[axis], mask_EBHW.shape[axis]
      at = ((np.arange(side) + 0.5) * own / side).astype(int)
      mask_EBHW = mask_EBHW.take(at, axis=axis)
    return images, mask_EBHW

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
    asked: of `experts.farm.requests.ask`, of the same experts.

  Returns: `seeds_B`, what `asked` holds, and `conditioning` (see
    `suti.pipeline.conditioning`), with E in front.
  """

  def block_of(each: Sequence[Sequence]) -> list[list]:
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
    shown = {name: x_E[rows_E] for name, x_E in asked.arrays.items()}
    own = block_of(asked.rows)
    for name in own[0][0]:
      shown[name] = np.stack([[row[name] for row in rows] for rows in own])
  return shown | {
    "seeds_B": np.array([[r.seed for r in rows] for rows in block], np.uint32),
    "conditioning": {
      n: x.reshape(*shape, *x.shape[1:]) for n, x in conditioning.items()
    },
  }
