# SPDX-License-Identifier: Apache-2.0
"""docs/one_example.md: each name, shape and dtype is what the code makes.

Most programs are not run but traced for shapes, on one device, with
`configs/quickstart.py:tiny` and the shipped models.
"""

import dataclasses
import pathlib
import re

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from apprentice.fields import make_fields, to_latents
from apprentice.generate import make_batch, make_sample_fn, weights
from apprentice.model import declare
from configs import quickstart
from experts import teacher
from experts.farm import sampling, train_step, waves
from suti.evaluation.scores import delta_clip, load_scorer
from suti.nn.param import shapes
from suti.parallel.mesh import described, many
from suti.pipeline.backbone import load_backbone
from suti.pipeline.conditioning import apply_denoiser
from suti.schema import Candidate, Cluster, Example, Prompt

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "one_example.md"
PICTURE = np.zeros((64, 64, 3), np.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
  """What the stages of the page have in common."""

  config: object
  backbone: object
  mesh: Mesh
  apply: object
  trainable: dict
  apprentice: object


@pytest.fixture(scope="module")
def world():
  config = quickstart.get_config("tiny")
  backbone = load_backbone(config.backbone)
  found = teacher.find(config.finetune.teacher)
  apply, trainable, frozen = teacher.declare(found, backbone, config)
  assert not frozen
  return World(
    config=config,
    backbone=backbone,
    mesh=Mesh(np.array(jax.devices()[:1]), ("data",)),
    apply=apply,
    trainable=trainable,
    apprentice=declare(backbone, name="suti", config=config.method),
  )


def page() -> dict[str, tuple]:
  """{name: (shape, dtype)} of the page's rows."""
  rows = re.findall(
    r"^\| `(.+?)`(.*?) \| (\([\d, ]*\)) \| (\w+) \|",
    PAGE.read_text(encoding="utf-8"),
    re.M,
  )
  return {
    name + more: (tuple(map(int, re.findall(r"\d+", shape))), dtype)
    for name, more, shape, dtype in rows
  }


def of(x) -> tuple:
  return tuple(x.shape), str(np.dtype(x.dtype))


def mined() -> dict:
  cluster = Cluster(
    key="0" * 12,
    subject="bowl",
    caption="a bowl",
    images=(PICTURE,) * 7,
    captions=("a bowl",) * 7,
    live=False,
    source="",
  )
  scorer = load_scorer()
  vectors_KD = scorer.clip_images(cluster.images)
  candidate = Candidate(
    key="0",
    cluster=cluster.key,
    prompt="a bowl in the jungle",
    skill="recontextualization",
    image=PICTURE,
    seed=0,
    guidance=3.0,
  )
  example = Example(
    key="0",
    cluster=cluster.key,
    prompt=candidate.prompt,
    image=candidate.image,
    demonstrations=cluster.images,
    captions=cluster.captions,
    values={"delta_clip": 0.1},
  )
  delta = delta_clip(
    vectors_KD[0],
    vectors_KD,
    scorer.clip_texts([candidate.prompt])[0],
    np.ones(7, bool),
  )
  return {
    "Cluster.images[0]": cluster.images[0],
    "vectors_KD": vectors_KD,
    "Candidate.image": candidate.image,
    "image_GD": scorer.clip_images([PICTURE] * 4),
    "identity_GD": scorer.identity([PICTURE] * 4),
    "delta_clip": delta,
    "Example.image": example.image,
    "Example.demonstrations[0]": example.demonstrations[0],
  }


def tuned(world: World) -> dict:
  config, backbone = world.config.finetune, world.backbone
  num = config.experts_per_wave
  data = waves.describe_wave(
    backbone, num_experts=num, num_pictures=waves.PICTURES
  )
  state = train_step.describe_start(
    world.trainable,
    train_step.make_optimizer(config),
    world.mesh,
    num_experts=num,
    num_steps=config.num_steps,
  )
  assert len(state["params"]) == 301
  assert sum(x.size for x in world.trainable.values()) == 9_343_152
  rows = config.batch_size
  batch = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((rows, *x.shape[2:]), x.dtype),
    {name: data[name] for name in ("x_KHWC", "conditioning")},
  )
  prediction = jax.eval_shape(
    lambda params, batch: apply_denoiser(
      world.apply,
      params,
      batch["x_KHWC"],
      np.zeros(rows, np.int32),
      batch["conditioning"],
    ),
    described(world.trainable),
    batch,
  )
  return {
    "data.x_KHWC": data["x_KHWC"],
    "data.conditioning.text_BLD": data["conditioning"]["text_BLD"],
    "data.num": data["num"],
    "data.key": data["key"],
    'state.params["conv_in.weight"]': state["params"]["conv_in.weight"],
    "state.step_E": state["step_E"],
    "state.loss_ET": state["loss_ET"],
    "batch.x_BHWC": batch["x_KHWC"],
    "batch.conditioning.text_BLD": batch["conditioning"]["text_BLD"],
    "prediction_BHWC": prediction,
  }


