# SPDX-License-Identifier: Apache-2.0
"""Which encoder does what in a run: conditions, filters, judges.

Where the encoder that judges also chose the data or conditions the model, what
it chose wins by construction. So metrics.json names all of them, each with a
hash of its files, and says which are the same.
"""

from pathlib import Path
from typing import Any

from suti.hf.find import find_model
from suti.io.files import fingerprint, read_json


def learned_rule(config: Any) -> str:
  """The rule by which the run's training chose examples; "" without one."""
  return (config.train.rule or "") if config.train.num_steps else ""


def describe_encoders(config: Any, workdir: Path) -> dict[str, Any]:
  """The encoders of a run by what they do.

  SuTI's apprentice has no encoder of demonstrations beside its base: the base's
  own net reads them; other methods have `config.method.encoder`. CLIP chooses
  pages and, as a rule, candidates; the identity encoder chooses where the
  filter's rule names it, or that of training.

  Args:
    config: backbone, method, clip, identity, judge, train.
    workdir: whose experts/filter says by which rule it kept.

  Returns: {"conditioning", "filter", "scores", "judge": {name: hash},
    "same": sentences}.
  """
  filters = [config.clip]
  done = workdir / "experts" / "filter" / "done.json"
  rule = read_json(done)["summary"].get("rule", "") if done.is_file() else ""
  if "identity" in rule or "identity" in learned_rule(config):
    filters.append(config.identity)
  seen_through = config.method.get("encoder")
  roles = {
    "conditioning": [
      config.backbone,
      *([seen_through] if seen_through else []),
    ],
    "filter": filters,
    "scores": [config.clip, config.identity],
    "judge": [config.judge],
  }
  hashes = {
    name: fingerprint(find_model(name))
    for names in roles.values()
    for name in names
  }
  same = [
    f"{name!r} of {role} is {other!r} of {before}"
    for number, role in enumerate(roles)
    for before in list(roles)[:number]
    for name in roles[role]
    for other in roles[before]
    if hashes[name] == hashes[other]
  ]
  return {
    role: {name: hashes[name] for name in names}
    for role, names in roles.items()
  } | {"same": same}
