# SPDX-License-Identifier: Apache-2.0
"""Multiple-choice questions about pictures, after TIFA (arXiv 2303.11897).

TIFA asks a vision-language model questions made of a prompt; here the judge's
own heads choose among the world's answers. What a prompt leaves open is not
asked. A picture's score is the share of its questions answered as asked.
"""

from collections.abc import Mapping, Sequence

import numpy as np


def shares(
  answers: Mapping[str, Sequence[str] | np.ndarray],
  asked: Sequence[Mapping[str, str]],
) -> dict[str, list[float]]:
  """How often pictures show what was asked for.

  Args:
    answers: question -> what the judge sees in each picture.
    asked: of each picture, question -> the right answer.

  Returns: "questions" -> each picture's share of right answers, and each
    question -> 1.0 or 0.0 for the pictures of which it was asked. Pictures that
    are asked nothing the judge can answer are left out.
  """
  scores: dict[str, list[float]] = {"questions": []}
  for row, right in enumerate(asked):
    hits = {
      q: float(answers[q][row] == right[q]) for q in right if q in answers
    }
    for question, hit in hits.items():
      scores.setdefault(question, []).append(hit)
    if hits:
      scores["questions"].append(float(np.mean(list(hits.values()))))
  return {name: values for name, values in scores.items() if values}