def sampled(world: World) -> dict:
  config, backbone = world.config, world.backbone
  num = config.finetune.experts_per_wave
  prompt = Prompt(
    cluster="0", prompt="a bowl in the jungle", skill="recontextualization"
  )
  rows = next(iter(sampling.rows_of([prompt], num=1, seed=0).values()))
  request = sampling.make_request(
    [rows] * num,
    backbone,
    slots=range(config.sample.batch_size),
    num_experts=num,
  )
  sample = sampling.make_sample(
    teacher.find(config.finetune.teacher),
    world.apply,
    backbone,
    config,
    world.mesh,
    inner=config.finetune.inner,
  )
  images = jax.eval_shape(
    sample,
    {},
    backbone.null_text(),
    described(backbone.codec.params),
    many(described(world.trainable), num),
    request,
  )
  return {
    "request.seeds_B": request["seeds_B"],
    "request.conditioning.text_BLD": request["conditioning"]["text_BLD"],
    "images_EBHWC": images,
  }


def trained(world: World) -> dict:
  train, apprentice = world.config.train, world.apprentice
  base = world.backbone.params
  assert len(apprentice.spec) == 365
  assert len(set(apprentice.spec) - set(base)) == 64
  assert sum(p.size for p in apprentice.spec.values()) == 10_205_872
  shown = train.num_demonstrations
  fields = make_fields(
    image=PICTURE,
    prompt="a bowl in the jungle",
    demonstrations=[PICTURE] * shown,
    captions=["a bowl"] * shown,
    num_demonstrations=shown,
    encode_text=world.backbone.encode_text,
    size_px=world.backbone.size_px,
  )
  batch = many(fields, train.batch_size)
  params = described(shapes(apprentice.spec))

  def predict(params, batch):
    batch = to_latents(world.backbone, {}, batch, dtype=np.float32)
    method, t_B = apprentice.method, np.zeros(train.batch_size, np.int32)
    context = method.encode(apprentice.apply, params, batch)
    x_BHWC = batch["image"]
    return (
      x_BHWC,
      context,
      method.denoise(
        apprentice.apply, params, x_BHWC, t_B, batch["text"], context
      ),
    )

  x_BHWC, context, prediction = jax.eval_shape(predict, params, batch)
  keys = {site: kv[0] for site, kv in context["sites"].items()}
  down = "down_blocks.1.attentions.0.transformer_blocks.0"
  middle = "mid_block.attentions.0.transformer_blocks.0"
  return {
    "batch.image": batch["image"],
    "batch.text.text_BLD": batch["text"]["text_BLD"],
    "batch.demonstrations": batch["demonstrations"],
    "batch.demonstration_mask": batch["demonstration_mask"],
    "batch.demonstration_text.text_BLD": (
      batch["demonstration_text"]["text_BLD"]
    ),
    "x_BHWC": x_BHWC,
    'context.sites["down_blocks.1..."][0]': keys[down],
    'context.sites["mid_block..."][0]': keys[middle],
    "prediction_BHWC of the apprentice": prediction,
  }


def sampled_in_context(world: World) -> dict:
  section, apprentice = world.config.apprentice_sample, world.apprentice
  shown, num = section.num_demonstrations, section.batch_size
  row = ("a bowl in the jungle", [PICTURE] * shown, ["a bowl"] * shown)
  rows = make_batch(apprentice, [row] * num, num_demonstrations=shown)
  image = jax.eval_shape(
    make_sample_fn(apprentice, section),
    described(shapes(apprentice.spec)),
    described(world.backbone.codec.params),
    rows,
    world.backbone.null_text(),
    np.zeros(num, np.uint32),
    weights(section),
  )
  return {
    "rows.demonstrations": rows["demonstrations"],
    "rows.demonstration_mask": rows["demonstration_mask"],
    "rows.text.text_BLD": rows["text"]["text_BLD"],
    "image_pm1_BHWC": image,
  }


def test_the_page_has_the_shapes_of_the_code(world):
  made = (
    mined()
    | tuned(world)
    | sampled(world)
    | trained(world)
    | sampled_in_context(world)
  )
  assert page() == {name: of(x) for name, x in made.items()}


def test_the_page_says_how_large_the_nets_are():
  text = PAGE.read_text(encoding="utf-8")
  for number in (
    "301 arrays",
    "9,343,152",
    "365 arrays",
    "64 new",
    "10,205,872",
  ):
    assert number in text, number
