# SPDX-License-Identifier: Apache-2.0
"""Part of stage 1: chooses unseen prompts for each cluster.

SuTI (arXiv 2304.00186), section 3.2 uses a large language model to write one
unseen prompt a cluster, over four skills: recontextualization, attribute
editing, style, accessories; its figures also show novel views, expressions and
compositions of two skills. Its few-shot text is not in the paper's body. Here
prompts are made from templates: DreamBench's by group (object or live), the
styles of `suti.evaluation.styles` and the words of the paper's figures. All
templates that no demonstration shows have equal probability; of compositions,
which are hundreds, as many are drawn before as DreamBench has prompts. With
`config.prompts.source="dreambench"` a cluster gets all of the benchmark's
prompts instead, unseen or not, and with "list" those that a file has for it
(`suti.evaluation.prompt_list`).

`config.prompts.templates` leaves out DreamBench's held-out templates and pairs,
or all others (`suti.world.held_out`). A prompt names the subject by its noun,
or by what `config.mine.captions` makes of it.

What a demonstration shows is known from its caption alone; delta-CLIP
(`experts.filter`) compares the picture itself.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from experts.clusters import read_clusters, readable
from experts.mining.captions import COLOURS
from suti.evaluation.dreambench import (
  Template,
  fill,
  templates_of,
  with_article,
)
from suti.evaluation.prompt_list import Listed, prompts_of, read_prompt_list
from suti.evaluation.styles import STYLE_TEXTS, styled
from suti.io.files import write_json
from suti.io.paths import path_of
from suti.io.records import read_lines, write_lines
from suti.runtime.stage import main, progress, stage
from suti.schema import SKILLS, Cluster, Prompt
from suti.world.held_out import find_template, is_held_out

STYLES = tuple(
  Template(text=text, skill="style") for text in STYLE_TEXTS.values()
)
# Of any subject, and of living ones.
VIEWS = tuple(
  Template(text=f"a {view} view of a {{}}", skill="view")
  for view in ("back", "bottom", "side", "top-down")
)
EXPRESSIONS = tuple(
  Template(text=f"a {expression} {{}}", skill="expression")
  for expression in ("depressed", "joyous", "screaming", "sleepy")
)
# Words that say nothing about what a picture shows.
_FILLER = (
  " a an and around at background by floating for in it its of on styled "
  "shaped the to top up view wearing with "
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


def unseen(cluster: Cluster, templates: Iterable[Template]) -> list[Template]:
  """The templates that neither the cluster's text nor a caption shows."""
  texts = {cluster.caption, *cluster.captions}
  return [t for t in templates if not any(shows(text, t) for text in texts)]


def compositions(live: bool) -> list[Template]:
  """All pairs of a place and of what changes, dresses or paints the subject."""
  rows = templates_of(live=live)
  of = {s: [t.text for t in rows if t.skill == s] for s in SKILLS}
  both = [
    *itertools.product(of["attribute"], of["recontextualization"]),
    *itertools.product(of["accessory"], of["recontextualization"]),
    *itertools.product(of["attribute"], of["accessory"]),
  ]
  # "a wet {}" and "a {} in the snow" are "a wet {} in the snow".
  texts = [first + second.removeprefix("a {}") for first, second in both]
  texts += [
    styled(text, style)
    for text in of["recontextualization"]
    for style in STYLE_TEXTS
  ]
  return [Template(text=text, skill="composition") for text in texts]


def choose(
  live: bool, skills: Iterable[str], *, templates: str, rng
) -> list[Template]:
  """The templates that prompts of a cluster are drawn from.

  Args:
    live: its group.
    skills: of the prompts.
    templates: "all", "seen" or "held_out"; styles, views and expressions are
      none of DreamBench's and never held out.
    rng: draws among the compositions.
  """
  rows = [*templates_of(live=live), *STYLES, *VIEWS]
  rows += EXPRESSIONS if live else ()
  skills = set(skills)
  allowed = allow([t for t in rows if t.skill in skills], templates, live=live)
  if "composition" in skills:
    pairs = allow(compositions(live), templates, live=live)
    num = len(templates_of(live=live))
    allowed += [pairs[i] for i in rng.permutation(len(pairs))[:num]]
  return allowed


def allow(
  rows: Sequence[Template], which: str, *, live: bool
) -> list[Template]:
  """Leaves out the templates that are held out, or all but them."""
  if which == "all":
    return list(rows)
  out = [is_held_out(find_template(t.text, "{}", live=live)) for t in rows]
  return [
    row
    for row, held in zip(rows, out, strict=True)
    if held == (which == "held_out")
  ]


