# SPDX-License-Identifier: Apache-2.0
"""Textual inversion: where the vector stands, what reaches it, what stays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from experts import finetune, sample, teacher
from experts.clusters import write_clusters
from experts.farm import train_step
from experts.farm.text_tokens import text_rows
from experts.farm.waves import wave_data
from experts.teachers.textual_inversion import TEACHER, with_subject
from suti.diffusion.samplers import row_keys
from suti.io.checkpoint import Checkpoints
from suti.io.files import read_json
from suti.io.records import write_lines
from suti.nn.param import functional
from suti.pipeline.backbone import load_backbone
from suti.pipeline.text_encoders import (
  describe_text_encoders,
  open_text_encoders,
  open_tokenizer,
)
from suti.runtime.stage import stage
from suti.schema import Prompt
from tests.experts import inputs
from tests.pipeline import tiny_pipelines

TEXTS = (
  "a red hat in the snow",
  "a hat on the red hat",
  "a photo of a red hat",
)
NOUN = "red hat"  # two tokens
OFFSET = "subject:offset"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
  """The teacher on a base, and some texts as it is given them."""

  backbone: object
  config: object
  apply: object
  trainable: dict
  frozen: dict
  asked: dict

  def params(self, offset_D):
    return self.frozen | {OFFSET: offset_D}


@pytest.fixture(scope="module")
def opened(models):
  backbone = load_backbone(models["backbone"])
  config = inputs.make_config(models, teacher="textual_inversion")
  apply, trainable, frozen = teacher.declare(TEACHER, backbone, config)
  causes = {}
  (rows,) = text_rows(
    {"c": TEXTS},
    {"c": NOUN},
    backbone,
    wanted=TEACHER.asked(config),
    causes=causes,
  )
  assert not causes
  return Opened(
    backbone=backbone,
    config=config,
    apply=apply,
    trainable=trainable,
    frozen=frozen,
    asked={n: np.stack([row[n] for row in rows]) for n in rows[0]}
    | {"conditioning": backbone.encode_text(TEXTS)},
  )


def vector(opened, seed=0):
  (width,) = opened.trainable[OFFSET].shape
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(0, 0.1, width), jnp.float32)


def states(opened, offset_D):
  named = with_subject(opened.apply, opened.params(offset_D), opened.asked)
  return np.asarray(named["conditioning"]["text_BLD"])


def replaced(opened, offset_D):
  """(ids, the table with another vector of "hat", where the noun's hat is)."""
  table_VD = np.array(opened.frozen[f"text:{TABLE}"])
  ids_BL = opened.asked["ids_BL"].copy()
  (hat,) = {int(ids_L[noun_L][-1]) for ids_L, noun_L in _rows(opened)}
  new = int(table_VD.shape[0]) - 1  # a token that none of the texts has
  assert new not in ids_BL
  for ids_L, (_, noun_L) in zip(ids_BL, _rows(opened), strict=True):
    ids_L[np.flatnonzero(noun_L)[-1]] = new
  table_VD[new] = table_VD[hat] + np.asarray(offset_D)
  return ids_BL, table_VD


def _rows(opened):
  return list(zip(opened.asked["ids_BL"], opened.asked["noun_BL"], strict=True))


TABLE = "text_model.embeddings.token_embedding.weight"


def test_one_vector_learns_and_the_base_is_as_it_is(opened):
  assert {n: x.shape for n, x in opened.trainable.items()} == {OFFSET: (16,)}
  spec, _ = functional(opened.backbone.unet)
  (encoder,) = describe_text_encoders(opened.backbone.folder)
  texts = {f"text:{name}" for name in encoder.spec}
  assert set(opened.frozen) == set(spec) | texts
  own = load_file(opened.backbone.folder / "text_encoder/model.safetensors")
  np.testing.assert_array_equal(opened.frozen[f"text:{TABLE}"], own[TABLE])


def test_its_vector_stands_at_the_last_token_of_the_noun(opened):
  """As a word of its own that stands there, and nowhere else, would."""
  offset_D = vector(opened)
  assert opened.asked["noun_BL"].sum(1).tolist() == [2, 2, 2]
  ids_BL, table_VD = replaced(opened, offset_D)
  assert (ids_BL != opened.asked["ids_BL"]).sum(1).tolist() == [1, 1, 1]
  (encoder,) = describe_text_encoders(opened.backbone.folder)
  params = {n: opened.frozen[f"text:{n}"] for n in encoder.spec}
  expected = encoder.apply(params | {TABLE: jnp.asarray(table_VD)}, ids_BL)
  np.testing.assert_allclose(states(opened, offset_D), expected, atol=1e-6)
  # It is read by what comes after it, and by nothing before.
  apart = np.abs(
    states(opened, offset_D) - opened.asked["conditioning"]["text_BLD"]
  ).max(-1)
  for row_L, (_, noun_L) in zip(apart, _rows(opened), strict=True):
    at = np.flatnonzero(noun_L)[-1]
    assert (row_L[at:] > 1e-4).all() and (row_L[:at] < 1e-6).all()


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_states_are_those_of_a_published_encoder_with_another_vector(opened):
  torch = pytest.importorskip("torch", reason="torch is not installed")
  transformers = pytest.importorskip("transformers")
  offset_D = vector(opened)
  ids_BL, table_VD = replaced(opened, offset_D)
  theirs = transformers.CLIPTextModel.from_pretrained(
    opened.backbone.folder / "text_encoder"
  ).eval()
  with torch.no_grad():
    weight = theirs.get_input_embeddings().weight
    weight.copy_(torch.from_numpy(table_VD))
    expected = theirs(torch.from_numpy(ids_BL).long()).last_hidden_state
  np.testing.assert_allclose(
    states(opened, offset_D), expected.numpy(), atol=1e-5
  )


def test_the_losss_gradient_reaches_it_through_the_encoder(opened):
  rng = np.random.default_rng(1)
  shape = (len(TEXTS), *opened.backbone.latent_shape)
  batch = opened.asked | {"x_BHWC": rng.normal(size=shape).astype("float32")}

  @jax.jit
  def value_and_gradient(offset_D, noun_BL):
    return jax.value_and_grad(
      lambda offset_D: TEACHER.loss(
        opened.apply,
        opened.backbone,
        opened.params(offset_D),
        batch | {"noun_BL": noun_BL},
        jax.random.key(3),
        opened.config.finetune,
      )
    )(offset_D)

  noun_BL, offset_D = batch["noun_BL"], vector(opened)
  _, slope_D = value_and_gradient(offset_D, noun_BL)
  assert (np.abs(slope_D) > 1e-9).all()
  along_D = slope_D / jnp.linalg.norm(slope_D)
  ahead, behind = (
    float(value_and_gradient(offset_D + step * along_D, noun_BL)[0])
    for step in (0.1, -0.1)
  )
  np.testing.assert_allclose(
    (ahead - behind) / 0.2, jnp.linalg.norm(slope_D), rtol=0.1
  )
  _, none_D = value_and_gradient(offset_D, np.zeros_like(noun_BL))
  assert not np.asarray(none_D).any()


def test_before_the_first_step_it_samples_the_bases_images(opened):
  request = opened.asked | {"null": opened.backbone.null_text()}
  keys_B = row_keys(jax.random.key(0), np.arange(3, dtype=np.uint32))
  base = teacher.find("dreambooth")

  @jax.jit
  def both(offset_D):
    return [
      record.sample(
        opened.apply,
        opened.backbone,
        opened.params(offset_D),
        request,
        keys_B,
        opened.config.sample,
      )
      for record in (TEACHER, base)
    ]

  ours, bases = both(opened.trainable[OFFSET])
  np.testing.assert_allclose(ours, bases, atol=1e-5)
  ours, bases = both(vector(opened))
  assert np.abs(ours - bases).max() > 1e-4


def test_a_caption_without_the_noun_is_a_cause(opened):
  one, two = inputs.make_clusters(2)
  two = dataclasses.replace(
    two, captions=("a dog", "a teapot", *two.captions[2:])
  )
  causes = {}
  asks = TEACHER.asked(opened.config)
  data = wave_data(
    [one, two, one],
    opened.backbone,
    num_pictures=4,
    seed=0,
    asks=asks,
    causes=causes,
  )
  assert causes == {
    two.key: "the caption 'a teapot' does not name its subject, 'dog'"
  }
  asked = data["asked"]
  assert asked["noun_BL"].shape == asked["ids_BL"].shape == (3, 4, 16)
  assert asked["noun_BL"].sum((1, 2)).tolist() == [4, 0, 4]
  tokenizer = open_tokenizer(opened.backbone.folder)
  num = len(one.captions)
  np.testing.assert_array_equal(
    asked["ids_BL"][2, :num], tokenizer(one.captions)
  )
  # Other teachers are given what they were.
  plain = wave_data([one], opened.backbone, num_pictures=4, seed=0)
  assert set(plain) == {"x_KHWC", "conditioning", "num", "key"}


class KilledError(BaseException):
  """Stands for kill -9."""


def test_a_run_names_who_has_no_noun_and_goes_on_after_a_kill(
  models, tmp_path, monkeypatch
):
  config = inputs.make_config(models, teacher="textual_inversion", num_steps=3)
  clusters = inputs.make_clusters(3)
  captions = ("a teapot", *clusters[1].captions[1:])
  clusters[1] = dataclasses.replace(clusters[1], captions=captions)
  whole, broken = tmp_path / "whole", tmp_path / "broken"
  for workdir in (whole, broken):
    keys = [cluster.key for cluster in clusters]
    write_clusters(workdir / "experts/mine", keys, iter(clusters))
    texts = ("a red dog", "a dog", "a red teapot")
    prompts = [
      Prompt(cluster=key, prompt=text, skill="attribute")
      for key, text in zip(keys, texts, strict=True)
    ]
    write_lines(workdir / "experts/prompts/prompts.jsonl", prompts)
    for name in ("mine", "prompts"):
      stage(workdir, f"experts/{name}", {}).finish({})
  summary = finetune.run(config, whole)
  assert summary["experts"] == 2
  assert summary["quarantined"] == (
    f"{clusters[1].key} (the caption 'a teapot' does not name its subject, "
    "'dog')"
  )
  summary = sample.run(config, whole)
  assert summary["candidates"] == 1
  assert summary["quarantined"] == (
    f"{clusters[2].key} (the prompt 'a red teapot' does not name its subject, "
    "'dog')"
  )
  assert list(load_file(weights_of(whole))) == [OFFSET]

  save = Checkpoints.save

  def save_then_die(checkpoints, step, state, data=None):
    save(checkpoints, step, state, data)
    assert list(state["params"]) == [OFFSET]  # no net is in a checkpoint
    raise KilledError

  with monkeypatch.context() as patch:
    patch.setattr(Checkpoints, "save", save_then_die)
    with pytest.raises(KilledError):
      finetune.run(config, broken)
  steps, make_step = [], train_step.make_step

  def counted(*args):
    step = make_step(*args)
    return lambda *inputs: (steps.append(1), step(*inputs))[1]

  monkeypatch.setattr(train_step, "make_step", counted)
  finetune.run(config, broken)
  assert len(steps) == 1  # of three, of which two were saved
  sample.run(config, broken)
  for path in (
    "finetune/wave-00000.safetensors",
    "finetune/wave-00000.json",
    "sample/wave-00000.json",
    "sample/wave-00000.array_record",
  ):
    ours, theirs = (at / "experts" / path for at in (broken, whole))
    assert ours.read_bytes() == theirs.read_bytes(), path
  (one, *_) = read_json(whole / "experts/finetune/wave-00000.json")["experts"]
  assert (one["teacher"], one["steps"]) == ("textual_inversion", 3)


def weights_of(workdir):
  return workdir / "experts/finetune/wave-00000.safetensors"


@pytest.mark.parametrize(
  ("kind", "read"),
  [
    ("sdxl", "CLIPTextModel and CLIPTextModelWithProjection"),
    ("if1", "T5EncoderModel"),
  ],
)
def test_other_text_encoders_are_refused_in_one_line(kind, read, tmp_path):
  folder = tiny_pipelines.write(kind, tmp_path)
  backbone = type("Base", (), {"folder": folder, "name": kind, "unet": None})
  with pytest.raises(ValueError) as caught:
    TEACHER.declare(backbone, None)
  assert str(caught.value) == (
    "config.finetune.teacher='textual_inversion' learns a vector of one "
    f"CLIP's, and config.backbone='{kind}' reads texts by {read}: take a base "
    "as Stable Diffusion 1 or 2, or another teacher."
  )


def test_offsets_of_nothing_leave_the_encoders_texts(opened):
  """Of a batch by the teacher, as of the base's own encoder with its cache."""
  own = open_text_encoders(opened.backbone.folder)(TEXTS)
  zero_D = opened.trainable[OFFSET]
  # Another program of other rows: 1.5e-6 was seen, of values up to 2.
  np.testing.assert_allclose(states(opened, zero_D), own.states_BLD, atol=1e-5)
