# SPDX-License-Identifier: Apache-2.0
"""The pictures and words that each system of the main table is given."""

import numpy as np
import pytest

from apprentice.systems import MODELS, described, list_requests
from suti.config import options
from suti.schema import Cluster, Prompt


def make_cluster(number, noun, caption):
  images = tuple(
    np.full((2, 2, 3), 10 * number + i, np.uint8) for i in range(5)
  )
  return Cluster(
    key=f"{number:012x}",
    subject=noun,
    caption=caption,
    images=images,
    captions=tuple(f"{noun} {i}" for i in range(5)),
    live=True,
    source="here",
  )


CLUSTERS = {
  cluster.key: cluster
  for cluster in (
    make_cluster(1, "dog", "an orange dog with a white belly"),
    make_cluster(2, "cat", "a grey cat"),
    make_cluster(3, "dog", "a black dog"),
  )
}
PROMPTS = [
  Prompt(cluster=c.key, prompt=f"a {c.subject} in the snow", skill="style")
  for c in CLUSTERS.values()
]


def shown(system, *, clusters=CLUSTERS, prompts=PROMPTS, num=2):
  """[(text, first pixels, captions)] of the first image of each prompt."""
  requests = list_requests(
    clusters,
    prompts,
    system=system,
    num_demonstrations=num,
    images_each=1,
    seed=0,
  )
  return [
    (r.text, [int(x[0, 0, 0]) for x in r.images], list(r.captions))
    for r in requests
  ]


def test_configs_name_the_systems_that_there_are():
  assert set(options.SYSTEMS) == set(MODELS)


def test_the_apprentice_is_shown_the_first_pictures():
  assert shown("apprentice")[1] == (
    "a cat in the snow",
    [20, 21],
    ["cat 0", "cat 1"],
  )


def test_another_subject_is_of_the_same_noun_where_there_is_one():
  texts, pixels, captions = zip(*shown("wrong_subject"), strict=True)
  assert texts[0] == "a dog in the snow"
  assert pixels == ([30, 31], [30, 31], [10, 11])
  assert captions[1] == ["dog 0", "dog 1"]


def test_several_others_are_shown_once_each():
  _, pixels, captions = zip(*shown("shuffled", num=3), strict=True)
  # With two others, the third picture is of the first again, another one.
  assert pixels == ([20, 31, 22], [30, 11, 32], [10, 21, 12])
  assert captions[0] == ["cat 0", "dog 1", "cat 2"]


@pytest.mark.parametrize("system", ["wrong_subject", "shuffled"])
def test_a_control_needs_a_second_subject(system):
  first = dict([next(iter(CLUSTERS.items()))])
  with pytest.raises(ValueError) as caught:
    shown(system, clusters=first, prompts=PROMPTS[:1])
  assert str(caught.value) == (
    f"config.apprentice_sample.systems has '{system}', which is shown other "
    "subjects, and the benchmark has one: leave it out, or raise "
    "config.benchmark.num_subjects."
  )


def test_every_system_begins_with_the_same_noise():
  seeds = {
    tuple(
      r.seed
      for r in list_requests(
        CLUSTERS,
        PROMPTS,
        system=system,
        num_demonstrations=2,
        images_each=3,
        seed=7,
      )
    )
    for system in MODELS
  }
  (only,) = seeds
  assert len(set(only)) == 9


@pytest.mark.parametrize(
  ("prompt", "text"),
  [
    ("a dog in the snow", "an orange dog with a white belly in the snow"),
    ("a red dog", "a red orange dog with a white belly"),
    ("a dogfish", "a dogfish, an orange dog with a white belly"),
  ],
)
def test_a_caption_stands_in_the_nouns_place(prompt, text):
  assert described(prompt, next(iter(CLUSTERS.values()))) == text
  assert shown("text_only")[1][0] == "a grey cat in the snow"
