# SPDX-License-Identifier: Apache-2.0
"""Part of stage 1: chooses unseen prompts for each cluster.

SuTI (arXiv 2304.00186), section 3.2 uses a large language model to write one
unseen prompt a cluster, over four skills: recontextualization, attribute
editing, style, accessories. Its few-shot text is not public. Here prompts are
made from templates: DreamBench's by group (object or live) and the styles of
`suti.evaluation.styles`. All templates that no demonstration shows have equal
probability. With `config.prompts.source="dreambench"` a cluster gets all of the
benchmark's prompts instead, unseen or not.

What a demonstration shows is known from its caption alone; delta-CLIP
(`experts.filter`) compares the picture itself.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from experts.clusters import read_clusters, readable
from experts.mining.captions import with_article
from suti.evaluation.dreambench import Template, templates_of
from suti.evaluation.styles import STYLE_TEXTS
from suti.io.records import read_lines, write_lines
from suti.runtime.stage import main, progress, stage
from suti.schema import SKILLS, Cluster, Prompt

STYLES = tuple(
  Template(text=text, skill="style") for text in STYLE_TEXTS.values()
)
# Words that say nothing about what a picture shows.
_FILLER = (
  " a an and around at background by floating for in it its of on styled "
  "shaped the to top up wearing with "
)


def words_of(text: str) -> list[str]:
  """The content words of a text, in lower case."""
  letters = "".join(c if c.isalnum() else " " for c in text.lower())
  return [word for word in letters.split() if f" {word} " not in _FILLER]


def shows(caption: str, template: Template) -> bool:
  """Whether a caption already has all content words of a template.

  Forms of a word count as the word ("snowy", "snow"), from four letters on.
  """
  words = words_of(caption)

  def is_known(word: str) -> bool:
    return any(
      word == other
      or (
        min(len(word), len(other)) > 3
        and (word.startswith(other) or other.startswith(word))
      )
      for other in words
    )

  return all(is_known(word) for word in words_of(template.text))


def fill(template: Template, noun: str) -> str:
  """The prompt of a template: "a {} in the snow" -> "an owl in the snow"."""
  return template.text.replace("a {}", with_article(noun)).format(noun)


def unseen(cluster: Cluster, templates: Iterable[Template]) -> list[Template]:
  """The templates that neither the cluster's text nor a caption shows."""
  texts = {cluster.caption, *cluster.captions}
  return [t for t in templates if not any(shows(text, t) for text in texts)]


def propose(
  cluster: Cluster,
  *,
  num: int,
  skills: Iterable[str] = SKILLS,
  source: str = "unseen",
  seed: int = 0,
) -> list[Prompt]:
  """Chooses the prompts of one cluster, the same ones in every process.

  Args:
    cluster: whose subject the prompts are about.
    num: how many at most.
    skills: the skills of the prompts.
    source: "unseen", or "dreambench" for the benchmark's prompts of the group:
      all 25, or `num` of them spread evenly over the published order.
    seed: of the random choice; with "unseen" only.

  Returns: at most `num` prompts, fewer if fewer templates are left.
  """
  templates = list(templates_of(live=cluster.live))
  if source == "dreambench":
    num = min(num, len(templates))
    spread = np.linspace(0, len(templates) - 1, num).round().astype(int)
    chosen = [templates[i] for i in spread]
  else:
    allowed = [t for t in [*templates, *STYLES] if t.skill in set(skills)]
    rows = unseen(cluster, allowed)
    rng = np.random.default_rng([seed, int(cluster.key, 16)])
    chosen = [rows[i] for i in rng.permutation(len(rows))[:num]]
  return [
    Prompt(cluster=cluster.key, prompt=fill(t, cluster.subject), skill=t.skill)
    for t in chosen
  ]


def read_prompts(workdir: Path) -> list[Prompt]:
  """Reads the prompts that this stage wrote."""
  return read_lines(workdir / "experts/prompts/prompts.jsonl", Prompt)


def run(config, workdir: Path) -> dict:
  """Writes experts/prompts/prompts.jsonl."""
  current = stage(
    workdir,
    "experts/prompts",
    {"seed": config.seed, "prompts": config.prompts},
    reads=["experts/mine"],
  )
  if current.done is not None:
    return current.done
  clusters = read_clusters(workdir)
  prompts: list[Prompt] = []
  without, damaged = 0, []
  for key in progress(clusters.keys, "prompts"):
    found, causes = readable(clusters, [key])
    if causes:
      damaged.append(f"{key} ({causes[key]})")
      continue
    rows = propose(
      found[key],
      num=config.prompts.num_per_cluster,
      skills=config.prompts.skills,
      source=config.prompts.source,
      seed=config.seed,
    )
    prompts += rows
    without += not rows
  if len(damaged) == len(clusters):
    raise ValueError(
      f"None of the {len(clusters)} clusters can be read, e.g. {damaged[0]}:"
      " delete experts/mine and run experts.mine anew."
    )
  if not prompts:
    raise ValueError(
      f"The demonstrations already show every prompt of the skills "
      f"{', '.join(config.prompts.skills)}: allow more in "
      "config.prompts.skills."
    )
  write_lines(current.folder / "prompts.jsonl", prompts)
  return current.finish(
    {
      "clusters": len(clusters),
      "prompts": len(prompts),
      "clusters_without": without,
      "clusters_damaged": ", ".join(damaged) or 0,
      "skills": {s: sum(p.skill == s for p in prompts) for s in SKILLS},
    }
  )


if __name__ == "__main__":
  main("experts.prompts", run)
