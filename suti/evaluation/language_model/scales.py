# SPDX-License-Identifier: Apache-2.0
"""What a language model is asked, and how its answer becomes numbers.

The scales are those of DreamBench++ (arXiv 2406.16855: concept preservation
and prompt following, 0 to 4 each, divided by 4; their product is the overall
score; three runs) and VIEScore (arXiv 2312.14867: semantics and quality, 0 to
10 each, the lowest of several marks; the square root of their product). The
words of the questions are ours: scores compare with others by these words.

An answer that does not hold exactly the number that was asked for is missing.
Nothing is guessed, and no part of an answer is taken for the whole.
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
  """One thing that is asked.

  Attributes:
    name: of the score.
    text: what is asked; "{prompt}" stands for the picture's prompt.
    with_reference: whether the reference is shown before the picture.
    parse: answer -> a score in [0, 1], None if it holds none.
  """

  name: str
  text: str
  with_reference: bool
  parse: Callable[[str], float | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
  """A way to judge a picture.

  Attributes:
    name: as it is chosen.
    version: of the words.
    questions: asked one by one.
    combine: {name: score} of all -> the overall score.
    runs: how often each is asked.
  """

  name: str
  version: int
  questions: tuple[Question, ...]
  combine: Callable[[Mapping[str, float]], float]
  runs: int


_MARK = re.compile(
  r"\W*(?:final\s+)?score\W*[:=][\s*_]*(-?\d+(?:\.\d+)?)(?:\s*/\s*\d+)?\W*$",
  re.I,
)


def parse_mark(answer: str, *, most: int) -> float | None:
  """The one line "Score: N" of an answer, as a share of `most`."""
  # Line by line: over all of an answer, empty lines would take their square.
  marks = [mark for line in answer.splitlines() if (mark := _MARK.match(line))]
  if len(marks) != 1:
    return None
  mark = float(marks[0][1])
  return mark / most if 0 <= mark <= most else None


def parse_marks(answer: str, *, most: int, count: int) -> float | None:
  """The lowest of the marks in {"score": [..]}, as a share of `most`."""
  found = re.findall(r"\{[^{}]*\}", answer, re.S)
  if len(found) != 1:
    return None
  try:
    marks = json.loads(found[0]).get("score")
  except (ValueError, AttributeError, RecursionError):
    return None
  if not isinstance(marks, Sequence) or isinstance(marks, str):
    return None
  whole = len(marks) == count and all(
    isinstance(m, int | float) and not isinstance(m, bool) and 0 <= m <= most
    for m in marks
  )
  return min(marks) / most if whole else None


_LAST_LINE = (
  "First explain in two or three sentences. Then end with one line of the form "
  "'Score: N', N being a whole number from 0 to 4."
)
_JSON = (
  'Answer with one JSON object and nothing else: {"score": [A%s], "reasoning": '
  '"a sentence"}.'
)

DREAMBENCH_PLUS = Scale(
  name="dreambench-plus",
  version=1,
  questions=(
    Question(
      name="concept",
      text="The first picture shows a subject, the second was generated to "
      "show the same one. How well is the subject kept? Look at its shape, "
      "colour, texture and, if it has one, its face; do not mind background, "
      "pose or style, which were meant to change. 0: another subject. 1: few "
      "traits agree. 2: some agree. 3: most agree. 4: it is the same subject. "
      + _LAST_LINE,
      with_reference=True,
      parse=lambda answer: parse_mark(answer, most=4),
    ),
    Question(
      name="prompt",
      text="This picture was generated from the text: '{prompt}'. How well "
      "does it show what the text says? Mind the things, their number, their "
      "attributes, the place and the style that the text names. 0: nothing of "
      "it. 1: little. 2: half. 3: most. 4: all of it. " + _LAST_LINE,
      with_reference=False,
      parse=lambda answer: parse_mark(answer, most=4),
    ),
  ),
  combine=lambda scores: scores["concept"] * scores["prompt"],
  runs=3,
)
VIESCORE = Scale(
  name="viescore",
  version=1,
  questions=(
    Question(
      name="semantics",
      text="The first picture shows a subject, the second was generated from "
      "the text: '{prompt}'. Give two marks from 0 to 10: A, how well the "
      "second picture follows the text; B, how well its subject is that of "
      "the first picture. 0 is not at all, 10 is perfectly. " + _JSON % ", B",
      with_reference=True,
      parse=lambda answer: parse_marks(answer, most=10, count=2),
    ),
    Question(
      name="quality",
      text="This picture was generated. Give two marks from 0 to 10: A, how "
      "natural it looks, in light, shadow, distance and proportion; B, how "
      "free it is of artefacts, such as smears, broken shapes, wrong limbs. 0 "
      "is not at all, 10 is perfectly. " + _JSON % ", B",
      with_reference=False,
      parse=lambda answer: parse_marks(answer, most=10, count=2),
    ),
  ),
  combine=lambda scores: math.sqrt(scores["semantics"] * scores["quality"]),
  runs=1,
)
SCALES = {scale.name: scale for scale in (DREAMBENCH_PLUS, VIESCORE)}
