# SPDX-License-Identifier: Apache-2.0
"""Pictures for the judge: groups of look-alikes, each rendered in one scene.

Subjects of one class and of similar colours stand in the same scenes, each
twice, under another camera and light. Who is to find a subject's other picture
among them can go neither by colour nor by what is behind it.

Shape legend: N pictures, G groups, M subjects of a group, T scenes of a group,
V pictures of a subject in a scene, Q questions.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from suti.pretrain.pictures import render_chunks
from suti.world.dataset import VERSION, Shot, class_of, subject_seeds
from suti.world.look_alikes import groups
from suti.world.questions import CHOICES, answers
from suti.world.ranges import check_pool
from suti.world.templates import PARTS, compose, template_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class LookAlikes:
  """The pictures, and what is true of them.

  Attributes:
    image_u8_GMTVHWC: uint8.
    answers_GTQ: int32, the right choice of each question, by `CHOICES`.
  """

  image_u8_GMTVHWC: np.ndarray
  answers_GTQ: np.ndarray


def render_look_alikes(
  config: Any, folder: Path, *, size_px: int
) -> LookAlikes:
  """Renders the pictures, or reads what is rendered already.

  Args:
    config: name, split, start, num_subjects, group_size, num_groups,
      scenes_each, shots_each, styled, seed.
    folder: where chunks of pictures are kept.
    size_px: side of the pictures.
  """
  check_pool(
    name=config.name,
    split=config.split,
    start=config.start,
    num_subjects=config.num_subjects,
  )
  seeds = subject_seeds(config.split, config.start, config.num_subjects)
  members = groups(seeds, size=config.group_size)
  rng = np.random.default_rng(config.seed)
  # Mixed, so that a pool that is cut short has all classes.
  chosen = rng.permutation(len(members))[: config.num_groups]
  members = [members[i] for i in chosen]
  shots, choices = [], []
  for group in members:
    templates = [int(t) for t in rng.permutation(25)[: config.scenes_each]]
    if config.styled:
      templates = [
        _styled(group[0], t, rng) if rng.random() < config.styled else t
        for t in templates
      ]
    start = int(rng.integers(2**31 - config.shots_each))
    shots += [
      Shot(subject=subject, template=template, seed=start + view)
      for subject in group
      for template in templates
      for view in range(config.shots_each)
    ]
    noun = class_of(group[0])
    for template in templates:
      truth = answers(
        template_of(Shot(subject=group[0], template=template)), noun
      )
      choices.append([CHOICES[q].index(truth[q]) for q in CHOICES])
  images = render_chunks(
    shots,
    folder
    / (
      f"look-alikes-{config.start}-{config.num_subjects}by"
      f"{config.group_size}-{config.scenes_each}x{config.shots_each}-"
      f"{config.styled}styled-{size_px}px-seed{config.seed}-world{VERSION}"
    ),
    size_px=size_px,
  )
  shape = (
    len(members),
    config.group_size,
    config.scenes_each,
    config.shots_each,
  )
  return LookAlikes(
    image_u8_GMTVHWC=images.reshape(*shape, size_px, size_px, 3),
    answers_GTQ=np.array(choices, np.int32).reshape(
      len(members), config.scenes_each, len(CHOICES)
    ),
  )


def _styled(subject: int, template: int, rng: np.random.Generator) -> int:
  """The same scene in a style of the world's."""
  plain = template_of(Shot(subject=subject, template=template))
  return compose(
    place=plain.place,
    look=plain.look,
    wardrobe=plain.wardrobe,
    style=str(rng.choice(PARTS["style"][1:])),
  )
