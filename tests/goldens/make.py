# SPDX-License-Identifier: Apache-2.0
"""Runs the publishers' code on the cases and stores what it returned.

  python -m tests.goldens.make [FAMILY ...]

with the extra `parity` (torch, transformers, diffusers). Writes one file a case
and one index of names and shapes a family, of real models.
"""

import gzip
import json
import pathlib
import sys
from types import ModuleType

import safetensors.torch
import torch

from tests.goldens import drawing, theirs
from tests.goldens.families import FAMILIES

FOLDER = pathlib.Path(__file__).parent


def main(names: list[str]) -> None:
  """Makes the files of some families, or of all."""
  for name in names or FAMILIES:
    make_cases(FAMILIES[name])
    make_index(name, FAMILIES[name])


def make_cases(family: ModuleType) -> None:
  """Writes `CASE.safetensors`: outputs, and the shapes of the weights."""
  for case, (config, _) in family.CASES.items():
    model = family.build(config)
    shapes = {k: tuple(v.shape) for k, v in family.published(model).items()}
    model = family.fill(model, drawing.weights(shapes))
    outputs = family.run(model, theirs.tensors(family.inputs(case)))
    safetensors.torch.save_file(
      theirs.tensors(drawing.probe(outputs)),
      FOLDER / f"{case}.safetensors",
      metadata={"shapes": json.dumps(shapes, separators=(",", ":"))},
    )


def make_index(name: str, family: ModuleType) -> None:
  """Writes `index/FAMILY.json.gz`: real models' names and shapes."""
  index = {}
  for model_name, config in family.PUBLISHED.items():
    index[model_name] = {
      k: list(v.shape) for k, v in sorted(_weightless(family, config).items())
    }
  if index:
    text = json.dumps(index, separators=(",", ":"), sort_keys=True)
    path = FOLDER / "index" / f"{name}.json.gz"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def _weightless(family, config):
  """Published names of a real model, without its arrays where that can be."""
  if hasattr(family, "published_index"):
    return family.published_index(config)
  with torch.device("meta"):
    return family.published(family.build(config))


if __name__ == "__main__":
  main(sys.argv[1:])
