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

from experts.clusters import read_clusters, readable
from experts.farm.expert_model import ExpertModel
from experts.farm.wave_files import write_times
from experts.farm.waves import PICTURES, map_devices, map_experts
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
  """An image to sample: its prompt and the seed of its noise."""

  prompt: Prompt
  seed: int
  group: str | None
  number: int


def rows_of(
  prompts: Iterable[Prompt], *, num: int, seed: int, together: int = 1
) -> dict[str, list[Row]]:
  """The images to sample.

  Args:
    prompts: of all clusters.
    num: images for each prompt.
    seed: of the config.
    together: rows of a cluster, side by side, that see each other.

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
  null = backbone.null_text()
  rows = rows_of(
    read_prompts(workdir),
    num=config.sample.images_per_prompt,
    seed=config.seed,
    together=config.sample.together,
  )
  compiled = False

  def sample_group(
    params, requested, pictures, seconds
  ) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (expert of the group, some of its images), batch by batch."""
    nonlocal compiled
    num_experts = _group_size(params, requested, mesh.size)
    for start in range(0, max(map(len, requested)), config.sample.batch_size):
      began = time.monotonic()
      request = make_request(
        requested,
        backbone,
        slots=range(start, start + config.sample.batch_size),
        num_experts=num_experts,
        pictures=pictures,
      )
      images = np.asarray(
        sample(model.frozen, null, vae_params, params, request)
      )
      left = [max(0, len(wanted) - start) for wanted in requested]
      sampled = [images[i][:num] for i, num in enumerate(left)]
      if compiled:
        seconds.append((time.monotonic() - began) / sum(map(len, sampled)))
      compiled = True
      yield from enumerate(sampled)

  def sample_wave(groups, name: str, experts, folder: Path) -> None:
    requested = [rows[expert["cluster"]] for expert in experts]
    # Of each expert; None once an image is not finite.
    pictures: list[list[np.ndarray] | None] = [[] for _ in requested]
    seconds: list[float] = []  # of each call that did not compile, per image
    # In one call: they are cached, and the encoders leave the device.
    backbone.encode_text([r.prompt.prompt for each in requested for r in each])
    first = 0
    for params in groups:
      num = _group_size(params, requested, mesh.size)
      some = slice(first, first + num)
      for i, sampled in sample_group(
        params,
        requested[some],
        _read_pictures(model, config, workdir, experts[some]),
        seconds,
      ):
        if not np.isfinite(sampled).all():
          pictures[first + i] = None
        elif (kept := pictures[first + i]) is not None:
          kept.extend(to_u8(sampled))
      first += num
      del params  # before the next group is loaded
    write_times(folder, name, seconds)
    _write_candidates(
      folder / name,
      list(zip(experts, requested, pictures, strict=True)),
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


def _read_pictures(
  model: ExpertModel, config, workdir: Path, experts: Sequence[dict]
):
  """The pictures of experts' clusters, if the teacher asks for them."""
  if "pictures" not in model.teacher.asks:
    return None
  keys = [expert["cluster"] for expert in experts]
  found, _ = readable(read_clusters(workdir), keys)
  # An expert whose cluster cannot be read is quarantined: of any pictures.
  neighbour = next(iter(found.values()))
  return encode_pictures(
    [found.get(key, neighbour).images for key in keys], model.backbone, config
  )


def _write_candidates(
  stem: Path, sampled: Sequence[tuple[dict, Sequence[Row], Any]], *, guidance
) -> None:
  """Writes the candidates of a wave, then the record that it was sampled.

  Args:
    stem: of the wave's files.
    sampled: for each expert its rows and its images; None instead of images
      quarantines it. Those without status ok are passed over.
    guidance: the weight they were sampled with.
  """
  sampled = [each for each in sampled if each[0]["status"] == "ok"]
  num = write_records(
    stem.with_name(f"{stem.name}.array_record"),
    (
      candidate_of(row, image_u8, guidance=guidance)
      for _, rows, pictures in sampled
      if pictures is not None
      for row, image_u8 in zip(rows, pictures, strict=True)
    ),
    kind=Candidate,
  )
  quarantined = [
    {"cluster": expert["cluster"], "cause": "a picture is not finite"}
    for expert, _, pictures in sampled
    if pictures is None
  ]
  write_json(
    stem.with_name(f"{stem.name}.json"),
    {"candidates": num, "quarantined": quarantined},
  )


def candidate_of(
  row: Row, image_u8: np.ndarray, *, guidance: float
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
  )


def make_sample(
  teacher: Teacher, apply, backbone: Backbone, config, mesh: Mesh, *, inner: str
) -> Callable[..., jax.Array]:
  """Makes the compiled program; returns it.

  It is (frozen, null, vae_params, params, request) -> images, float32
  (E, B, H, W, C), about [-1, 1]. `null` is the backbone's null text, vae_params
  are its autoencoder's; params and request lead with E.
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
    x_EBHWC = sample_all((frozen, null), params, request)
    return decode_all(vae_params, x_EBHWC)

  return jax.jit(sample_wave)


def make_request(
  requested: Sequence[Sequence[Row]],
  backbone: Backbone,
  *,
  slots: range,
  num_experts: int,
  pictures: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
  """Some rows of each expert as arrays.

  Args:
    requested: all rows of each expert, one or more, without padding.
    backbone: encodes texts.
    slots: B row numbers; past an expert's last row, that row is repeated.
    num_experts: E; the last expert is repeated as padding.
    pictures: of `encode_pictures`, if the teacher asks for them.

  Returns: `seeds_B`, what `pictures` holds, and `conditioning` (see
    `suti.pipeline.conditioning`), with E in front.
  """
  block = [[rows[min(i, len(rows) - 1)] for i in slots] for rows in requested]
  block += block[-1:] * (num_experts - len(block))
  conditioning = backbone.encode_text(
    [row.prompt.prompt for rows in block for row in rows]
  )
  shape = (len(block), len(slots))
  rows_E = np.minimum(np.arange(num_experts), len(requested) - 1)
  shown = {name: x_E[rows_E] for name, x_E in (pictures or {}).items()}
  return shown | {
    "seeds_B": np.array([[r.seed for r in rows] for rows in block], np.uint32),
    "conditioning": {
      n: x.reshape(*shape, *x.shape[1:]) for n, x in conditioning.items()
    },
  }


def encode_pictures(
  images: Sequence[Sequence[np.ndarray]], backbone: Backbone, config
) -> dict[str, np.ndarray]:
  """The pictures of some clusters as a request holds them.

  Returns: `pictures_KHWC`, as latents, and `pictures_K`, which of them there
    are, with E in front; K is the same for all clusters of a config.
  """
  num = max(config.mine.max_images, PICTURES)
  x_EKHWC = np.zeros((len(images), num, *backbone.latent_shape), np.float32)
  is_there_EK = np.zeros((len(images), num), bool)
  flat = backbone.encode_pictures([image for each in images for image in each])
  start = 0
  for index, each in enumerate(images):
    x_EKHWC[index, : len(each)] = flat[start : start + len(each)]
    is_there_EK[index, : len(each)] = True
    start += len(each)
  return {"pictures_KHWC": x_EKHWC, "pictures_K": is_there_EK}


def no_pictures(
  teacher: Teacher, backbone: Backbone, config
) -> dict[str, np.ndarray] | None:
  """The same of one cluster without a picture: its shapes, for plans."""
  if "pictures" not in teacher.asks:
    return None
  num = max(config.mine.max_images, PICTURES)
  shape = (1, num, *backbone.latent_shape)
  return {
    "pictures_KHWC": np.zeros(shape, np.float32),
    "pictures_K": np.zeros((1, num), bool),
  }
