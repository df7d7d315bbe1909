# SPDX-License-Identifier: Apache-2.0
"""The rows of the main table: the pictures and words of each system.

`apprentice.sample` samples those of `config.apprentice_sample.systems`, all for
the same prompts and from the same noise:

  apprentice     shown demonstrations of the subject
  before         the same, of the weights from which this run's training began
  base           shown nothing
  text_only      the base, given in words what the subject looks like: the
                 cluster's caption in the place of its noun
  copy           a demonstration, as it is: what a score gives to copying
  wrong_subject  the apprentice, shown another subject of the same noun, or of
                 another where the benchmark has none
  shuffled       the apprentice, each demonstration of another subject, so that
                 no subject is shown twice

`wrong_subject` and `shuffled` are controls (not in SuTI): where they score as
the apprentice does, a score does not see the subject.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from suti.schema import Cluster, Prompt, image_seed

# Whose weights a system samples with; a copy needs none.
MODELS: Mapping[str, str | None] = {
  "apprentice": "apprentice",
  "wrong_subject": "apprentice",
  "shuffled": "apprentice",
  "before": "before",
  "base": "base",
  "text_only": "base",
  "copy": None,
}
_ARTICLE = re.compile(r"(an?|the)\s+", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """One image to sample.

  Attributes:
    cluster: of the subject that it should show.
    prompt: what it should show, and is judged by.
    number: which of the prompt's images.
    seed: of its noise.
    text: what the system is asked for.
    images, captions: what it is shown.
    masks: where the subject is in each of these images; () if it is not known.
  """

  cluster: Cluster
  prompt: Prompt
  number: int
  seed: int
  text: str
  images: tuple[np.ndarray, ...]
  captions: tuple[str, ...]
  masks: tuple[np.ndarray, ...] = ()


def list_requests(
  clusters: Mapping[str, Cluster],
  prompts: Sequence[Prompt],
  *,
  system: str,
  num_demonstrations: int,
  images_each: int,
  seed: int,
  masks: Mapping[str, Sequence[np.ndarray]] | None = None,
) -> list[Request]:
  """Every image of a system, each with a seed of its own.

  Args:
    clusters: by key, in the benchmark's order.
    prompts: of these clusters.
    system: a name of `MODELS`.
    num_demonstrations: how many pictures it is shown at most.
    images_each: of a prompt.
    seed: of the config.
    masks: of each cluster, where its subject is in each of its pictures.

  Raises:
    ValueError: a control needs a second subject, and there is none.
  """
  shown = {
    prompt.cluster: _shown(
      clusters, prompt.cluster, system=system, num=num_demonstrations
    )
    for prompt in prompts
  }
  requests = []
  for prompt in prompts:
    cluster = clusters[prompt.cluster]
    places = shown[prompt.cluster]
    text = prompt.prompt
    requests += [
      Request(
        cluster=cluster,
        prompt=prompt,
        number=number,
        seed=image_seed(seed, prompt, number),
        text=described(text, cluster) if system == "text_only" else text,
        images=tuple(other.images[i] for other, i in places),
        captions=tuple(other.captions[i] for other, i in places),
        masks=tuple(masks[other.key][i] for other, i in places)
        if masks
        else (),
      )
      for number in range(images_each)
    ]
  return requests


def _shown(
  clusters: Mapping[str, Cluster], key: str, *, system: str, num: int
) -> list[tuple[Cluster, int]]:
  """The demonstrations of a system: clusters, and which of their pictures."""
  own = clusters[key]

  def first(cluster: Cluster) -> list[tuple[Cluster, int]]:
    return [(cluster, i) for i in range(len(cluster.images[:num]))]

  if system not in ("wrong_subject", "shuffled"):
    return first(own)
  keys = list(clusters)
  start = keys.index(key)
  others = [clusters[k] for k in (*keys[start + 1 :], *keys[:start])]
  if not others:
    raise ValueError(
      f"config.apprentice_sample.systems has {system!r}, which is shown other "
      "subjects, and the benchmark has one: leave it out, or raise "
      "config.benchmark.num_subjects."
    )
  if system == "wrong_subject":
    kin = [other for other in others if other.subject == own.subject]
    return first((kin or others)[0])
  # As many as of its own, the i-th picture of the i-th other.
  return [
    (other := others[i % len(others)], i % len(other.images))
    for i in range(len(own.images[:num]))
  ]


def described(prompt: str, cluster: Cluster) -> str:
  """A prompt with the subject's caption in the place of its noun.

  "a dog in the snow" of "an orange dog with a white belly" becomes "an orange
  dog with a white belly in the snow"; "a red dog" becomes "a red orange dog
  with a white belly". A prompt without the noun gets the caption after a comma.
  """
  noun = re.escape(cluster.subject)
  caption = cluster.caption
  if match := re.match(rf"an?\s+{noun}\b", prompt, re.IGNORECASE):
    return caption + prompt[match.end() :]
  words = (
    _ARTICLE.sub("", caption, count=1) if _ARTICLE.match(caption) else caption
  )
  text, count = re.subn(rf"\b{noun}\b", lambda _: words, prompt, count=1)
  return text if count else f"{prompt}, {caption}"
