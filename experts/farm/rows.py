# SPDX-License-Identifier: Apache-2.0
"""The images to sample, row by row: prompts, seeds, and who sees whom."""

import collections
import dataclasses
from collections.abc import Iterable

from suti.schema import Prompt, content_key, image_seed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """An image to sample: its prompt and the seed of its noise.

  Attributes:
    prompt: of its candidate.
    text: what it is sampled with, the prompt and `config.sample.suffix`.
    seed: of its noise.
    group: key of its set; None if it is sampled alone.
    number: its place in the set.
  """

  prompt: Prompt
  text: str
  seed: int
  group: str | None
  number: int


def rows_of(
  prompts: Iterable[Prompt],
  *,
  num: int,
  seed: int,
  together: int = 1,
  suffix: str = "",
) -> dict[str, list[Row]]:
  """The images to sample.

  Args:
    prompts: of all clusters.
    num: images for each prompt.
    seed: of the config.
    together: rows of a cluster, side by side, that see each other.
    suffix: what is added to each prompt.

  Returns: {cluster: its rows}.

  Raises:
    ValueError: a cluster's rows are not whole groups.
  """
  rows = collections.defaultdict(list)
  for prompt in prompts:
    for number in range(num):
      index = len(rows[prompt.cluster])
      group = content_key(prompt.cluster, "group", index // together)
      rows[prompt.cluster].append(
        Row(
          prompt=prompt,
          text=prompt.prompt + suffix,
          seed=image_seed(seed, prompt, number),
          group=group if together > 1 else None,
          number=index % together,
        )
      )
  for cluster, each in rows.items():
    if len(each) % together:
      raise ValueError(
        f"Cluster {cluster} has {len(each)} images to sample, no multiple of "
        f"config.sample.together={together}: allow more skills in "
        "config.prompts.skills, or sample fewer together."
      )
  return rows
