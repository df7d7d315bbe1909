# SPDX-License-Identifier: Apache-2.0
"""The benchmark's lists, and that SubjectWorld draws the same ones."""

from suti.evaluation import dreambench
from suti.schema import SKILLS
from suti.world import templates


def test_thirty_subjects_of_fifteen_classes():
  assert len(dreambench.SUBJECTS) == 30
  assert len(dreambench.CLASSES) == 15
  live = [c for c in dreambench.SUBJECTS.values() if c in dreambench.LIVE]
  assert len(live) == 9


def test_twenty_five_prompts_a_group():
  for live in (True, False):
    rows = dreambench.templates_of(live=live)
    assert len({t.text for t in rows}) == 25
    assert all(t.text.count("{}") == 1 for t in rows)
    assert {t.skill for t in rows} <= set(SKILLS)
  both = dreambench.LIVE_TEMPLATES + dreambench.OBJECT_TEMPLATES
  assert len({t.text for t in both}) == 45 - 10


def test_the_world_shows_the_same_prompts_in_the_same_order():
  assert set(templates.CLASSES) == set(dreambench.CLASSES)
  assert set(templates.LIVE) == set(dreambench.LIVE)
  for ours, world in (
    (dreambench.OBJECT_TEMPLATES, templates.OBJECT_TEMPLATES),
    (dreambench.LIVE_TEMPLATES, templates.LIVE_TEMPLATES),
  ):
    assert [(t.text, t.skill) for t in ours] == [
      (t.text, t.skill) for t in world
    ]
