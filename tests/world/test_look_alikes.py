# SPDX-License-Identifier: Apache-2.0
"""Look-alikes are of one class and near in colours; questions are true."""

import numpy as np

from suti.world.look_alikes import colours, groups, line_up, look_alikes
from suti.world.questions import CHOICES, answers, asked
from suti.world.templates import (
  LIVE_TEMPLATES,
  OBJECT_TEMPLATES,
  Shot,
  class_of,
  split_of,
  subject_seeds,
  template_of,
)


def test_look_alikes_are_of_the_class_and_split_and_nearest_in_colours():
  subject = subject_seeds("test", 3, 1)[0]
  found = look_alikes(subject, count=24)
  assert len(set(found)) == 24 and subject not in found
  assert {class_of(seed) for seed in found} == {class_of(subject)}
  assert {split_of(seed) for seed in found} == {"test"}
  shares = colours([subject, *found])
  distance = np.linalg.norm(shares[1:] - shares[0], axis=-1)
  assert (np.diff(distance) >= 0).all()
  others = [s for s in subject_seeds("test", 0, 300) if s != subject]
  kin = [s for s in others if class_of(s) == class_of(subject)]
  far = np.linalg.norm(colours(kin) - shares[0], axis=-1)
  assert distance.mean() < far.mean()


def test_shares_of_colours_add_up_to_one():
  found = colours(subject_seeds("train", 0, 20))
  np.testing.assert_allclose(np.square(found).sum(-1), 1.0)


def test_groups_take_each_subject_once():
  seeds = subject_seeds("train", 0, 60)
  found = groups(seeds, size=3)
  flat = [seed for group in found for seed in group]
  assert len(flat) == len(set(flat)) and set(flat) <= set(seeds)
  assert all(len({class_of(seed) for seed in group}) == 1 for group in found)
  # What is left is less than a group of each class.
  assert len(flat) >= 60 - 15 * 2


def test_a_line_up_stands_in_one_scene_under_the_same_cameras():
  subject = subject_seeds("test", 0, 1)[0]
  shots = line_up(subject, template=2, seeds=[5, 6])
  assert len(shots) == 50
  assert shots[0].subject == shots[1].subject == subject
  assert shots[2].subject != subject
  assert {(shot.template, shot.seed) for shot in shots} == {(2, 5), (2, 6)}


def test_every_template_asks_two_questions_whose_answers_are_choices():
  for template in (*OBJECT_TEMPLATES, *LIVE_TEMPLATES):
    found = asked(template, "dog")
    assert len(found) == 2 and found["class"] == "dog"
    assert found.items() <= answers(template, "dog").items()
    assert all(answer in CHOICES[q] for q, answer in found.items())


def test_what_a_prompt_leaves_open_is_not_asked():
  dog = next(s for s in subject_seeds("test", 0, 50) if class_of(s) == "dog")
  red = template_of(Shot(subject=dog, template=20))
  assert asked(red, "dog") == {"class": "dog", "look": "red"}
  assert answers(red, "dog")["place"] == "studio"
