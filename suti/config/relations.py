# SPDX-License-Identifier: Apache-2.0
"""What fields of a config must be to each other, and to the machine's files.

`suti.config.options` checks each field alone, then calls `check_relations`.
"""

import math
import os
import re
import warnings
from collections.abc import Mapping
from typing import Any

from suti.config.rules import parse_rule

# Pairs whose first may not exceed the second.
_ORDERED = (
  ("mine.min_images", "mine.max_images"),
  ("mine.similarity_low", "mine.similarity_high"),
  ("train.min_demonstrations", "train.num_demonstrations"),
  ("train.num_demonstrations", "train.max_demonstrations"),
  ("apprentice_sample.num_demonstrations", "train.max_demonstrations"),
  ("apprentice_sample.num_demonstrations", "benchmark.images_each"),
  ("train.warmup_steps", "train.num_steps"),
  ("benchmark.num_expert_subjects", "benchmark.num_subjects"),
)


def check_relations(config: Mapping[str, Any], *, data: bool) -> None:
  """Checks fields that are valid alone, but not together.

  Args:
    config: the whole config; each field has been checked.
    data: whether its input files must exist.

  Raises:
    ValueError: the first mistake found, in one line.
  """
  _check_order(config)
  _check_tuning(config["finetune"])
  _check_training(config["train"])
  _check_systems(config)
  if data:
    _check_sources(config)
    _check_prompts(config)
  _check_mesh(config)
  _check_patterns(config)
  for section in ("filter", "train"):
    field = f"config.{section}.rule"
    parse_rule(config[section]["rule"] or "", field=field)
  _check_together(config)
  _check_syncd(config["sample"]["syncd"])
  _check_groups(config["pack"], config["sample"])
  _check_labels(config["label"])
  _check_nouns(config)


def _check_labels(label: Mapping[str, Any]) -> None:
  """Checks that a segmenter is named if it is asked for, and the reverse."""
  wanted = [n for n in ("source", "candidates") if label[n] == "segmenter"]
  if wanted and not label["segmenter"]:
    raise ValueError(
      f"config.label.{wanted[0]}='segmenter' and config.label.segmenter='': "
      "name the folder of one, which suti.pretrain.segmenter writes; none is "
      "shipped."
    )
  if label["segmenter"] and not wanted:
    raise ValueError(
      f"config.label.segmenter={label['segmenter']!r} has no effect with "
      f"config.label.source={label['source']!r} and config.label.candidates="
      f"{label['candidates']!r}: leave it out, or set one of them to segmenter."
    )


def _check_together(config: Mapping[str, Any]) -> None:
  """Checks that batches and subjects hold whole groups of images."""
  size, batch = config["sample"]["together"], config["sample"]["batch_size"]
  if batch % size:
    raise ValueError(
      f"config.sample.batch_size={batch} is not a multiple of "
      f"config.sample.together={size}: images that see each other are sampled "
      "in one batch; use a multiple."
    )
  counts = [("prompts.num_per_cluster", "sample.images_per_prompt")]
  if config["benchmark"]["num_expert_subjects"]:
    counts += [("benchmark.num_prompts", "apprentice_sample.images_per_prompt")]
  for pair in counts:
    prompts, images = (
      config[section][name]
      for section, name in (path.split(".") for path in pair)
    )
    if prompts * images % size:
      raise ValueError(
        f"config.{pair[0]}={prompts} times config.{pair[1]}={images} is "
        f"{prompts * images} images a subject, no multiple of "
        f"config.sample.together={size}: change one, so that groups are whole."
      )


def _check_syncd(syncd: Mapping[str, Any]) -> None:
  if syncd["dilate"] is not None and syncd["dilate"] % 2 == 0:
    raise ValueError(
      f"config.sample.syncd.dilate={syncd['dilate']} is even: masks are widened"
      " on all sides alike; use an odd number, 1 does not widen."
    )


def _check_groups(pack: Mapping[str, Any], sample: Mapping[str, Any]) -> None:
  if pack["demonstrations"] == "group" and sample["together"] == 1:
    raise ValueError(
      "config.pack.demonstrations='group' shows images that were sampled in "
      "a target's sight, and config.sample.together=1 samples each alone: set "
      "it to 'cluster', or sample several together."
    )


