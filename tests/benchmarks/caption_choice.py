# SPDX-License-Identifier: Apache-2.0
"""Whether the shipped apprentice gains by descriptions of the subject.

Prompts and demonstrations' captions each name the subject by its noun, or by
its true description: four ways, of validation subjects, for the same prompts
and from the same noise. CLIP-T is always with the prompt that has the noun.

  python -m tests.benchmarks.caption_choice        # 12 subjects x 4 prompts
  python -m tests.benchmarks.caption_choice 30
"""

import sys

import numpy as np

from apprentice.generate import generate
from apprentice.model import load_apprentice
from experts.prompts import subject_of
from suti.evaluation.dreambench import fill, templates_of
from suti.evaluation.scores import load_scorer
from suti.world.dataset import heldout

CHOICES = ("noun", "descriptive")
SHOWN = 4  # demonstrations


def main(num_subjects: int) -> None:
  """Prints means, and differences to nouns with their standard errors."""
  clusters = heldout("validation", num_subjects=num_subjects, images_each=5)
  model, scorer = load_apprentice("world_apprentice"), load_scorer()
  rng = np.random.default_rng(0)
  images, rows = [], []
  for number, cluster in enumerate(clusters):
    group = templates_of(live=cluster.live)
    templates = [group[i] for i in rng.permutation(len(group))[:4]]
    noun = f"a {cluster.subject}"
    captions = {
      "noun": cluster.captions[:SHOWN],
      "descriptive": [
        text.replace(noun, cluster.caption, 1)
        for text in cluster.captions[:SHOWN]
      ],
    }
    for prompts in CHOICES:
      for shown in CHOICES:
        for k, t in enumerate(templates):
          named = subject_of(cluster, t, captions=prompts)
          images += generate(
            model,
            cluster.images[:SHOWN],
            fill(t.text, named),
            captions=captions[shown],
            num=1,
            seed=10 * k,
          )
          plain = fill(t.text, cluster.subject)
          rows.append((number, (prompts, shown), plain))
  real = [scorer.identity(cluster.images) for cluster in clusters]
  identity_ND = scorer.identity(images)
  clip_ND = scorer.clip_images(images)
  text_ND = scorer.clip_texts([plain for *_, plain in rows])
  found = {}
  for i, (number, how, _) in enumerate(rows):
    scores = ((identity_ND[i] @ real[number].T).mean(), clip_ND[i] @ text_ND[i])
    found.setdefault(how, {}).setdefault(number, []).append(scores)
  means = {
    how: np.array([np.mean(of, 0) for of in subjects.values()])
    for how, subjects in found.items()
  }
  for (prompts, shown), mean in means.items():
    more = mean - means["noun", "noun"]
    error = more.std(0, ddof=1) / np.sqrt(num_subjects)
    print(
      f"prompts by {prompts}, demonstrations by {shown}: "
      f"identity {mean[:, 0].mean():.3f} ({more[:, 0].mean():+.3f} "
      f"± {error[0]:.3f}), CLIP-T {mean[:, 1].mean():.3f} "
      f"({more[:, 1].mean():+.3f} ± {error[1]:.3f})"
    )


if __name__ == "__main__":
  main(int(sys.argv[1]) if len(sys.argv) > 1 else 12)
