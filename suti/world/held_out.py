# SPDX-License-Identifier: Apache-2.0
"""Prompts that training may leave out, so that an evaluation can ask for them.

Templates: 5 of each group's 25, 20 to learn from. Each thing that a template
can change is held out once: a ground, a backdrop, a liquid, the subject's
colour, a hat, an outfit; so each skill is represented, and by prompts of which
the rest of its kind is learned. Most of their words are met in other prompts
("white", "rug", "purple", "red", "hat", "outfit"), so that a model may put
them together. "Fabric", "mountain", "ocean", "milk" and "firefighter" are not:
an apprentice has to carry them over from a base that has seen them, and a base
that has not cannot know them.

Compositions: of two names of places, looks and outfits, one pair in six, by a
hash. A scene with a third is held out if any two of its names are.

Words: in no caption that anything learns from, for things that it knows under
other words.
"""

import hashlib
import itertools
from collections.abc import Sequence

from suti.world.templates import (
  LIVE_TEMPLATES,
  NUM_TEMPLATES,
  OBJECT_TEMPLATES,
  Template,
  composition,
  template_named,
  templates_of,
)

WHICH = ("all", "seen", "held_out")

# Names of places, looks and outfits, as in `Template`: of both groups; of
# objects; of live subjects.
TEMPLATES_HELD_OUT = (
  *("pink fabric", "mountain", "purple"),
  *("milk", "white rug"),
  *("red hat", "firefighter"),
)
WORDS_HELD_OUT = (
  "shore",
  "rainforest",
  "blizzard",
  "pup",
  "rucksack",
  "trainers",
  "downtown",
  "alps",
  "spectacles",
  "plushie",
  "cottage",
)


def is_held_out(template: Template | None) -> bool:
  """Whether it is one of the templates to leave out, or has a held-out pair.

  In whatever style; what is no template (None) is not held out.
  """
  if template is None:
    return False
  names = (template.place, template.look, template.wardrobe)
  return bool(set(names) & set(TEMPLATES_HELD_OUT)) or pair_held_out(*names)


def pair_held_out(*names: str) -> bool:
  """Whether two of these names are never shown together in training.

  Args:
    *names: of a place, a look and an outfit, in any order; "" and "studio" are
      none.
  """
  given = sorted(name for name in names if name and name != "studio")
  return any(
    hashlib.sha256(f"{a}|{b}".encode()).digest()[0] % 6 == 0
    for a, b in itertools.combinations(given, 2)
  )


def template_rows(class_name: str, which: str) -> Sequence[int]:
  """Which of a class's 25 templates to take.

  Args:
    class_name: which decides the group.
    which: "all", "seen" (20) or "held_out" (5).

  Raises:
    ValueError: it is none of these.
  """
  if which not in WHICH:
    raise ValueError(
      f"templates={which!r}: expected one of {', '.join(WHICH)}."
    )
  return [
    row
    for row, template in enumerate(templates_of(class_name))
    if which == "all" or is_held_out(template) == (which == "held_out")
  ]


def find_template(prompt: str, noun: str, *, live: bool) -> Template | None:
  """The template or the composition that a prompt is of, None for others.

  Args:
    prompt: "a wet dog in the snow".
    noun: of its subject, "dog", or "{}".
    live: the group of its subject.
  """
  text = prompt.replace(f"an {noun}", f"a {noun}")
  number = template_named(text, noun, live=live)
  if number is None:
    return None
  if number < NUM_TEMPLATES:
    return (LIVE_TEMPLATES if live else OBJECT_TEMPLATES)[number]
  return composition(number)