def _check_order(config: Mapping[str, Any]) -> None:
  def value(path: str) -> Any:
    section, name = path.split(".")
    return config[section][name]

  for small, large in _ORDERED:
    if large == "benchmark.images_each" and (
      config["benchmark"]["source"] == "folder"
    ):
      continue  # A folder's subjects have as many pictures as they have.
    low, high = value(small), value(large)
    if low is not None and low > high:
      raise ValueError(
        f"config.{small}={low!r} is above config.{large}={high!r}: expected "
        "at most that; lower the one or raise the other."
      )


def check_splits(config: Mapping[str, Any]) -> None:
  """Checks that nothing learns from the subjects that it is evaluated on.

  Of a whole run: a stage alone may mine the test split to measure the mining.

  Raises:
    ValueError: experts' subjects are the benchmark's.
  """
  mine, benchmark = config["mine"], config["benchmark"]
  is_world = mine["source"] in ("world", "heldout")
  if (
    is_world
    and benchmark["source"] == "world"
    and mine["split"] == benchmark["split"]
  ):
    other = {"test": "validation", "validation": "test"}[mine["split"]]
    raise ValueError(
      f"config.mine.split={mine['split']!r} is also config.benchmark.split: "
      "expected two splits, as experts' subjects are not those that the result "
      "is evaluated on; mine from 'train', or set "
      f"--config.benchmark.split={other}."
    )


def _check_prompts(config: Mapping[str, Any]) -> None:
  """Checks that lists of prompts exist, where one is named, and the reverse."""
  prompts, path = config["prompts"], config["benchmark"]["prompts"]
  if path and not os.path.isfile(os.path.expanduser(path)):
    raise ValueError(
      f"config.benchmark.prompts={path!r}: expected a file of prompts, CSV or "
      "JSON, and there is none; '' takes DreamBench's."
    )
  if not path and config["benchmark"]["num_prompts"] > 25:
    raise ValueError(
      f"config.benchmark.num_prompts={config['benchmark']['num_prompts']!r}: "
      "expected at most 25, as many as DreamBench has for a subject; more need "
      "a list, config.benchmark.prompts."
    )
  path, is_list = prompts["path"], prompts["source"] == "list"
  if is_list and not os.path.isfile(os.path.expanduser(path)):
    raise ValueError(
      f"config.prompts.path={path!r}: expected a file of prompts, CSV or JSON, "
      "as config.prompts.source='list' says, and there is none; give its path "
      "or set --config.prompts.source=unseen."
    )
  if path and not is_list:
    raise ValueError(
      f"config.prompts.path={path!r} has no effect with config.prompts.source="
      f"{prompts['source']!r}: leave it out, or set "
      "--config.prompts.source=list."
    )


def _check_tuning(tune: Mapping[str, Any]) -> None:
  if 0 < tune["diverged"] <= 1:
    raise ValueError(
      f"config.finetune.diverged={tune['diverged']!r}: expected a number above "
      "1, how many times its first loss an expert's last may be, or 0, which "
      "quarantines none by its loss; 6 is a good value."
    )
  window, num_steps = tune["stop_window"], tune["num_steps"]
  if 2 * window > num_steps:
    raise ValueError(
      f"config.finetune.stop_window={window} is more than half of "
      f"config.finetune.num_steps={num_steps}: two windows are compared, so no "
      "expert would ever stop early; lower it, or set it to 0."
    )


def _check_training(train: Mapping[str, Any]) -> None:
  if train["checkpoint_every"] % train["log_every"]:
    raise ValueError(
      f"config.train.checkpoint_every={train['checkpoint_every']} is not a "
      f"multiple of config.train.log_every={train['log_every']}: a run that "
      "goes on from a checkpoint would log other means; use a multiple."
    )
  shares = ("joint_dropout", "text_dropout", "demonstration_dropout")
  total = sum(train[name] for name in shares)
  if train["exclusive_dropout"] and total > 1:
    raise ValueError(
      f"config.train.{', '.join(shares)} are {total:g} together, and they "
      "exclude each other by config.train.exclusive_dropout=True: expected at "
      "most 1; lower one."
    )
  decay = train["decay"] or 0.0
  steps, warmup = train["num_steps"], train["warmup_steps"]
  if warmup + int(decay * steps) > steps:
    raise ValueError(
      f"config.train.warmup_steps={warmup} and the share "
      f"config.train.decay={decay} of {steps} steps overlap: lower one, or "
      "raise config.train.num_steps."
    )


