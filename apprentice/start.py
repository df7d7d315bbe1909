# SPDX-License-Identifier: Apache-2.0
"""Initial parameters of the apprentice's training, and its final folder."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from apprentice.model import (
  Apprentice,
  check_base,
  declare,
  is_apprentice,
  read_record,
  save_apprentice,
)
from suti.hf.find import find_model
from suti.hf.weights import load
from suti.io.files import first_difference
from suti.nn.param import functional, init, without
from suti.pipeline.backbone import Params, load_backbone
from suti.runtime.progress import say


def start_params(
  apprentice: Apprentice, train: Any, *, base: str, seed: int
) -> Params:
  """The initial arrays, frozen ones included.

  Args:
    apprentice: declared; its backbone's arrays are not used.
    train: `config.train`. init: an apprentice, to continue from it; or a
      backbone, which gives all but the new layers, and those are initialised at
      random. init_base: where that apprentice is of another base than this one,
      that base; what was learned on it is added to this one's arrays, as task
      vectors are (Ilharco et al., arXiv 2212.04089).
    base: `config.backbone`; a trained apprentice's folder has it no more.
    seed: of the new layers.

  Raises:
    ValueError: no such model, or one that does not fit: of another method, of
      another config.method in more than `encoder_gradient`, of another base.
  """
  folder = find_model(train.init)
  new = without(apprentice.spec, functional(apprentice.backbone.unet)[0])
  known = without(apprentice.spec, new)
  if is_apprentice(train.init):
    check_init(apprentice, folder, init_base=train.init_base)
    params = load(apprentice.spec, folder / "unet")
    if not train.init_base:
      return params
    old = load(known, find_model(train.init_base) / "unet")
    own = load(known, find_model(base) / "unet")
    return params | {n: own[n] + (params[n] - old[n]) for n in known}
  if train.init_base:
    raise ValueError(
      f"config.train.init_base={train.init_base}, but config.train.init="
      f"{train.init} is a backbone: leave init_base empty, or give an "
      "apprentice that was trained from that base as init."
    )
  params = load(known, folder / "unet") | init(new, jax.random.key(seed))
  if apprentice.method.start is None:
    return params
  started = apprentice.method.start(apprentice.config, params)
  assert started.keys() <= new.keys(), "a method starts its own arrays"
  return params | dict(started)


def check_init(
  apprentice: Apprentice, folder: Path, *, init_base: str = ""
) -> None:
  """Refuses to continue from an apprentice that computes something else.

  Args:
    apprentice: declared, as it is to be trained.
    folder: of the apprentice to continue from.
    init_base: the base that it is of, if that is another one.

  Raises:
    ValueError: it is of another method, config.method or base.
  """
  free = ("encoder_gradient", "trainable")  # change nothing but the gradient
  record = read_record(folder)
  then, now = (
    {
      "train": {"method": name},
      "method": {k: v for k, v in method.items() if k not in free},
    }
    for name, method in (
      (record["method"], record["config"]),
      (apprentice.name, apprentice.config),
    )
  )
  if found := first_difference(then, now, "config"):
    field, old, new = found
    raise ValueError(
      f"{field} is {new}, and {old} in config.train.init={folder}: give both "
      "the same, or start from a backbone."
    )
  base = apprentice.backbone
  if init_base:
    base = load_backbone(init_base, weights=False)
  check_base(folder, base)


def take_init(config: Any, folder: Path) -> dict:
  """Writes `config.train.init` untrained, to be sampled and evaluated.

  Args:
    config: the whole config.
    folder: of the stage.

  Returns: the stage's summary.
  """
  backbone = load_backbone(config.backbone, weights=False)
  apprentice = declare(
    backbone, name=config.train.method, config=_method_of(config)
  )
  params = start_params(
    apprentice, config.train, base=config.backbone, seed=config.seed
  )
  write_model(apprentice, params, config, folder)
  return {"steps": 0}


def _method_of(config: Any) -> Any:
  """`config.method` of what is not trained: the apprentice's own.

  But not where its encoder is another, which `config.method` names for those
  who must judge by other ones.
  """
  if not is_apprentice(config.train.init):
    return config.method
  record = read_record(find_model(config.train.init))
  if record["method"] != config.train.method:
    return config.method  # `check_init` refuses it
  now, own = config.method.to_dict(), dict(record["config"])
  if own.get("encoder") != now.get("encoder"):
    return config.method  # `check_init` refuses it
  others = [f"{n} {own[n]}" for n in sorted(own) if own[n] != now.get(n)]
  if others:
    say(
      f"As nothing is trained, config.method is that of {config.train.init}: "
      f"{', '.join(others)}."
    )
  return ConfigDict(own)


def sampling_defaults(sampling: Any) -> dict[str, Any]:
  """`config.apprentice_sample` without what is of the benchmark alone."""
  benchmark = ("systems", "base_guidance")
  return {k: v for k, v in sampling.to_dict().items() if k not in benchmark}


def write_model(
  apprentice: Apprentice, params: Params, config: Any, folder: Path
) -> None:
  """Writes the folder of an apprentice, with its sampling defaults.

  Args:
    apprentice: declared.
    params: its arrays, frozen ones included.
    config: the whole config.
    folder: of the stage; the apprentice's is `model` in it.
  """
  save_apprentice(
    dataclasses.replace(
      apprentice,
      params=params,
      sampling=sampling_defaults(config.apprentice_sample)
      | {"max_demonstrations": config.train.max_demonstrations},
    ),
    folder / "model",
    dtype=config.train.save_dtype,
  )
