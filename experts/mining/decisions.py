# SPDX-License-Identifier: Apache-2.0
"""Log messages about mining's decisions on each subject.

They report which noun a subject got and why, which pictures could not be read,
which pages were left out, and how many good pictures are unused. A bounded
number of each kind is printed and the rest counted; `pages.json` has all.
"""

from collections.abc import Sequence

from suti.evaluation.dreambench import MOST_REFERENCES

_MAX_LINES = 20


def decisions(facts: Sequence[dict], config) -> list[str]:
  """The lines.

  Args:
    facts: what `experts.mine` writes to pages.json.
    config: the section `mine`.
  """
  kept = [fact for fact in facts if fact["outcome"] == "kept"]
  left_out = [fact for fact in facts if fact["outcome"] != "kept"]
  bad = [fact for fact in facts if fact["unreadable"]]
  unlike = [fact for fact in facts if fact["unlike_text"]]
  return [
    *_bounded([_noun(fact) for fact in kept], "subjects"),
    *_bounded([_bad(fact) for fact in bad], "pages with such pictures"),
    *_bounded([_unlike(f, config) for f in unlike], "pages with such pictures"),
    *_bounded([_left_out(f, config) for f in left_out], "pages left out"),
    *_unused(kept, config),
  ]


def _bounded(lines: Sequence[str], what: str) -> list[str]:
  more = len(lines) - _MAX_LINES
  rest = [f"... and {more} more {what}: experts/mine/pages.json."]
  return [*lines[:_MAX_LINES], *(rest if more > 0 else [])]


def _noun(fact: dict) -> str:
  return f"{fact['url']}: its noun is '{fact['noun']}'; {fact['why']}."


def _bad(fact: dict) -> str:
  number = fact["unreadable"]
  total = number + sum(fact[n] for n in ("pictures", "repeated", "unlike_text"))
  return (
    f"{fact['url']}: {number} of {total} pictures cannot be read and"
    f" {'is' if number == 1 else 'are'} left out, the first:"
    f" {fact['first_unreadable']}"
  )


def _unlike(fact: dict, config) -> str:
  return (
    f"{fact['url']}: {fact['unlike_text']} pictures are unlike their own texts,"
    f" below config.mine.text_similarity_low={config.text_similarity_low}, and"
    " are left out."
  )


def _left_out(fact: dict, config) -> str:
  why = fact["outcome"].replace("_", " ")
  if fact["outcome"] == "few_pictures":
    why = (
      f"{fact['pictures']} different pictures, and config.mine.min_images="
      f"{config.min_images} are needed"
    )
  return f"{fact['url']} is left out: {why}."


def _unused(kept: Sequence[dict], config) -> list[str]:
  rows = [fact for fact in kept if fact["unused"]]
  if not rows:
    return []
  most = max(rows, key=lambda fact: fact["unused"])
  return [
    f"{sum(fact['unused'] for fact in rows)} pictures of {len(rows)} subjects"
    f" are not used, most of {most['url']} ({most['unused']}):"
    f" config.mine.max_images={config.max_images}, of a benchmark"
    f" {MOST_REFERENCES}."
  ]
