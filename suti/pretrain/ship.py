# SPDX-License-Identifier: Apache-2.0
"""Puts trained models with their cards into suti/pretrained.

  python -m suti.pretrain.ship --config configs/pretrain/ship.py \
      --workdir runs/pretrain

Examines the judges first: a card without scores is not written.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from suti.evaluation.judge import load_judge
from suti.evaluation.scores import load_scorer
from suti.hf.find import PRETRAINED
from suti.io.files import replacing_folder
from suti.pretrain import exam
from suti.pretrain.card import write_card
from suti.pretrain.judge_exam import examine_judge, lines
from suti.runtime import stage

_TITLES = {
  "clip": "A CLIP for SubjectWorld",
  "identity": "An identity encoder for SubjectWorld (DINO ViT architecture)",
  "judge": "A judge for SubjectWorld (a dictionary of patches, linear heads)",
  "text_to_image": "A text-to-image base for SubjectWorld, 64 px",
}


def run(config: Any, workdir: Path) -> dict:
  """Copies `workdir/NAME/model` to suti/pretrained and writes the cards.

  Args:
    config: see configs/pretrain/ship.py; `only` names some of the trainers.
    workdir: of the trainers.

  Returns: the scores.

  Raises:
    ValueError: an unknown trainer, or one that left no model in the workdir.
  """
  models = {}
  for name in tuple(config.only) or _TITLES:
    if name not in _TITLES:
      raise ValueError(
        f"config.only has {name!r}: expected names of {', '.join(_TITLES)}."
      )
    models[name] = workdir / name / "model"
    if not (models[name] / "training.json").is_file():
      raise ValueError(
        f"{models[name]} has no model: run suti.pretrain.{name} first, with "
        "the same --workdir, or leave it out of config.only."
      )
  scores = {name: _SCORES[name](config, models) for name in models}
  for name, model in models.items():
    target = PRETRAINED / config.names[name]
    with replacing_folder(target) as part:
      shutil.copytree(model, part, dirs_exist_ok=True)
      write_card(part, title=_TITLES[name], scores=scores[name])
    print(f"shipped: {target.name}, {scores[name]}")
  return scores


def _how(config: Any) -> str:
  return f"`suti.pretrain.ship`, {config.num_subjects} {config.split} subjects"


def _of_clip(config: Any, models: Mapping[str, Path]) -> dict[str, str]:
  found = exam.retrieval(
    load_scorer(clip=models["clip"]),
    split=config.split,
    num_subjects=config.num_subjects,
  )
  what = f"retrieval of the right one of 25 prompts ({_how(config)})"
  return {what: f"{found['accuracy']:.3f}"}


def _of_identity(config: Any, models: Mapping[str, Path]) -> dict[str, str]:
  found = exam.identity(
    load_scorer(identity=models["identity"]),
    split=config.split,
    num_subjects=config.num_subjects,
  )
  return {
    f"AUC, same or different subject ({_how(config)})": f"{found['auc']:.3f}",
    "AUC within a class": f"{found['auc_in_class']:.3f}",
  }


def _of_judge(config: Any, models: Mapping[str, Path]) -> dict[str, str]:
  found = examine_judge(
    load_judge(models["judge"]),
    split=config.split,
    num_subjects=config.num_judged,
    templates_each=config.templates_each,
  )
  how = (
    f"`suti.pretrain.ship`, {config.num_judged} {config.split} subjects in "
    f"{config.templates_each} scenes each, 95% intervals"
  )
  return {"examined by": how} | lines(found)


def _of_base(config: Any, models: Mapping[str, Path]) -> dict[str, str]:
  base = models["text_to_image"]
  found = exam.generated(
    load_scorer(clip=models.get("clip", "world_clip")),
    base,
    images_each=config.images_each,
  )
  return {
    "samples whose prompt the CLIP finds among 25 (`suti.pretrain.ship`)": (
      f"{found['accuracy']:.3f} of {found['images']}"
    ),
  }


_SCORES: Mapping[str, Callable[[Any, Mapping[str, Path]], dict[str, str]]] = {
  "clip": _of_clip,
  "identity": _of_identity,
  "judge": _of_judge,
  "text_to_image": _of_base,
}


if __name__ == "__main__":
  stage.main("pretrain.ship", run)
