# SPDX-License-Identifier: Apache-2.0
"""What the embedded judges are worth, on subjects they have never seen.

  python -m suti.pretrain.exam --config configs/pretrain/exam.py \
      --workdir runs/pretrain

Retrieval: of the 25 prompts of a subject's group, does CLIP choose the one that
a real render shows? Styles: of the prompts of all styles, the one that it is
painted in? Identity: how often are two pictures of one subject
nearer than two pictures of different subjects (area under the ROC curve)?
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from suti.diffusion.guidance import classifier_free, guided
from suti.diffusion.samplers import ddim, draw_noise, row_keys
from suti.evaluation.dreambench import templates_of
from suti.evaluation.judge import load_judge
from suti.evaluation.roc import area_under_curve
from suti.evaluation.scores import Scorer, load_scorer
from suti.evaluation.styles import STYLE_TEXTS, styled
from suti.images import to_u8
from suti.io.files import write_json
from suti.nn.param import functional
from suti.pipeline.backbone import load_backbone
from suti.pipeline.conditioning import apply_denoiser
from suti.pretrain.judge_exam import as_json, examine_judge, lines
from suti.runtime import stage
from suti.world.dataset import LIVE, Shot, class_of, render_shots, subject_seeds
from suti.world.judge import STYLE_NAMES, fit_style_judge
from suti.world.templates import compose, template_of

# N pictures, D embedding width, P pairs.

_SHOTS = 400  # rendered in one batch


def retrieval(scorer: Scorer, *, split: str, num_subjects: int) -> dict:
  """Share of renders whose own prompt scores highest among its group's 25.

  Args:
    scorer: the judges.
    split: of the subjects.
    num_subjects: each is rendered once in each of the 25 templates.

  Returns: `accuracy`, and `worst`: the three templates that fare worst.
  """
  hits = {True: np.zeros(25), False: np.zeros(25)}
  seen = {True: 0, False: 0}
  subjects = subject_seeds(split, 0, num_subjects)
  shots = [
    Shot(subject=int(subject), template=t, seed=1000 + t)
    for subject in subjects
    for t in range(25)
  ]
  images_ND = _embed(scorer.clip_images, shots, "retrieval")
  for row, subject in enumerate(subjects):
    noun = class_of(int(subject))
    live = noun in LIVE
    prompts = [t.text.format(noun) for t in templates_of(live=live)]
    scores = images_ND[25 * row :][:25] @ scorer.clip_texts(prompts).T
    hits[live] += scores.argmax(-1) == np.arange(25)
    seen[live] += 1
  shares = {
    t.text: hits[live][i] / seen[live]
    for live in (True, False)
    if seen[live]
    for i, t in enumerate(templates_of(live=live))
  }
  worst = sorted(shares, key=lambda text: shares[text])[:3]
  return {
    "accuracy": sum(map(np.sum, hits.values())) / (25 * sum(seen.values())),
    "worst": {text: shares[text] for text in worst},
  }


def styles(scorer: Scorer, *, split: str, num_subjects: int) -> dict:
  """Share of renders in a style whose prompt scores highest among all styles'.

  Args:
    scorer: the judges.
    split: of the subjects.
    num_subjects: each is painted once in each style.

  Returns: `accuracy`, `chance` and of each style its share; and the accuracy of
    `suti.world.judge` on the same pictures, `by_texture`.
  """
  names = list(STYLE_TEXTS)
  subjects = subject_seeds(split, 0, num_subjects)
  shots = [
    Shot(subject=int(s), template=compose(style=name), seed=4000 + i)
    for s in subjects
    for i, name in enumerate(names)
  ]
  images = list(render_shots(shots, size_px=64)["image"])
  chosen_N = fit_style_judge().choose(images)
  painted_N = [STYLE_NAMES.index(template_of(shot).style) for shot in shots]
  images_ND = scorer.clip_images(images)
  hits = np.zeros(len(names))
  for row, subject in enumerate(subjects):
    noun = class_of(int(subject))
    prompts = [styled(f"a {noun}", name) for name in names]
    each_ND = images_ND[len(names) * row :][: len(names)]
    scores = each_ND @ scorer.clip_texts(prompts).T
    hits += scores.argmax(-1) == np.arange(len(names))
  shares = hits / num_subjects
  return {
    "accuracy": float(shares.mean()),
    "chance": 1 / len(names),
    "by_texture": float((chosen_N == painted_N).mean()),
    "shares": dict(zip(names, shares.tolist(), strict=True)),
  }


def identity(
  scorer: Scorer, *, split: str, num_subjects: int, images_each: int = 6
) -> dict:
  """How well the identity encoder tells subjects apart.

  Args:
    scorer: the judges.
    split: of the subjects.
    num_subjects, images_each: pictures in different everyday scenes.

  Returns: `auc` over all pairs of pictures, `auc_in_class` with both subjects
    of one class, and the mean cosines `same` and `different`.
  """
  subjects = subject_seeds(split, 0, num_subjects)
  rng = np.random.default_rng(0)
  shots = [
    Shot(subject=int(subject), template=int(t), seed=2000 + i)
    for subject in subjects
    for i, t in enumerate(rng.permutation(10)[:images_each])
  ]
  z_ND = _embed(scorer.identity, shots, "identity")
  cosine_NN = z_ND @ z_ND.T
  subject_N = np.array([shot.subject for shot in shots])
  class_N = np.array([class_of(shot.subject) for shot in shots])
  pair_NN = np.triu(np.ones_like(cosine_NN, bool), k=1)
  same_NN = subject_N[:, None] == subject_N[None]
  kin_NN = class_N[:, None] == class_N[None]
  positive = cosine_NN[pair_NN & same_NN]
  negative = cosine_NN[pair_NN & ~same_NN]
  return {
    "auc": area_under_curve(positive, negative),
    "auc_in_class": area_under_curve(
      positive, cosine_NN[pair_NN & ~same_NN & kin_NN]
    ),
    "same": float(positive.mean()),
    "different": float(negative.mean()),
  }


def _embed(
  encoder: Callable[[list[np.ndarray]], np.ndarray],
  shots: Sequence[Shot],
  title: str,
) -> np.ndarray:
  """Renders shots and embeds them, (N, D), batch by batch."""
  starts = stage.progress(range(0, len(shots), _SHOTS), title)
  return np.concatenate(
    [
      encoder(
        list(render_shots(shots[start : start + _SHOTS], size_px=64)["image"])
      )
      for start in starts
    ]
  )


def generated(scorer: Scorer, model: Path, *, images_each: int) -> dict:
  """How often CLIP finds the prompt of a generated image among 25.

  Args:
    scorer: the judges.
    model: the base's folder.
    images_each: pictures of each of 25 prompts of "dog" and of "teapot".

  Returns: `accuracy` over `images` generated images.
  """
  backbone = load_backbone(model)
  _, apply = functional(backbone.unet)
  null = backbone.encode_text([""] * 25)

  @jax.jit
  def sample(params, conditioning, seeds_B):
    keys_B = row_keys(jax.random.key(0), seeds_B)
    return ddim(
      guided(
        partial(apply_denoiser, apply, params),
        conditioning,
        null,
        combine=lambda cond, null: classifier_free(cond, null, 3.0),
      ),
      backbone.schedule,
      draw_noise(keys_B, backbone.latent_shape),
      keys_B,
      num_steps=25,
      **backbone.limits(99.5),
    )

  hits = []
  for noun in ("dog", "teapot"):
    prompts = [t.text.format(noun) for t in templates_of(live=noun in LIVE)]
    conditioning = backbone.encode_text(prompts)
    texts_PD = scorer.clip_texts(prompts)
    for row in range(images_each):
      x_BHWC = sample(backbone.params, conditioning, 25 * row + np.arange(25))
      images = np.asarray(to_u8(backbone.to_image(x_BHWC)))
      scores = scorer.clip_images(list(images)) @ texts_PD.T
      hits += list(scores.argmax(-1) == np.arange(25))
  return {"accuracy": float(np.mean(hits)), "images": len(hits)}


def run(config: Any, workdir: Path) -> dict:
  """Examines the judges and writes exam.json.

  Args:
    config: see configs/pretrain/exam.py.
    workdir: exam.json goes there.

  Returns: the scores.
  """
  scorer = load_scorer(clip=config.clip, identity=config.identity)
  scores = {
    "retrieval": retrieval(
      scorer, split=config.split, num_subjects=config.num_subjects
    ),
    "identity": identity(
      scorer, split=config.split, num_subjects=config.num_subjects
    ),
    "styles": styles(
      scorer, split=config.split, num_subjects=config.num_styled
    ),
  }
  judged = examine_judge(
    load_judge(config.judge),
    split=config.split,
    num_subjects=config.num_judged,
    templates_each=config.templates_each,
  )
  scores["judge"] = as_json(judged)
  workdir.mkdir(parents=True, exist_ok=True)
  write_json(workdir / "exam.json", scores)
  print(
    f"exam: retrieval {scores['retrieval']['accuracy']:.3f}, "
    f"identity AUC {scores['identity']['auc']:.3f} "
    f"({scores['identity']['auc_in_class']:.3f} within a class), "
    f"styles {scores['styles']['accuracy']:.3f}"
  )
  print("judge: " + ", ".join(f"{n} {v}" for n, v in lines(judged).items()))
  return scores


if __name__ == "__main__":
  stage.main("pretrain.exam", run)
