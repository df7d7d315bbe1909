# SPDX-License-Identifier: Apache-2.0
"""What a prompt asks for, as multiple-choice questions with their answers.

A template asks for a class, and for a place, a look, an outfit or a style where
it names one: two or three questions a template, each with the world's own
choices. What a template leaves open (where "a red dog" stands) is not asked.
"""

import dataclasses

from suti.world.templates import (
  CLASSES,
  LIVE_TEMPLATES,
  OBJECT_TEMPLATES,
  Template,
)

NONE = "none"
_STUDIO = "studio"  # a plain backdrop, which no prompt names
# What of a template is asked, where the world has it.
_FIELDS = tuple(
  field.name
  for field in dataclasses.fields(Template)
  if field.name in ("place", "look", "wardrobe", "style")
)


def _choices(field: str) -> tuple[str, ...]:
  named = [getattr(t, field) for t in OBJECT_TEMPLATES + LIVE_TEMPLATES]
  other = _STUDIO if field == "place" else NONE
  return tuple(dict.fromkeys((other, *filter(None, named))))


# Question -> what may be answered.
CHOICES = {
  "class": CLASSES,
  **{field: _choices(field) for field in _FIELDS},
}


def answers(template: Template, noun: str) -> dict[str, str]:
  """Everything that is true of a picture, {question: answer}.

  Args:
    template: what the picture was rendered from.
    noun: the subject's class.
  """
  told = {field: getattr(template, field) or NONE for field in _FIELDS}
  return {"class": noun} | told


def asked(template: Template, noun: str) -> dict[str, str]:
  """The part of `answers` that a template's prompt names."""
  return {
    question: answer
    for question, answer in answers(template, noun).items()
    if answer not in (NONE, _STUDIO)
  }
