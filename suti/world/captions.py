# SPDX-License-Identifier: Apache-2.0
"""True words for a subject and for a shot.

DreamBench's prompts are kept word by word ("a glasses in the snow"), since
an evaluation uses them.
"""

from suti.evaluation.styles import styled
from suti.world.subjects import phrase
from suti.world.templates import Shot, class_of, template_of


def describe(seed: int) -> str:
  """A short true description of a subject: "brown dog with white ears"."""
  colour, pattern, noun, rest = phrase(int(seed))
  return " ".join(w for w in (colour, pattern, noun) if w) + rest


def with_article(text: str) -> str:
  """Puts "a" or "an" in front."""
  return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def caption(shot: Shot, *, detailed: bool = False) -> str:
  """The text of a shot.

  Args:
    shot: the picture.
    detailed: with the subject's colour, pattern and parts, as far as the
      template leaves them visible.

  Returns:
    "a dog in the snow", or "a brown dog with white ears in the snow".
  """
  template = template_of(shot)
  if not detailed:
    return template.text.format(class_of(shot.subject))
  colour, pattern, noun, rest = phrase(int(shot.subject))
  if template.look in ("red", "purple"):
    colour = ""  # the template names the colour
  if template.look in ("red", "purple", "cube") or template.wardrobe:
    rest = ""  # gone, or an outfit may hide it
  words = " ".join(w for w in (colour, pattern, noun) if w) + rest
  text = template.text.removeprefix(styled("", template.style))
  text = with_article(text.format(words).removeprefix("a "))
  return styled(text, template.style)
