# SPDX-License-Identifier: Apache-2.0
"""What a teacher is told of texts beside their states: tokens, and the noun.

Of the prompts of a request, and of the captions of the pictures in a batch of
the tuning. A text that does not name its subject is a cause: its cluster's
expert is not tuned, or what it samples is not kept.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from experts.teacher import TEXTUAL
from suti.pipeline.backbone import Backbone
from suti.pipeline.text_encoders import Tokenizer, open_tokenizer

# E experts, L tokens.

Row = dict[str, np.ndarray]  # of one text, as `Teacher.asks` has it


def text_rows(
  texts: Mapping[str, Sequence[str]],
  nouns: Mapping[str, str],
  backbone: Backbone,
  *,
  wanted: Collection[str],
  causes: dict[str, str],
  what: str = "prompt",
) -> list[list[Row]]:
  """What is asked of each text; why there is none is a cause.

  Args:
    texts: of E clusters.
    nouns: of those that can be read.
    backbone: whose first text encoder's tokens count.
    wanted: of `TEXTUAL`; other names are passed over.
    causes: {cluster: why it cannot give what is asked for}; added to.
    what: the texts are called in these.

  Returns: of each cluster a row for each text, blank where there is a cause.
  """
  blank = blank_row(backbone, wanted)
  if not blank:
    return [[{} for _ in each] for each in texts.values()]
  tokenizer = open_tokenizer(backbone.folder)
  rows = []
  for key, each in texts.items():
    found: list[Row] = []
    if key in nouns and each:
      found, cause = _rows(each, nouns[key], tokenizer, wanted, what)
      if cause:
        causes.setdefault(key, cause)
    rows.append(found or [blank] * len(each))
  return rows


def _rows(
  texts: Sequence[str],
  noun: str,
  tokenizer: Tokenizer,
  wanted: Collection[str],
  what: str,
) -> tuple[list[Row], str]:
  rows: list[Row] = [{} for _ in texts]
  if "noun" in wanted:
    found, cause = noun_tokens(texts, noun, tokenizer, what=what)
    if cause:
      return [], cause
    rows = [row | {"noun_BL": x} for row, x in zip(rows, found, strict=True)]
  if "tokens" in wanted:
    ids_BL = tokenizer(texts)
    rows = [row | {"ids_BL": x} for row, x in zip(rows, ids_BL, strict=True)]
  return rows, ""


def noun_tokens(
  texts: Sequence[str], noun: str, tokenizer: Tokenizer, *, what: str = "prompt"
) -> tuple[list[np.ndarray], str]:
  """Which tokens of each text are its subject's noun.

  Where the noun stands twice, its last place counts, as in SynCD's code, which
  takes the third token where it does not stand at all; here that is a cause.

  Args:
    texts: of some rows.
    noun: of their subject.
    tokenizer: of the text encoder whose states are attended to.
    what: a text is called where there is none.

  Returns: bool (L,) of each, and why there is none, "" if there is.
  """
  ids_BL, is_text_BL = tokenizer.with_mask([*texts, noun, ""])
  around = set(ids_BL[-1][is_text_BL[-1]].tolist())  # begin and end of any text
  wanted = [i for i in ids_BL[-2][is_text_BL[-2]].tolist() if i not in around]
  found = []
  for text, ids_L in zip(texts, ids_BL[:-2].tolist(), strict=True):
    starts = [
      start
      for start in range(len(ids_L) - len(wanted) + 1)
      if ids_L[start : start + len(wanted)] == wanted
    ]
    if not starts or not wanted:
      return [], f"the {what} '{text}' does not name its subject, '{noun}'"
    noun_L = np.zeros(len(ids_L), bool)
    noun_L[starts[-1] : starts[-1] + len(wanted)] = True
    found.append(noun_L)
  return found, ""


def blank_row(backbone: Backbone, wanted: Collection[str]) -> Row:
  """A row that says nothing; its shapes need no tokenizer."""
  if not TEXTUAL & set(wanted):
    return {}
  length = backbone.encode_text([""])["text_BLD"].shape[1]
  blank = {}
  if "noun" in wanted:
    blank["noun_BL"] = np.zeros(length, bool)
  if "tokens" in wanted:
    blank["ids_BL"] = np.zeros(length, np.int32)
  return blank
