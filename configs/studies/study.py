# SPDX-License-Identifier: Apache-2.0
"""What all studies have, and the runs that most of them are variants of."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from configs import quickstart
from configs.apprentice import world

# Examples to learn from, made before; docs/findings.md has the commands.
TRUE_RENDERS = "runs/world/examples/shards"
SAME_CLASS = "runs/same_class/examples/shards"
EXPERTS = "runs/teachers/experts/pack"
SETS = "runs/sets/experts/pack"


def make_study(
  *,
  title: str,
  question: str,
  paper: str,
  run: ConfigDict,
  variants: Mapping[str, Mapping[str, Any]],
  reference: str = "",
  x: str = "",
) -> ConfigDict:
  """A study's config.

  Args:
    title: of its section on the page.
    question: what it asks, a sentence.
    paper: what a paper reports, with its number, or that it reports none.
    run: the config that variants change.
    variants: {name: {"row": what its row is called, "x": its place on a curve,
      "systems": whose images are its rows, if not the study's, section: {field:
      value}}}; all but sections may be absent.
    reference: name of the row that others are compared with; "" is the first.
    x: what x is; "" draws no curve.
  """
  study = ConfigDict()
  study.title, study.question, study.paper = title, question, paper
  study.reference, study.x = reference, x
  study.seeds = (0, 1)
  # Whose images are rows, of each variant; see apprentice/systems.py.
  study.systems = ("apprentice",)
  study.labels = ConfigDict()  # of systems
  study.measures = (
    *("retrieval", "questions", "sharpness"),
    *("identity", "clip_t", "copying", "diversity"),
  )
  study.run = run
  study.variants = ConfigDict({n: dict(v) for n, v in variants.items()})
  study.order = tuple(variants)  # a ConfigDict goes by the alphabet
  return study.lock()


def of_training(arg: str) -> ConfigDict:
  """Runs that train an apprentice from the base, on examples made before.

  Args:
    arg: "" or "tiny".
  """
  return trained(world.get_config(arg), arg, examples=EXPERTS)


def trained(config: ConfigDict, arg: str, *, examples: str) -> ConfigDict:
  """Runs that train an apprentice of any config, on examples made before.

  Args:
    config: of the apprentice.
    arg: "" or "tiny".
    examples: the folder of `experts.pack`.
  """
  run = ConfigDict(config).unlock()
  run.train.examples = (examples,)
  # What is learned is measured by images of the benchmark; none is held out, so
  # that an example counts.
  run.train.validation_clusters = 0
  # Few steps: variants are compared with each other, after as many steps each.
  if arg != "tiny":
    run.train.num_steps, run.train.checkpoint_every = 1_500, 250
  return _evaluated(run, arg)


def of_sampling(arg: str) -> ConfigDict:
  """Runs that sample and evaluate the shipped apprentice as it is.

  Args:
    arg: "" or "tiny".
  """
  config = ConfigDict(quickstart.get_config(arg)).unlock()
  config.train.init = "world_apprentice"
  config.method.update(features="encoder", positions=False)  # of this one
  return sampled(config, arg)


def sampled(config: ConfigDict, arg: str) -> ConfigDict:
  """Runs that sample and evaluate the apprentice of any config as it is.

  Args:
    config: of the apprentice, whose folder is `train.init`.
    arg: "" or "tiny".
  """
  run = ConfigDict(config).unlock()
  run.train.update(num_steps=0, warmup_steps=0)
  return _evaluated(run, arg)


def _evaluated(run: ConfigDict, arg: str) -> ConfigDict:
  """With the benchmark of a study: test subjects, half of the prompts."""
  run.apprentice_sample.systems = ("apprentice",)
  run.benchmark.num_expert_subjects = 0
  if arg != "tiny":
    run.benchmark.update(num_subjects=30, num_prompts=12, images_each=5)
    run.apprentice_sample.batch_size = 32
  return run
