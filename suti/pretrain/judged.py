# SPDX-License-Identifier: Apache-2.0
"""The judges judged: how well DINO, CLIP-I, CLIP-T and delta-CLIP rank.

  python -m suti.pretrain.judged --config configs/pretrain/judged.py \
      --workdir runs/judged

SubjectWorld knows what a picture shows, so that scores can be held against it,
which no benchmark of photographs allows. For a test subject and a prompt five
kinds of pictures are rendered, and their truths are known: how much it is the
subject (2 itself, 1 another of its class, 0 of another class), and how much it
is the prompt (half for the class, half for the scene):

  right         the subject in the prompt's scene         subject 2, text 1
  look-alike    another of its class there                subject 1, text 1
  other class   one of another class there                subject 0, text 1/2
  other scene   the subject in another prompt's scene     subject 2, text 1/2
  neither       another class in another scene            subject 0, text 0

A score agrees with a truth as far as it ranks the pictures of a subject and a
prompt alike (`suti.evaluation.benchmark.ranks`). References are everyday
pictures of the subject, as everywhere.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from suti.evaluation.benchmark.encoders import WORLD, Encoders, open_encoders
from suti.evaluation.benchmark.ranks import mean_agreement
from suti.evaluation.benchmark.tables import measure
from suti.evaluation.dreambench import templates_of
from suti.evaluation.protocol import METRICS, Protocol, titles_of
from suti.io.files import write_json
from suti.runtime import stage
from suti.world.dataset import (
  LIVE,
  Shot,
  class_of,
  render_shots,
  subject_seeds,
)

# N pictures, R references.

_PLACES = 10  # templates that every class has
_NUM_TEMPLATES = 25
_REFERENCES = 5
_LOOKED_AT = 4  # times as many subjects are looked at for others of a class
_BATCH = 400
# kind -> (is it the subject, the class, the scene)
KINDS = {
  "right": (2, True, True),
  "look-alike": (1, True, True),
  "other class": (0, False, True),
  "other scene": (2, True, False),
  "neither": (0, False, False),
}
TRUTHS = ("subject", "text")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
  """One picture and what is true of it.

  Attributes:
    shot: how it is rendered.
    subject: whose references it is compared with.
    template: of the prompt.
    kind: of `KINDS`.
    repeat: which of the pictures of its kind.
  """

  shot: Shot
  subject: int
  template: int
  kind: str
  repeat: int

  @property
  def truths(self) -> dict[str, float]:
    """How much it is the subject, and how much the prompt."""
    subject, noun, scene = KINDS[self.kind]
    return {"subject": float(subject), "text": (noun + scene) / 2}

  @property
  def skill(self) -> str:
    """The prompt's kind."""
    return _templates(self.subject)[self.template].skill

  @property
  def prompt(self) -> str:
    """The prompt."""
    text = _templates(self.subject)[self.template].text
    return text.format(class_of(self.subject))


def _templates(subject: int):
  return templates_of(live=class_of(subject) in LIVE)


def trials_of(
  split: str, *, num_subjects: int, num_prompts: int, num_seeds: int
) -> list[Trial]:
  """What is rendered.

  Args:
    split: of the subjects.
    num_subjects: whose pictures are judged.
    num_prompts: of each, spread over places, outfits and changes.
    num_seeds: pictures of each kind.
  """
  seeds = subject_seeds(split, 0, max(_LOOKED_AT * num_subjects, 100))
  trials = []
  for number, subject in enumerate(seeds[:num_subjects]):
    rng = np.random.default_rng((7, number))
    noun = class_of(subject)
    alike = [s for s in seeds if class_of(s) == noun and s != subject]
    # Of its own group, so that a template's number is the same scene.
    group = [
      s
      for s in seeds
      if class_of(s) != noun and (class_of(s) in LIVE) == (noun in LIVE)
    ]
    if not alike or not group:
      continue
    wanted = np.linspace(0, _NUM_TEMPLATES - 1, num_prompts).round()
    for template in wanted.astype(int):
      other = int((template + rng.integers(1, _NUM_TEMPLATES)) % _NUM_TEMPLATES)
      for repeat in range(num_seeds):
        for kind, (whose, _, scene) in KINDS.items():
          shown = {2: [subject], 1: alike, 0: group}[whose]
          trials.append(
            Trial(
              shot=Shot(
                subject=int(rng.choice(shown)),
                template=int(template) if scene else other,
                seed=int(rng.integers(2**31)),
              ),
              subject=subject,
              template=int(template),
              kind=kind,
              repeat=repeat,
            )
          )
  return trials


