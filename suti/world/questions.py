# SPDX-License-Identifier: Apache-2.0
"""What a prompt asks for, as multiple-choice questions with their answers.

A template asks for a class, and for a place, a look, an outfit or a style where
it names one: two questions a template and up to five a composition, each with
the world's own choices. What a template leaves open (where "a red dog" stands)
is not asked.
"""

from suti.world.templates import CLASSES, PARTS, Template

NONE = "none"
_STUDIO = "studio"  # a plain backdrop, which no prompt names

# Question -> what may be answered.
CHOICES = {
  "class": CLASSES,
  **{part: tuple(n or NONE for n in names) for part, names in PARTS.items()},
}


def answers(template: Template, noun: str) -> dict[str, str]:
  """Everything that is true of a picture, {question: answer}.

  Args:
    template: what the picture was rendered from.
    noun: the subject's class.
  """
  asked = {field: getattr(template, field) or NONE for field in PARTS}
  return {"class": noun} | asked


def asked(template: Template, noun: str) -> dict[str, str]:
  """The part of `answers` that a template's prompt names."""
  return {
    question: answer
    for question, answer in answers(template, noun).items()
    if answer not in (NONE, _STUDIO)
  }