def _check_systems(config: Mapping[str, Any]) -> None:
  field = "config.apprentice_sample.systems"
  systems = config["apprentice_sample"]["systems"]
  if "apprentice" not in systems:
    raise ValueError(
      f"{field}={tuple(systems)!r}: expected 'apprentice' among them, as the "
      "others are compared with it; add it."
    )
  if len(set(systems)) < len(systems):
    raise ValueError(
      f"{field}={tuple(systems)!r}: expected each once; leave out the repeated."
    )
  if not config["apprentice_sample"]["num_demonstrations"] and (
    shown := [s for s in systems if s in ("copy", "wrong_subject", "shuffled")]
  ):
    raise ValueError(
      f"{field} has {shown[0]!r}, which takes demonstrations, and "
      "config.apprentice_sample.num_demonstrations=0: leave it out, or raise "
      "that."
    )
  benchmark = config["benchmark"]
  others = [s for s in systems if s in ("wrong_subject", "shuffled")]
  # How many a folder holds is known when it is read.
  if (
    others and benchmark["source"] == "world" and benchmark["num_subjects"] < 2
  ):
    raise ValueError(
      f"{field} has {others[0]!r}, which is shown other subjects, and "
      "config.benchmark.num_subjects=1: leave it out, or raise that."
    )


def _check_nouns(config: Mapping[str, Any]) -> None:
  """Checks that classes are asked for of SubjectWorld's held-out subjects."""
  for section, source in (("mine", "heldout"), ("benchmark", "world")):
    given = config[section]
    if given["nouns"] and given["source"] != source:
      raise ValueError(
        f"config.{section}.nouns={given['nouns']} has no effect with "
        f"config.{section}.source='{given['source']}': leave it empty, and put "
        "the subjects that you want into a folder."
      )


def _check_sources(config: Mapping[str, Any]) -> None:
  for section in ("mine", "benchmark"):
    source, path = config[section]["source"], config[section]["path"]
    field = f"config.{section}.path"
    if source in ("world", "heldout"):
      if path:
        warnings.warn(
          f"{field}={path!r} has no effect with config.{section}.source="
          f"'{source}'.",
          stacklevel=3,
        )
      continue
    what = {
      "folder": "a folder of subject folders",
      "table": "a table's file or the folder of its parts",
    }
    exists = os.path.isdir if source == "folder" else os.path.exists
    if not path or not exists(os.path.expanduser(path)):
      raise ValueError(
        f"{field}={path!r}: expected {what[source]}, as config.{section}.source"
        f"={source!r} says, and there is none; give its path or set "
        f"--config.{section}.source=world."
      )


def _check_mesh(config: Mapping[str, Any]) -> None:
  """Checks that the number of devices, where given, divides a batch."""
  mesh = config["mesh"]
  for axis, size in mesh.items():
    if size == 0:
      raise ValueError(
        f"config.mesh.{axis}=0: expected a number of devices, or -1 for those "
        "that are left."
      )
  if sum(size == -1 for size in mesh.values()) > 1:
    raise ValueError(
      f"config.mesh={dict(mesh.items())}: expected -1 for one axis at most; "
      "give the others a number of devices."
    )
  split = [axis for axis in ("data", "fsdp") if mesh[axis] > 1]
  num_devices = math.prod(mesh[axis] for axis in split)
  size = config["train"]["batch_size"]
  if size % num_devices:
    quoted = " x ".join(f"'{axis}'" for axis in split)
    raise ValueError(
      f"config.train.batch_size={size} is not divisible by the {num_devices} "
      f"devices of mesh axis {quoted}: use a multiple of {num_devices} or set "
      f"config.mesh.{split[0]}."
    )


def _check_patterns(config: Mapping[str, Any]) -> None:
  for name in ("sites", "trainable"):
    pattern = config["method"].get(name)
    if not pattern:
      continue
    try:
      re.compile(pattern)
    except re.error as error:
      raise ValueError(
        f"config.method.{name}={pattern!r}: expected a regular expression, but "
        f"{error}; quote or mend it."
      ) from None