def propose(
  cluster: Cluster,
  *,
  num: int,
  skills: Iterable[str] = SKILLS,
  source: str = "unseen",
  templates: str = "all",
  captions: str = "noun",
  listed: Sequence[Listed] = (),
  seed: int = 0,
) -> list[Prompt]:
  """Chooses the prompts of one cluster, the same ones in every process.

  Args:
    cluster: whose subject the prompts are about.
    num: how many at most.
    skills: the skills of the prompts, with "unseen" only.
    source: "unseen"; "dreambench" for the benchmark's prompts of the group, or
      "list" for those of a file: all, or `num` of them spread evenly over their
      order.
    templates: "all", "seen" or "held_out".
    captions: how unseen prompts name the subject, by "noun" or "descriptive".
    listed: the file's rows.
    seed: of the random choice; with "unseen" only.

  Returns: at most `num` prompts, fewer if fewer templates are left.
  """
  if source == "list":
    rows = prompts_of(
      listed, source=cluster.source, noun=cluster.subject, live=cluster.live
    )
    return [
      Prompt(cluster=cluster.key, prompt=row.text, skill=row.skill)
      for row in _spread(rows, num)
    ]
  if source == "dreambench":
    rows = allow(templates_of(live=cluster.live), templates, live=cluster.live)
    chosen = _spread(rows, num)
  else:
    rng = np.random.default_rng([seed, int(cluster.key, 16)])
    allowed = choose(cluster.live, skills, templates=templates, rng=rng)
    rows = unseen(cluster, allowed)
    chosen = [rows[i] for i in rng.permutation(len(rows))[:num]]
  named = captions if source == "unseen" else "noun"
  return [
    Prompt(
      cluster=cluster.key,
      prompt=fill(t.text, subject_of(cluster, t, captions=named)),
      skill=t.skill,
    )
    for t in chosen
  ]


def _spread(rows: Sequence, num: int) -> list:
  """`num` of the rows, evenly over their order; all, if they are fewer."""
  num = min(num, len(rows))
  places = np.linspace(0, len(rows) - 1, num).round().astype(int)
  return [rows[i] for i in places]


def subject_of(cluster: Cluster, template: Template, *, captions: str) -> str:
  """What a prompt calls the subject: "dog", or "spotted brown dog".

  A prompt that gives it a colour leaves its own out: no "red brown dog".
  """
  if captions == "noun":
    return cluster.subject
  named = cluster.caption.partition(" ")[2]
  if set(template.text.partition("{}")[0].split()) & set(COLOURS):
    kept = [word for word in named.split() if word not in COLOURS]
    named = " ".join(kept) or cluster.subject
  return named


def undescribed(prompt: str, cluster: Cluster) -> str:
  """A prompt with the subject's noun in the place of its description.

  SynCD (arXiv 2502.01720, appendix C.1) samples with descriptions, so that
  images of a subject agree, and takes them out of what is learned from.
  """
  named = cluster.caption.partition(" ")[2]
  without = " ".join(word for word in named.split() if word not in COLOURS)
  for text in filter(None, (named, without)):
    for described in (with_article(text), text):
      if described in prompt:
        article = described != text
        noun = with_article(cluster.subject) if article else cluster.subject
        return prompt.replace(described, noun)
  return prompt


def read_prompts(workdir: Path) -> list[Prompt]:
  """Reads the prompts that this stage wrote."""
  return read_lines(workdir / "experts/prompts/prompts.jsonl", Prompt)


def run(config, workdir: Path) -> dict:
  """Writes experts/prompts/prompts.jsonl."""
  settings = config.prompts
  listed = read_prompt_list(path_of(settings.path)) if settings.path else []
  current = stage(
    workdir,
    "experts/prompts",
    {
      "seed": config.seed,
      "prompts": settings,
      "captions": config.mine.captions,
      "listed": [dataclasses.asdict(row) for row in listed],
    },
    reads=["experts/mine"],
  )
  if current.done is not None:
    return current.done
  clusters = read_clusters(workdir)
  prompts: list[Prompt] = []
  without, damaged = 0, []
  nouns: set[str] = set()
  told: dict[str, dict[str, str]] = {}
  for key in progress(clusters.keys, "prompts"):
    found, causes = readable(clusters, [key])
    if causes:
      damaged.append(f"{key} ({causes[key]})")
      continue
    rows = propose(
      found[key],
      num=settings.num_per_cluster,
      skills=settings.skills,
      source=settings.source,
      templates=settings.templates,
      captions=config.mine.captions,
      listed=listed,
      seed=config.seed,
    )
    prompts += rows
    without += not rows
    nouns.add(found[key].subject)
    told |= _told(listed, found[key])
  if len(damaged) == len(clusters):
    raise ValueError(
      f"None of the {len(clusters)} clusters can be read, e.g. {damaged[0]}:"
      " delete experts/mine and run experts.mine anew."
    )
  if not prompts and settings.source == "list":
    raise ValueError(
      f"config.prompts.path={settings.path!r} has no prompt for any of the"
      f" {len(clusters)} clusters, whose nouns are"
      f" {', '.join(sorted(nouns))}: add rows of their"
      " class, or without one."
    )
  if not prompts:
    raise ValueError(
      f"The demonstrations already show every prompt of the skills "
      f"{', '.join(config.prompts.skills)}: allow more in "
      "config.prompts.skills."
    )
  write_lines(current.folder / "prompts.jsonl", prompts)
  if listed:
    write_json(current.folder / "listed.json", told)
  return current.finish(
    {
      "clusters": len(clusters),
      "prompts": len(prompts),
      "clusters_without": without,
      "clusters_damaged": ", ".join(damaged) or 0,
      "skills": {s: sum(p.skill == s for p in prompts) for s in SKILLS},
    }
  )


def _told(listed: Sequence[Listed], cluster: Cluster) -> dict:
  """{prompt of a cluster: what its row says of it}, for the evaluation."""
  rows = prompts_of(
    listed, source=cluster.source, noun=cluster.subject, live=cluster.live
  )
  fields = ("kind", "place", "look", "wardrobe")
  return {r.text: {f: getattr(r, f) for f in fields} for r in rows}


if __name__ == "__main__":
  main("experts.prompts", run)
