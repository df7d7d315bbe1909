# SPDX-License-Identifier: Apache-2.0
"""Captions of a cluster: class noun, subject text and a caption per picture.

SuTI (arXiv 2304.00186, section 3.1) captions every picture with PaLI and lets a
large language model condense a cluster's alt-texts and captions to one short
text of its subject. Neither model is public; here the majority of the alt-texts
decides, and where there is none, CLIP chooses among lists of candidates.

A picture's caption keeps the scene of its alt-text. For its subject it has the
bare noun ("a spotted brown dog in the snow" -> "a dog in the snow"), or with
`config.mine.captions="descriptive"`, as in the paper, the text of the subject
("a spotted brown dog in the snow"); unseen prompts then name it so, too. The
paper's reason is that a generic caption weakens what an expert keeps of its
subject. DreamBench's prompts have the bare noun either way.
"""

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from experts.mining.nouns import KNOWN, LIVE_NOUNS, known_noun, singular
from suti.evaluation.dreambench import CLASSES, with_article

# K pictures of a cluster, M texts, D embedding width.

# (embeddings_KD, texts) -> cosines (K, M)
Match = Callable[[np.ndarray, Sequence[str]], np.ndarray]


def _words(text: str) -> tuple[str, ...]:
  return tuple(text.split())


