# SPDX-License-Identifier: Apache-2.0
"""A planned program takes what the stage gives the one that it runs."""

import shutil

import jax
import pytest

from experts import finetune, sample
from experts.farm import programs, sampling, train_step
from suti.parallel.mesh import flat_mesh
from suti.pipeline.backbone import describe_backbone
from tests.experts import inputs


class AskedError(Exception):
  """Stands in for the first run of a program."""


def arguments_of(monkeypatch, module, name, run):
  """What a stage calls its program with, instead of compiling it."""

  def record(*arguments):
    raise AskedError(kinds(arguments))

  monkeypatch.setattr(module, name, lambda *_, **__: record)
  with pytest.raises(AskedError) as caught:
    run()
  return caught.value.args[0]


def kinds(arguments):
  """Shape, dtype and place of each array, by its names."""
  return jax.tree.map(
    lambda x: (
      x.shape,
      str(x.dtype),
      getattr(getattr(x, "sharding", None), "spec", None),
    ),
    list(arguments),
  )


@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"teacher": "lora", "rank": 3, "dtype": "bfloat16"},
    {"teacher": "textual_inversion"},
  ],
)
def test_a_step_of_a_wave(models, clusters, tmp_path, monkeypatch, changes):
  inputs.write_stages(tmp_path, clusters[:16])
  config = inputs.make_config(models, **changes)
  taken = arguments_of(
    monkeypatch,
    train_step,
    "make_step",
    lambda: finetune.run(config, tmp_path),
  )
  monkeypatch.undo()
  mesh = flat_mesh()
  backbone = describe_backbone(config.backbone)
  program = programs.finetune(config, backbone, mesh, per_device=2)
  assert kinds(program.arguments) == taken
  assert program.batch_size == program.subjects == 16
  assert program.calls == config.finetune.num_steps


def test_sampling_of_candidates(tuned, tmp_path, monkeypatch):
  whole, config = tuned
  workdir = tmp_path / "drawn"  # Others read what `tuned` made.
  shutil.copytree(whole, workdir)
  taken = arguments_of(
    monkeypatch, sampling, "make_sample", lambda: sample.run(config, workdir)
  )
  monkeypatch.undo()
  program = programs.sample(
    config,
    describe_backbone(config.backbone),
    flat_mesh(),
    per_device=2,
  )
  # A request comes from NumPy as it is: its place is the program's choice.
  *placed, request = kinds(program.arguments)
  *arrays, given = taken
  shapes = [jax.tree.map(lambda x: x[:2], x, is_leaf=_leaf) for x in placed]
  assert shapes == [
    jax.tree.map(lambda x: x[:2], x, is_leaf=_leaf) for x in arrays
  ]
  assert jax.tree.map(lambda x: x[:2], request, is_leaf=_leaf) == (
    jax.tree.map(lambda x: x[:2], given, is_leaf=_leaf)
  )


def _leaf(x):
  return isinstance(x, tuple)


def test_subjects_need_a_call_per_batch_of_prompts(models):
  config = inputs.make_config(models).unlock()
  config.prompts.num_per_cluster = 5
  config.sample.update(images_per_prompt=2, batch_size=4)
  program = programs.sample(
    config.lock(),
    describe_backbone(config.backbone),
    flat_mesh(),
    per_device=1,
  )
  # Ten pictures an expert, four in a batch.
  assert (program.subjects, program.batch_size, program.calls) == (8, 32, 3)
