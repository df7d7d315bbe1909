# SPDX-License-Identifier: Apache-2.0
"""Puts trained models with their cards into suti/pretrained.

  python -m suti.pretrain.ship --config configs/pretrain/ship.py \
      --workdir runs/pretrain

Examines the judges first: a card without scores is not written.
"""

import shutil
from pathlib import Path
from typing import Any

from suti.evaluation.scores import load_scorer
from suti.hf.find import PRETRAINED
from suti.io.files import replacing_folder
from suti.pretrain import exam
from suti.pretrain.card import write_card
from suti.runtime import stage

_TITLES = {
  "clip": "A CLIP for SubjectWorld",
  "identity": "An identity encoder for SubjectWorld (DINO ViT architecture)",
  "text_to_image": "A text-to-image base for SubjectWorld, 64 px",
}
_TITLE_OF_VAE = "The autoencoder of SubjectWorld's base"
_PSNR = "PSNR of what it keeps of a picture ({})"


def run(config: Any, workdir: Path) -> dict:
  """Copies `workdir/NAME/model` to suti/pretrained and writes the cards.

  Args:
    config: see configs/pretrain/ship.py.
    workdir: of the trainers.

  Returns: the scores.
  """
  models = {name: workdir / name / "model" for name in _TITLES}
  scorer = load_scorer(clip=models["clip"], identity=models["identity"])
  options = {"split": config.split, "num_subjects": config.num_subjects}
  retrieval = exam.retrieval(scorer, **options)
  identity = exam.identity(scorer, **options)
  generated = exam.generated(
    scorer, models["text_to_image"], images_each=config.images_each
  )
  kept_db = exam.reconstruction(models["text_to_image"], **options)
  psnr = f"{kept_db:.1f} dB"
  how = f"`suti.pretrain.ship`, {config.num_subjects} {config.split} subjects"
  scores = {
    "clip": {
      f"retrieval of the right one of 25 prompts ({how})": (
        f"{retrieval['accuracy']:.3f}"
      )
    },
    "identity": {
      f"AUC, same or different subject ({how})": f"{identity['auc']:.3f}",
      "AUC within a class": f"{identity['auc_in_class']:.3f}",
    },
    "text_to_image": {
      "samples whose prompt the CLIP finds among 25 (`suti.pretrain.ship`)": (
        f"{generated['accuracy']:.3f} of {generated['images']}"
      ),
    },
  }
  for name, model in models.items():
    target = PRETRAINED / config.names[name]
    with replacing_folder(target) as part:
      shutil.copytree(model, part, dirs_exist_ok=True)
      write_card(part, title=_TITLES[name], scores=scores[name])
      if (vae := part / "vae").is_dir():
        write_card(vae, title=_TITLE_OF_VAE, scores={_PSNR.format(how): psnr})
  print(
    f"shipped: retrieval {retrieval['accuracy']:.3f}, identity AUC "
    f"{identity['auc']:.3f}, samples recognised {generated['accuracy']:.3f}, "
    f"autoencoder {kept_db:.1f} dB"
  )
  return {"retrieval": retrieval, "identity": identity, "generated": generated}


if __name__ == "__main__":
  stage.main("pretrain.ship", run)