def score(
  encoders: Encoders, trials: Sequence[Trial], *, size_px: int
) -> dict[str, np.ndarray]:
  """Every metric of every trial.

  Returns: {metric: (N,)}.
  """
  images = _render([trial.shot for trial in trials], size_px=size_px)
  places = collections.defaultdict(list)
  for place, trial in enumerate(trials):
    places[trial.subject].append(place)
  found = {name: np.zeros(len(trials)) for name in METRICS}
  for subject, rows in stage.progress(list(places.items()), "judge"):
    references = _render(
      [
        Shot(subject=subject, template=k % _PLACES, seed=10_000 + k)
        for k in range(_REFERENCES)
      ],
      size_px=size_px,
    )
    pictures = [images[place] for place in rows]
    real_identity_RD = encoders.identity.embed(references)
    scores = measure(
      clip_GD=encoders.clip.embed(pictures),
      identity_GD=encoders.identity.embed(pictures),
      text_GD=encoders.texts([trials[place].prompt for place in rows]),
      real_clip_RD=encoders.clip.embed(references),
      real_identity_RD=real_identity_RD,
      shown_RD=real_identity_RD,
      protocol=Protocol(),
    )
    for name, values in scores.items():
      found[name][rows] = values
  return found


def _render(shots: Sequence[Shot], *, size_px: int) -> list[np.ndarray]:
  images: list[np.ndarray] = []
  for start in range(0, len(shots), _BATCH):
    part = shots[start : start + _BATCH]
    images += list(render_shots(part, size_px=size_px)["image"])
  return images


def agreement(
  trials: Sequence[Trial], scores: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """Somers' D of every metric given every truth.

  Returns: {"all", "by_seed", "by_class", "by_skill"}: each {group: {metric:
    {truth: D or None}}}, where "all" has one group; "stability": {metric:
    {truth: the standard deviation over seeds}}.
  """
  groupings = {
    "all": lambda trial: "all",
    "by_seed": lambda trial: str(trial.repeat),
    "by_class": lambda trial: class_of(trial.subject),
    "by_skill": lambda trial: trial.skill,
  }
  table: dict[str, Any] = {}
  for title, key in groupings.items():
    places = collections.defaultdict(list)
    for place, trial in enumerate(trials):
      places[key(trial)].append(place)
    table[title] = {
      name: _agreements([trials[p] for p in rows], rows, scores)
      for name, rows in sorted(places.items())
    }
  table["stability"] = {
    metric: {
      truth: float(
        np.std(
          [
            row[metric][truth]
            for row in table["by_seed"].values()
            if row[metric][truth] is not None
          ]
        )
      )
      for truth in TRUTHS
    }
    for metric in METRICS
  }
  return table


def _agreements(
  trials: Sequence[Trial],
  rows: Sequence[int],
  scores: Mapping[str, np.ndarray],
) -> dict[str, dict[str, float | None]]:
  groups = [(trial.subject, trial.template) for trial in trials]
  return {
    metric: {
      truth: mean_agreement(
        values[list(rows)], [trial.truths[truth] for trial in trials], groups
      )
      for truth in TRUTHS
    }
    for metric, values in scores.items()
  }


def run(config: Any, workdir: Path) -> dict:
  """Judges the judges and writes judged.json.

  Args:
    config: encoders, split, size_px, num_subjects, num_prompts, num_seeds.
    workdir: judged.json goes there.

  Returns: the agreement of every metric over all pictures.
  """
  encoders = open_encoders(config.encoders or WORLD, Protocol())
  trials = trials_of(
    config.split,
    num_subjects=config.num_subjects,
    num_prompts=config.num_prompts,
    num_seeds=config.num_seeds,
  )
  scores = score(encoders, trials, size_px=config.size_px)
  table = {
    "encoders": encoders.records(),
    "pictures": len(trials),
    "subjects": len({trial.subject for trial in trials}),
  } | agreement(trials, scores)
  workdir.mkdir(parents=True, exist_ok=True)
  write_json(workdir / "judged.json", table)
  found = table["all"]["all"]
  print(f"{'':12}" + "".join(f"{truth:>9}" for truth in TRUTHS))
  for metric, title in titles_of(encoders.identity_title).items():
    cells = (found[metric][truth] for truth in TRUTHS)
    texts = (f"{'-' if c is None else format(c, '.3f'):>9}" for c in cells)
    print(f"{title:12}" + "".join(texts))
  return found


if __name__ == "__main__":
  stage.main("pretrain.judged", run)