COLOURS = _words(
  "black blue brown green grey orange pink purple red white yellow"
)
_ARTICLES = frozenset(
  _words(
    "a an the my our your his her its their this that these those some one "
    "two three four five six several many very new old"
  )
)
# Words that begin the scene, after the words of the subject.
_BREAKS = frozenset(
  _words(
    "at against among around before behind beside between by covered "
    "during floating for from in inside is lying near next of on outside "
    "over playing sitting sleeping standing to under wearing while with "
    "without"
  )
)
# Before "of", what follows is the subject: a photo of a dog, a pair of shoes.
_OF = frozenset(
  _words(
    "bunch closeup close-up collection couple drawing group image illustration "
    "lot lots number painting pair pairs photo photograph pic picture pile "
    "portrait print render rendering set shot sketch type view watercolor"
  )
)
_GENERIC = frozenset(
  _words(
    "anything banner click dsc else everything file folder free her him image "
    "img it item logo new nothing page photo photograph pic picture product "
    "pair sale shipping shop someone something stock them thing thumbnail "
    "untitled us"
  )
)
# Nouns in -ing; other words in -ing are verbs.
_THINGS = frozenset(
  _words(
    "building ceiling clothing drawing duckling dumpling earring gosling king "
    "painting pudding railing ring sibling sling spring stocking string swing "
    "thing viking wing"
  )
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Texts:
  """All texts of a cluster.

  Attributes:
    noun: the class noun, "dog".
    why: how it was found, for the log.
    caption: short text of the subject, "a brown dog".
    captions: one text for each picture.
    live: whether the noun is a living thing.
  """

  noun: str
  why: str
  caption: str
  captions: tuple[str, ...]
  live: bool


def words(text: str) -> list[str]:
  """Lower-case words, without names of files and codes (dsc_0012.jpg)."""
  rows = []
  for token in text.lower().split():
    token = token.strip(".,;:!?\"'()[]|-–—#")
    if token and all(c.isalpha() or c in "-'" for c in token):
      rows.append(token)
  return rows


def split_text(text: str) -> tuple[list[str], str]:
  """Splits a text into the words of its subject and the rest, its scene.

  "A photo of a brown dog in the snow" -> (["brown", "dog"], "in the snow").
  A phrase after "with" without an article belongs to the subject and is left
  out: "a dog with white paws on a rug" -> (["dog"], "on a rug"). So is text
  after a known noun and a comma, if it is not a scene: "a dog, oil painting,
  4k".
  """
  rows = words(_first_of(text))
  breaks = [i for i in range(len(rows)) if _breaks(rows, i)] + [len(rows)]
  of = rows.index("of") if "of" in rows else len(rows)
  if 0 < of <= breaks[0] and rows[of - 1] in _OF:
    rows = rows[of + 1 :]
    breaks = [i for i in range(len(rows)) if _breaks(rows, i)] + [len(rows)]
  end, scene = breaks[0], breaks[0]
  for here, after in itertools.pairwise(breaks):
    if rows[here] != "with" or _is_article(rows, here + 1):
      break
    scene = after
  subject = [w for w in rows[:end] if w not in _ARTICLES and w != "and"]
  return subject, " ".join(rows[scene:])


def _first_of(text: str) -> str:
  """A text without what follows a comma after its subject."""
  parts = text.split(",")
  for number, part in enumerate(parts[:-1], start=1):
    rows = words(part)
    if known_noun(rows):
      rest = [
        p for p in parts[number:] if words(p)[:1] and _breaks(words(p), 0)
      ]
      return " ".join([*parts[:number], *rest])
  return text


def _is_article(rows: Sequence[str], i: int) -> bool:
  return i < len(rows) and rows[i] in _ARTICLES


def _breaks(rows: Sequence[str], i: int) -> bool:
  """Whether the words about the subject end here; "red and blue" does not."""
  if rows[i] == "and":
    return _is_article(rows, i + 1)
  if rows[i] in _BREAKS:
    return True
  # "a kettle boiling on a stove", but "a smiling dog" and "a red building".
  return (
    rows[i].endswith("ing")
    and rows[i] not in _THINGS
    and i > 0
    and rows[i - 1] not in _ARTICLES
    and (i + 1 == len(rows) or rows[i + 1] in _BREAKS | _ARTICLES)
  )


def noun_in(subject: Sequence[str]) -> str:
  """The noun of a subject's words: a known one, else the last word."""
  if noun := known_noun(subject):
    return noun
  last = singular(subject[-1]) if subject else ""
  return last if last not in _GENERIC else ""


def noun_phrase(text: str) -> str:
  """The subject of a prompt without adjectives: "a kettle"; "" if none.

  It is the caption of pictures that come without one: in training,
  demonstrations are captioned with the bare noun.
  """
  noun = noun_in(split_text(text)[0])
  return with_article(noun) if noun else ""


def classes_named(texts: Sequence[str]) -> set[str]:
  """The known classes that texts name as their subjects."""
  nouns = {noun_in(split_text(text)[0]) for text in texts}
  return nouns & set(CLASSES)


def find_noun(
  texts: Sequence[str],
  embeddings_KD: np.ndarray,
  match: Match,
  *,
  nouns: Sequence[str] = CLASSES,
) -> tuple[str, str]:
  """The class noun of a cluster.

  Args:
    texts: its alt-texts; some may be useless.
    embeddings_KD: unit CLIP embeddings of its pictures.
    match: compares pictures and texts.
    nouns: candidates for CLIP.

  Returns: the noun that more than half of the informative texts name; without
    such a majority, the best match of the pictures by CLIP, of all named nouns
    and `nouns`. And the reason.
  """
  votes = Counter(n for n in (noun_in(split_text(t)[0]) for t in texts) if n)
  if votes:
    noun, count = votes.most_common(1)[0]
    # A word in only one text may be anything ("free", a name).
    if 2 * count > votes.total() and (count > 1 or noun in KNOWN):
      return noun, f"{count} of {len(texts)} texts name it"
  candidates = sorted({*votes, *nouns})
  texts = [with_article(candidate) for candidate in candidates]
  cosines = match(embeddings_KD, texts).mean(0)
  first, second = np.argsort(-cosines, kind="stable")[:2]
  return candidates[first], (
    f"CLIP finds it in the pictures, at {cosines[first]:.3f}; next is "
    f"{candidates[second]}, at {cosines[second]:.3f}"
  )


def describe(
  noun: str, texts: Sequence[str], embeddings_KD: np.ndarray, match: Match
) -> str:
  """A short text of the subject, "a brown spotted dog".

  Words that half of the informative texts share are taken, in the order of the
  first, and set before the noun, so that "toy dog" and "dog toy" are one; a
  single informative text gives its own. If there are none, CLIP may add one
  colour.
  """
  subjects = [split_text(text)[0] for text in texts]
  rows = [_beside(noun, s) for s in subjects if noun_in(s) == noun]
  count = Counter(word for row in rows for word in set(row))
  shared = [
    word
    for word in dict.fromkeys(w for row in rows for w in row)
    if 2 * count[word] >= len(rows) and (count[word] > 1 or len(rows) == 1)
  ]
  if shared:
    return with_article(" ".join([*shared[:3], noun]))
  candidates = [noun, *(f"{colour} {noun}" for colour in COLOURS)]
  candidates = [with_article(candidate) for candidate in candidates]
  return candidates[int(match(embeddings_KD, candidates).mean(0).argmax())]


def _beside(noun: str, subject: Sequence[str]) -> list[str]:
  """The words of a subject without its noun's."""
  size = len(noun.split())
  for end in range(len(subject), size - 1, -1):
    found = [*subject[end - size : end - 1], singular(subject[end - 1])]
    if " ".join(found) == noun:
      subject = [*subject[: end - size], *subject[end:]]
      break
  return [word for word in subject if word not in _GENERIC]


def caption_of(text: str, noun: str, *, named: str) -> str:
  """The caption of a picture: its subject, and the scene if there is one.

  Args:
    text: its alt-text.
    noun: of the cluster; the scene of a text about something else is left out.
    named: the subject with its article, "a dog" or "a spotted brown dog".
  """
  subject, scene = split_text(text)
  if noun_in(subject) != noun:
    scene = ""
  return f"{named} {scene}".strip()


def words_of_name(name: str) -> list[str]:
  """The words of a folder's name: "My_brownDogs (2)" -> my, brown, dogs."""
  name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
  return [w.lower() for w in re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", name)]


def refine(
  texts: Sequence[str],
  embeddings_KD: np.ndarray,
  match: Match,
  *,
  subject: str = "",
  name: str = "",
  nouns: Sequence[str] = CLASSES,
  captions: str = "noun",
) -> Texts:
  """All texts of a cluster.

  The noun is taken from a table of classes; else it is a known noun in the name
  that the user gave; else the texts or CLIP decide. A name without a known noun
  ("Rex", "IMG 2024") is used neither as a noun nor as a caption.

  Args:
    texts: K alt-texts.
    embeddings_KD: unit CLIP embeddings of the pictures.
    match: compares pictures and texts.
    subject: the class noun if the source gives it.
    name: the user's name of the subject, "grey sloth plushie".
    nouns: candidates for CLIP if no text has a noun.
    captions: what a picture's caption calls the subject, "noun" or
      "descriptive".

  Returns: noun, reason, and the texts made with it.
  """
  called = split_text(" ".join(words_of_name(name)))[0]
  known = known_noun(called)
  if subject:
    noun, why = subject, "the table of classes says so"
  elif known:
    noun, why = known, "its name is a known noun"
    if called != known.split():
      why = "its name has a known noun"
  else:
    noun, why = find_noun(texts, embeddings_KD, match, nouns=nouns)
    if name:
      why = f"its name has no known noun; {why}"
  if known:
    # In the singular, as the noun is: "a brown dog" of "brown dogs".
    caption = with_article(" ".join([*called[:-1], singular(called[-1])]))
  else:
    caption = describe(noun, texts, embeddings_KD, match)
  named = with_article(noun) if captions == "noun" else caption
  return Texts(
    noun=noun,
    why=why,
    caption=caption,
    captions=tuple(caption_of(text, noun, named=named) for text in texts),
    live=noun in LIVE_NOUNS,
  )
