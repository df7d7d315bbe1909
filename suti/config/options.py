# SPDX-License-Identifier: Apache-2.0
"""Validates a config before anything starts: `check(config)`.

Each message is one line that names the field, its value, the expectation and
the remedy. What is only known later (whether a folder's weights fit, how many
devices there are, the fields of a method's own section) is checked where it is
used.

This file has names and bounds; what fields must be to each other is in
`suti.config.relations`. Neither imports jax or ml_collections: any mapping of
mappings is accepted.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from suti.config.names import REPLACED, suggest
from suti.config.relations import check_relations
from suti.config.samplers import GUIDANCE, OWN
from suti.schema import SKILLS

OPTIMIZERS = ("adafactor", "adam")
SYSTEMS = (
  "apprentice",
  "before",
  "base",
  "text_only",
  "copy",
  "wrong_subject",
  "shuffled",
)
# Those of suti.diffusion.objective, which imports jax.
WEIGHTINGS = (
  "uniform",
  "min_snr",
  "truncated_snr",
  "clamped_snr",
  "snr_plus_one",
)
PLANNED = ("finetune", "sample", "filter", "train", "apprentice_sample")
MAX_PROMPTS = 1000  # prompts a subject; DreamBench has 25
TEMPLATES = ("all", "seen", "held_out")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
  """The type and bounds of one field.

  Attributes:
    kind: int, float (an int is accepted), str, bool, tuple (of str), or dict, a
      section whose fields are not checked here.
    low, high: bounds, inclusive.
    above: a bound that the value must exceed.
    below: a bound that the value must stay under.
    choices: of a text, or of each text in a tuple; empty allows any.
    word: a text that is allowed instead of a number, such as "auto".
    optional: None is allowed.
    empty: whether a text or tuple may be empty.
    remedy: what to do, where "set it" is not enough.
  """

  kind: type
  low: float | None = None
  high: float | None = None
  above: float | None = None
  below: float | None = None
  choices: tuple[str, ...] = ()
  word: str | None = None
  optional: bool = False
  empty: bool = False
  remedy: str = ""


def _count(low: int = 1, **kw: Any) -> Rule:
  return Rule(kind=int, low=low, **kw)


def _number(**kw: Any) -> Rule:
  return Rule(kind=float, **kw)


def _choice(*choices: str, **kw: Any) -> Rule:
  return Rule(kind=str, choices=choices, **kw)


def _text(**kw: Any) -> Rule:
  return Rule(kind=str, **kw)


def _flag(**kw: Any) -> Rule:
  return Rule(kind=bool, **kw)


def _section(**kw: Any) -> Rule:
  return Rule(kind=dict, empty=True, **kw)


_MODEL = _text(
  remedy="name a shipped model, e.g. 'world_base', or a folder in the "
  "published layout"
)
_SAMPLING = {
  "images_per_prompt": _count(),
  "guidance": _number(low=0.0, remedy="1 is no guidance, more is stronger"),
  "sampler": _choice(*OWN),
  "num_steps": _count(high=1000),
  "percentile": _number(
    above=1.0,
    high=100.0,
    optional=True,
    remedy="99.5 (per cent) is Imagen's; None clips without thresholding",
  ),
  "batch_size": _count(),
}
_LOG_SNR = {
  "log_snr_mean": _number(
    optional=True, remedy="a number such as -0.5; None is uniform steps"
  ),
  "log_snr_std": _number(above=0.0),
}
_AXIS = Rule(kind=int, low=-1, remedy="-1 takes the devices that are left")

# Sections of a config and their fields. `method` is open: its other fields are
# defined by the method.
FIELDS: Mapping[str, Mapping[str, Rule]] = {
  "mesh": {"data": _AXIS, "fsdp": _AXIS},
  "mine": {
    "source": _choice("world", "heldout", "folder", "table"),
    "path": _text(empty=True),
    "split": _choice("train", "validation", "test"),
    "nouns": Rule(kind=tuple, empty=True),
    "num_pages": _count(),
    "min_images": _count(),
    "max_images": _count(),
    "similarity_low": _number(low=-1.0, high=1.0),
    "similarity_high": _number(low=-1.0, high=1.0),
    "text_similarity_low": _number(low=-1.0, high=1.0, optional=True),
    "captions": _choice("noun", "descriptive"),
  },
  "prompts": {
    "source": _choice("unseen", "dreambench", "list"),
    "path": _text(empty=True),
    "templates": _choice(*TEMPLATES),
    "num_per_cluster": _count(),
    "skills": Rule(kind=tuple, choices=SKILLS),
  },
  "finetune": {
    "teacher": _text(remedy="name a file of experts/teachers"),
    "text_dtype": _choice("float32", "bfloat16"),
    "num_steps": _count(),
    "batch_size": _count(),
    "learning_rate": _number(above=0.0, high=1.0),
    "optimizer": _choice(*OPTIMIZERS),
    "weighting": _choice(*WEIGHTINGS),
    "snr_gamma": _number(above=0.0),
    **_LOG_SNR,
    "experts_per_wave": _count(),
    "experts_per_slot": _count(),
    "num_clusters": _count(optional=True),
    "num_pictures": _count(optional=True),
    "experts_per_device": _count(
      word="auto",
      optional=True,
      remedy="None goes by config.finetune.experts_per_wave",
    ),
    "inner": _choice("vmap", "map", "auto"),
    "remat": _flag(),
    "dtype": _choice("float32", "bfloat16"),
    "master_dtype": _choice("float32", "bfloat16"),
    "stop_window": _count(low=0, remedy="0 never stops an expert early"),
    "stop_gain": _number(low=0.0, below=1.0),
    "diverged": _number(low=0.0, remedy="6 times where it began; 0 is never"),
    "rank": _count(),
    "depth_net": _text(empty=True),
    "checkpoint_every": _count(),
    "log_every": _count(),
    "profile_steps": _count(low=0),
    "lease_s": _number(low=1.0, remedy="seconds; 60 is a good value"),
    "grace_s": _number(low=0.0, remedy="seconds between SIGTERM and the end"),
    "sample_after_tuning": _flag(),
    "keep": _choice("trainable", "difference", "nothing"),
  },
  "sample": {
    **_SAMPLING,
    "together": _count(),
    "negative_prompt": _text(empty=True),
    "suffix": _text(empty=True),
    "view_area": _number(low=0.0, high=1.0),
    "view_overlap": _number(low=0.0, high=1.0),
    "view_source": _choice("last", "first"),
    "syncd": _section(),
  },
  "filter": {
    "name": _text(remedy="name a file of experts/filters"),
    "rule": _text(optional=True, empty=True),
    "aesthetic": _text(empty=True),
    "crop": _flag(),
  },
  "label": {
    "source": _choice("none", "world", "folder", "segmenter"),
    "path": _text(empty=True),
    "candidates": _choice("none", "teacher", "segmenter"),
    "segmenter": _text(empty=True),
    "miss": _number(low=0.0, high=1.0),
    "jitter": _number(low=0.0, high=1.0),
    "erode": _count(low=0),
  },
  "pack": {
    "shard_size": _count(),
    "demonstrations": _choice("cluster", "group"),
    "prompts": _choice("sampled", "noun"),
  },
  "train": {
    "method": _text(remedy="name a file of apprentice/methods"),
    "init": _MODEL,
    "init_base": _text(empty=True),
    "examples": Rule(kind=tuple, empty=True),
    "rule": _text(optional=True, empty=True),
    "num_clusters": _count(optional=True),
    "without_nouns": Rule(kind=tuple, empty=True),
    "validation_clusters": _count(low=0),
    "num_steps": _count(low=0),
    "batch_size": _count(),
    "learning_rate": _number(above=0.0, high=1.0),
    "warmup_steps": _count(low=0),
    "decay": _number(
      low=0.0,
      high=1.0,
      optional=True,
      remedy="the share of the steps, at the end, in which the rate falls to 0",
    ),
    "dtype": _choice("float32", "bfloat16"),
    "optimizer": _choice(*OPTIMIZERS, "muon"),
    "num_demonstrations": _count(),
    "min_demonstrations": _count(low=0),
    "max_demonstrations": _count(),
    "joint_dropout": _number(low=0.0, high=1.0),
    "text_dropout": _number(low=0.0, high=1.0),
    "demonstration_dropout": _number(low=0.0, high=1.0),
    "exclusive_dropout": _flag(),
    "condition_dropout": _number(low=0.0, high=1.0),
    "cache_latents": _flag(),
    "demonstration_targets": _number(low=0.0, high=1.0),
    "mirror": _choice("none", "demonstrations", "all"),
    "weighting": _choice(*WEIGHTINGS),
    "snr_gamma": _number(above=0.0),
    **_LOG_SNR,
    "ema": _number(low=0.0, below=1.0),
    "grad_clip": _number(above=0.0),
    "checkpoint_every": _count(),
    "log_every": _count(),
    "save_dtype": _choice("float32", "float16", "bfloat16"),
  },
  "method": {"trainable": _text(optional=True)},
  "apprentice_sample": {
    **_SAMPLING,
    "num_demonstrations": _count(low=0),
    "systems": Rule(kind=tuple, choices=SYSTEMS),
    "guidance_mode": _choice(*GUIDANCE),
    "text_guidance": _number(low=0.0, optional=True),
    "base_guidance": _number(low=0.0),
    "guidance_ramp": _number(),
    "text_guidance_ramp": _number(),
    "agnostic": _number(low=-1.0, high=0.0),
    "agnostic_above": _number(low=0.0, high=1.0),
    "subject_scale": _number(low=0.0),
    "guidance_until": _number(low=0.0, high=1.0),
  },
  "benchmark": {
    "source": _choice("world", "folder"),
    "path": _text(empty=True),
    "split": _choice("validation", "test"),
    "prompts": _text(empty=True),
    "templates": _choice(*TEMPLATES),
    "num_subjects": _count(),
    "images_each": _count(low=2),
    "nouns": Rule(kind=tuple, empty=True),
    "num_prompts": _count(high=MAX_PROMPTS),
    "num_expert_subjects": _count(low=0),
  },
  "plan": {
    "stages": Rule(kind=tuple, choices=PLANNED),
    "num_subjects": _count(),
    "share_of_peak": _number(above=0.0, high=1.0),
    "effort": _number(low=-1.0, high=1.0),
    "price_per_chip_hour": _section(),
    "backbone": _section(),
    "clip": _section(),
    "identity": _section(),
    "encoder": _section(),
  },
  "report": {
    "title": _text(),
    "num_subjects": _count(),
    "num_prompts": _count(),
    "num_examples": _count(),
  },
}
# Of a section in a section.
NESTED: Mapping[tuple[str, str], Mapping[str, Rule]] = {
  ("sample", "syncd"): {
    "share": _flag(),
    "open_first_step": _flag(),
    "guide_first_step": _flag(),
    "dilate": _count(optional=True, remedy="an odd number; None: the paper's"),
    "average_steps": _flag(),
    "warp": _choice("latents", "finest", "features", "none"),
    "warp_above": _number(low=0.0, high=1.0),
    "thin_below": _number(low=0.0, high=1.0),
    "warp_method": _choice("nearest", "bilinear", "bicubic"),
    "warp_chain": _flag(),
  },
}
_TOP: Mapping[str, Rule] = {
  "seed": Rule(kind=int, low=0, high=2**32 - 1),
  "size_px": Rule(kind=int, low=8, high=1024),
  "backbone": _MODEL,
  "clip": _MODEL,
  "identity": _MODEL,
  "judge": _MODEL,
}


def check(config: Mapping[str, Any], *, data: bool = True) -> None:
  """Checks for every mistake that can be found before anything starts.

  Args:
    config: the whole config, all sections.
    data: whether its input files must exist; `suti plan` reads none.

  Raises:
    ValueError: the first mistake found, in one line.
  """
  if not any(section in config for section in FIELDS):
    raise ValueError(
      "--config has none of the loop's sections, as a pretraining's config has"
      " none: give one like configs/quickstart.py."
    )
  _check_names(config, (*_TOP, *FIELDS), path="config")
  for name, rule in _TOP.items():
    _check_field(f"config.{name}", config[name], rule)
  for section, rules in FIELDS.items():
    _check_section(f"config.{section}", config[section], rules)
  for (section, name), rules in NESTED.items():
    _check_section(f"config.{section}.{name}", config[section][name], rules)
  _check_prices(config)
  check_relations(config, data=data)


def _check_section(path: str, fields: Any, rules: Mapping[str, Rule]) -> None:
  """Checks all fields of a section."""
  if not hasattr(fields, "items"):
    raise ValueError(
      f"{path}={fields!r}: expected a section with fields, as in "
      "configs/quickstart.py."
    )
  _check_names(fields, rules, path=path, is_open=path == "config.method")
  for name, rule in rules.items():
    _check_field(f"{path}.{name}", fields[name], rule)


def _check_names(
  fields: Mapping[str, Any],
  known: Iterable[str],
  *,
  path: str,
  is_open: bool = False,
) -> None:
  """Checks that all fields are present and, unless open, that all are known."""
  known = tuple(known)
  for name in fields:
    if name not in known and not is_open:
      listed = f" {path} has {', '.join(known)}."
      raise ValueError(
        f"{path}.{name}={fields[name]!r}: there is no such field."
        f"{_instead(f'{path}.{name}', known) or listed}"
      )
  for name in known:
    if name not in fields:
      raise ValueError(
        f"{path}.{name} is missing: copy it from configs/sections."
      )


def _instead(path: str, known: Iterable[str]) -> str:
  """What is meant by a field that there is not; "" if nobody knows."""
  if path in REPLACED:
    return f" Did you mean config.filter.rule? {REPLACED[path]}."
  return suggest(path.rpartition(".")[2], known)


def _check_field(path: str, value: Any, rule: Rule) -> None:
  """Checks one value against its rule."""
  if (value is None and rule.optional) or (rule.word and value == rule.word):
    return
  if not _is_kind(value, rule.kind) or not _in_bounds(value, rule):
    remedy = rule.remedy or f"set it with --{path}=…"
    tail = f"; {remedy}."
    wrong = [v for v in _texts(value) if v not in rule.choices]
    if rule.choices and wrong:
      hint = suggest(wrong[0], rule.choices)
      tail = f".{hint}" if hint else tail
    raise ValueError(f"{path}={value!r}: expected {_expectation(rule)}{tail}")


def _is_kind(value: Any, kind: type) -> bool:
  if isinstance(value, bool):
    return kind is bool
  if kind is float:
    return isinstance(value, (int, float)) and math.isfinite(value)
  if kind is dict:
    return hasattr(value, "items")
  if kind is tuple:
    return isinstance(value, (tuple, list)) and all(
      isinstance(item, str) for item in value
    )
  return isinstance(value, kind)


def _in_bounds(value: Any, rule: Rule) -> bool:
  if rule.kind in (str, tuple):
    if not value or (rule.kind is str and not value.strip()):
      return rule.empty
    return not rule.choices or all(v in rule.choices for v in _texts(value))
  return (
    (rule.low is None or value >= rule.low)
    and (rule.high is None or value <= rule.high)
    and (rule.above is None or value > rule.above)
    and (rule.below is None or value < rule.below)
  )


def _texts(value: Any) -> list[str]:
  values = value if isinstance(value, (tuple, list)) else [value]
  return [v for v in values if isinstance(v, str)]


def _expectation(rule: Rule) -> str:
  """The rule in words: 'an integer of at least 1'."""
  if rule.choices:
    listed = ", ".join(rule.choices)
    return f"some of {listed}" if rule.kind is tuple else f"one of {listed}"
  words = {
    int: "an integer",
    float: "a number",
    str: "a text" if rule.empty else "a text that is not empty",
    bool: "True or False",
    tuple: "texts, as ('a', 'b')",
    dict: "a section",
  }[rule.kind]
  ends = {
    "of at least": rule.low,
    "above": rule.above,
    "of at most": rule.high,
    "below": rule.below,
  }
  # A whole number in all of its digits: 4294967295 and not 4.29497e+09.
  bounds = [
    f"{what} {end if isinstance(end, int) else format(end, 'g')}"
    for what, end in ends.items()
    if end is not None
  ]
  if rule.word:
    bounds[-1] += f", or '{rule.word}'"
  return " ".join([words, " and ".join(bounds)]).strip()


def _check_prices(config: Mapping[str, Any]) -> None:
  for chip, price in config["plan"]["price_per_chip_hour"].items():
    _check_field(
      f"config.plan.price_per_chip_hour.{chip}",
      price,
      _number(above=0.0, optional=True),
    )
