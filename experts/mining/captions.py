# SPDX-License-Identifier: Apache-2.0
"""Alt-texts of a cluster -> class noun, short subject text, one text a picture.

SuTI (arXiv 2304.00186, section 3.1) captions every picture with PaLI and lets a
large language model condense a cluster's alt-texts and captions to one short
text of its subject. Neither model is public; here the texts vote, and CLIP
decides between what they leave open, over lists of candidates.

A picture's own text keeps its scene and gets the bare noun for its subject ("a
spotted brown dog in the snow" -> "a dog in the snow"): experts are asked for "a
dog ..." later, so the noun, and no adjective, must come to mean this subject.
No picture is described here that had no text.
"""

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from experts.mining.nouns import KNOWN, LIVE_NOUNS, known_noun, singular
from suti.evaluation.dreambench import CLASSES

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
# Where the words about the subject end and those about the scene begin.
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
    "sale shipping shop someone something stock them thing thumbnail untitled "
    "us"
  )
)
_AS_YOU = ("eu", "one", "uk", "uni", "use")
_SILENT = ("heir", "honest", "hour")
# Ends in -ing and is a thing; else it is what the subject does.
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
    why: how it was found, for the person who reads the log.
    caption: short text of the subject, "a brown dog".
    captions: one text for each picture.
    live: whether the noun is alive.
  """

  noun: str
  why: str
  caption: str
  captions: tuple[str, ...]
  live: bool


def words(text: str) -> list[str]:
  """Lower-case words; names of files and codes (dsc_0012.jpg) are none."""
  rows = []
  for token in text.lower().split():
    token = token.strip(".,;:!?\"'()[]|-–—#")
    if token and all(c.isalpha() or c in "-'" for c in token):
      rows.append(token)
  return rows


def split_text(text: str) -> tuple[list[str], str]:
  """Cuts a text into the words of its subject and the rest, its scene.

  "A photo of a brown dog in the snow" -> (["brown", "dog"], "in the snow").
  What follows "with" without an article is a part of the subject and left out:
  "a dog with white paws on a rug" -> (["dog"], "on a rug"). So is what follows
  a known noun behind a comma, if it is no scene: "a dog, oil painting, 4k".
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
  """A text without what commas add to a subject that was named before."""
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
  """What a prompt is about, without adjectives: "a kettle"; "" if nothing.

  As pictures without captions of their own are shown to an apprentice: the
  bare noun is what demonstrations were captioned with.
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
    texts: its alt-texts, useless ones among them.
    embeddings_KD: unit CLIP embeddings of its pictures.
    match: compares pictures and texts.
    nouns: what CLIP chooses among.

  Returns: the noun that more than half of the telling texts name; without such
    a majority, the one of all named nouns and of `nouns` that CLIP finds in the
    pictures. And why.
  """
  votes = Counter(n for n in (noun_in(split_text(t)[0]) for t in texts) if n)
  if votes:
    noun, count = votes.most_common(1)[0]
    # A word that one text alone has may be anything ("free", a name).
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

  Adjectives that half of the telling texts share are taken, in the order of the
  first; where they share none, CLIP may add one colour.
  """
  size = len(noun.split())
  rows = []
  for subject in (split_text(text)[0] for text in texts):
    ends = [*subject[-size:-1], singular(subject[-1])] if subject else []
    if " ".join(ends) == noun:
      rows.append(subject[:-size])
  count = Counter(word for row in rows for word in set(row))
  shared = [
    word
    for word in dict.fromkeys(w for row in rows for w in row)
    if 2 * count[word] >= len(rows) and count[word] > 1
  ]
  if shared:
    return with_article(" ".join([*shared[:3], noun]))
  candidates = [noun, *(f"{colour} {noun}" for colour in COLOURS)]
  candidates = [with_article(candidate) for candidate in candidates]
  return candidates[int(match(embeddings_KD, candidates).mean(0).argmax())]


def caption_of(text: str, noun: str) -> str:
  """A picture's text with the bare noun: its scene is kept if it names one."""
  subject, scene = split_text(text)
  if noun_in(subject) != noun:
    scene = ""
  return f"{with_article(noun)} {scene}".strip()


def with_article(text: str) -> str:
  """A text behind its article, by its sound: "an owl", "a unicorn"."""
  vowel = text.startswith(tuple("aeiou")) and not text.startswith(_AS_YOU)
  return f"{'an' if vowel or text.startswith(_SILENT) else 'a'} {text}"


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
) -> Texts:
  """All texts of a cluster.

  The noun is what a table of classes says; else a known noun in the name that a
  person gave; else what the texts or CLIP say. A name that is no known noun
  ("Rex", "IMG 2024") is neither a noun nor a caption.

  Args:
    texts: K alt-texts.
    embeddings_KD: unit CLIP embeddings of the pictures.
    match: compares pictures and texts.
    subject: the class noun where the source knows it.
    name: what a person called the subject, "grey sloth plushie".
    nouns: what CLIP chooses among where nothing names one.

  Returns: noun, why, and the texts that follow from it.
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
  return Texts(
    noun=noun,
    why=why,
    caption=caption,
    captions=tuple(caption_of(text, noun) for text in texts),
    live=noun in LIVE_NOUNS,
  )
