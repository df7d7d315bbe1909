# SPDX-License-Identifier: Apache-2.0
"""What the judge saw, on the report's page: scores beside its own error rate.

A table of systems by measure, each with its 95% interval over subjects and its
share of what true renders of the same prompts score, and what the apprentice
has more than the others. No number is computed here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from suti.evaluation import page

# What is shown of metrics["judged"], and the digits of a number.
MEASURES = {
  "retrieval": "who: one of 25 look-alikes",
  "questions": "asked and answered",
  "distance": "distance to real (KID)",
  "sharpness": "sharpness",
}
QUESTIONS = ("class", "place", "look", "wardrobe", "style")
REAL = "scenes"


def judged(
  metrics: Mapping[str, Any], *, labels: Mapping[str, str]
) -> list[str]:
  """The section of the judge; says so where there is none.

  Args:
    metrics: of `apprentice.evaluate`, with "judged" and "encoders".
    labels: system -> what the page calls it.
  """
  found = metrics.get("judged")
  if found is None:
    return []
  title = "Judged by the world's truth"
  if "absent" in found:
    return [page.section(title, page.paragraph(f"Absent: {found['absent']}."))]
  systems = found["systems"]
  names = [name for name in labels if name in systems]
  rows = [
    [labels[name], *(_cell(systems[name].get(m)) for m in MEASURES)]
    for name in names
  ]
  shares = [
    [labels[name], *(_share(systems[name].get(m)) for m in MEASURES)]
    for name in names
    if name != REAL
  ]
  asked = [q for q in QUESTIONS if any(q in systems[n] for n in names)]
  answers = [
    [labels[name], *(_cell(systems[name].get(q)) for q in asked)]
    for name in names
  ]
  return [
    page.section(
      title,
      page.paragraph(_meaning(systems.get(REAL, {}))),
      page.card(page.table(["", *MEASURES.values()], rows)),
      page.paragraph(
        "The same as shares of what true renders of the prompts score on the "
        "same subjects:"
      ),
      page.card(page.table(["", *MEASURES.values()], shares)),
      *(
        [
          page.paragraph("Right answers to each question:"),
          page.card(page.table(["", *asked], answers)),
        ]
        if asked
        else []
      ),
      *_differences(found.get("differences", {}), labels),
      page.listing(_encoders(metrics.get("encoders", {}), systems)),
    )
  ]


def _meaning(real: Mapping[str, Any]) -> str:
  wrong = [
    f"{1 - real[measure]['mean']:.0%} in {name}"
    for measure, name in (("retrieval", "who"), ("questions", "questions"))
    if measure in real
  ]
  return (
    "Measured by an encoder that neither chose the data nor conditions a "
    "model. Who: the share of images whose subject it finds among 25 of the "
    "class, those nearest in colours, all rendered in the image's scene; "
    "chance is 4%. "
    "Questions: class, and place, look or outfit where the prompt names one. "
    "Distance: of features to those of true renders, 0 for real pictures. "
    "Sharpness: mean absolute Laplacian. In brackets, 95% intervals over "
    "subjects. The judge's own error, on true renders: "
    + (", ".join(wrong) or "not measured")
    + "."
  )


def _cell(value: Mapping[str, Any] | None) -> str:
  if value is None:
    return "–"
  digits = 1 if value["mean"] >= 2 else 3
  text = f"{value['mean']:.{digits}f}"
  if value.get("low") is None:
    return text
  return f"{text} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def _share(value: Mapping[str, Any] | None) -> str:
  share = (value or {}).get("of_real")
  return _cell(share)


def _differences(
  differences: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str]
) -> list[str]:
  """What the apprentice has more than each other system."""
  names = [name for name in labels if name in differences]
  rows = [
    [labels[name], *(_change(differences[name].get(m)) for m in MEASURES)]
    for name in names
  ]
  if not rows:
    return []
  return [
    page.paragraph(
      "The apprentice less each other system, on the subjects of both; where "
      "the interval holds 0, the difference is below resolution:"
    ),
    page.card(page.table(["", *MEASURES.values()], rows)),
  ]


def _change(value: Mapping[str, Any] | None) -> str:
  if value is None:
    return "–"
  text = f"{value['mean']:+.3f}"
  if value.get("low") is None:
    return text
  return f"{text} [{value['low']:+.3f}, {value['high']:+.3f}]"


def _encoders(
  encoders: Mapping[str, Any], systems: Mapping[str, Any]
) -> Sequence[str]:
  """Who conditions, filters and judges, and what was left out."""
  lines = [
    f"{role}: "
    + ", ".join(f"{name} ({key})" for name, key in encoders[role].items())
    for role in ("conditioning", "filter", "scores", "judge")
    if role in encoders
  ]
  if same := encoders.get("same"):
    lines.append(f"The same training in two roles: {'; '.join(same)}.")
  left = {n: s["left_out"] for n, s in systems.items() if s.get("left_out")}
  if left:
    listed = ", ".join(f"{count} of {name}" for name, count in left.items())
    lines.append(
      f"Left out, as the world has no truth for their prompts: {listed}."
    )
  return lines


def summary_line(judged: Mapping[str, Any]) -> dict[str, float]:
  """The numbers of a stage's one line: apprentice and true renders."""
  numbers = {}
  for name in ("apprentice", REAL):
    row = judged.get("systems", {}).get(name, {})
    for measure in MEASURES:
      if measure in row:
        numbers[f"{name}_{measure}"] = row[measure]["mean"]
  return numbers
