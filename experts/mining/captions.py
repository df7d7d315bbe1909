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

import itertools
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from suti.evaluation.dreambench import CLASSES, LIVE

# K pictures of a cluster, M texts, D embedding width.

# (embeddings_KD, texts) -> cosines (K, M)
Match = Callable[[np.ndarray, Sequence[str]], np.ndarray]


def _words(text: str) -> tuple[str, ...]:
  return tuple(text.split())


COLOURS = _words(
  "black blue brown green grey orange pink purple red white yellow"
)
LIVE_NOUNS = frozenset(LIVE) | frozenset(
  _words(
    "animal baby bear bird boy child cow fish girl hamster horse kitten "
    "man monkey person puppy rabbit sheep woman"
  )
)
_ARTICLES = frozenset(
  _words("a an the my our your this that some one very new old")
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
_GENERIC = frozenset(
  _words(
    "banner click file free image img item logo new page photo photograph "
    "pic picture product sale shipping shop stock thumbnail untitled"
  )
)


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
  "a dog with white paws on a rug" -> (["dog"], "on a rug").
  """
  rows = words(text)
  if "of" in rows[:3] and rows[rows.index("of") - 1] in _GENERIC:
    rows = rows[rows.index("of") + 1 :]
  breaks = [i for i in range(len(rows)) if _breaks(rows, i)] + [len(rows)]
  end, scene = breaks[0], breaks[0]
  for here, after in itertools.pairwise(breaks):
    if rows[here] != "with" or _is_article(rows, here + 1):
      break
    scene = after
  subject = [w for w in rows[:end] if w not in _ARTICLES and w != "and"]
  return subject, " ".join(rows[scene:])


def _is_article(rows: Sequence[str], i: int) -> bool:
  return i < len(rows) and rows[i] in _ARTICLES


def _breaks(rows: Sequence[str], i: int) -> bool:
  """Whether the words about the subject end here; "red and blue" does not."""
  if rows[i] == "and":
    return _is_article(rows, i + 1)
  return rows[i] in _BREAKS


def noun_in(subject: Sequence[str]) -> str:
  """The noun of a subject's words: a known class, else the last word."""
  for size in (2, 1):
    if " ".join(subject[-size:]) in CLASSES:
      return " ".join(subject[-size:])
  known = [w for w in subject if w in CLASSES]
  if known:
    return known[-1]
  return subject[-1] if subject and subject[-1] not in _GENERIC else ""


def classes_named(texts: Sequence[str]) -> set[str]:
  """The known classes that texts name as their subjects."""
  nouns = {noun_in(split_text(text)[0]) for text in texts}
  return nouns & set(CLASSES)


def find_noun(
  texts: Sequence[str], embeddings_KD: np.ndarray, match: Match
) -> str:
  """The class noun of a cluster.

  Args:
    texts: its alt-texts, useless ones among them.
    embeddings_KD: unit CLIP embeddings of its pictures.
    match: compares pictures and texts.

  Returns: the noun that more than half of the telling texts name; without such
    a majority, the one of all named nouns and all known classes that CLIP finds
    in the pictures.
  """
  votes = Counter(n for n in (noun_in(split_text(t)[0]) for t in texts) if n)
  if votes:
    noun, count = votes.most_common(1)[0]
    # A word that one text alone has may be anything ("free", a name).
    if 2 * count > votes.total() and (count > 1 or noun in CLASSES):
      return noun
  candidates = sorted({*votes, *CLASSES})
  return candidates[_best(embeddings_KD, candidates, match)]


def describe(
  noun: str, texts: Sequence[str], embeddings_KD: np.ndarray, match: Match
) -> str:
  """A short text of the subject, "a brown spotted dog".

  Adjectives that half of the telling texts share are taken, in the order of the
  first; where they share none, CLIP may add one colour.
  """
  subjects = [split_text(text)[0] for text in texts]
  size = len(noun.split())
  described = [s[:-size] for s in subjects if " ".join(s[-size:]) == noun]
  count = Counter(word for row in described for word in set(row))
  shared = [
    word
    for word in dict.fromkeys(w for row in described for w in row)
    if 2 * count[word] >= len(described) and count[word] > 1
  ]
  if shared:
    return _with_article(" ".join([*shared[:3], noun]))
  candidates = [noun, *(f"{colour} {noun}" for colour in COLOURS)]
  return _with_article(candidates[_best(embeddings_KD, candidates, match)])


def caption_of(text: str, noun: str) -> str:
  """A picture's text with the bare noun: its scene is kept if it names one."""
  subject, scene = split_text(text)
  if noun_in(subject) != noun:
    return f"a {noun}"
  return f"a {noun} {scene}".strip()


def _best(
  embeddings_KD: np.ndarray, candidates: Sequence[str], match: Match
) -> int:
  """Which candidate CLIP finds in the pictures, on the mean over them."""
  texts = [_with_article(candidate) for candidate in candidates]
  return int(match(embeddings_KD, texts).mean(0).argmax())


def _with_article(text: str) -> str:
  return f"{'an' if text[:1] in 'aeiou' else 'a'} {text}"


def refine(
  texts: Sequence[str],
  embeddings_KD: np.ndarray,
  match: Match,
  *,
  subject: str = "",
  name: str = "",
) -> tuple[str, str, tuple[str, ...], bool]:
  """All texts of a cluster.

  Args:
    texts: K alt-texts.
    embeddings_KD: unit CLIP embeddings of the pictures.
    match: compares pictures and texts.
    subject: the class noun where the source knows it.
    name: what a person called the subject, "grey sloth plushie".

  Returns: class noun, short subject text, K captions, whether it is alive.
  """
  if name:
    noun = (
      subject or noun_in(name.split()) or find_noun(texts, embeddings_KD, match)
    )
    caption = _with_article(name)
  else:
    noun = subject or find_noun(texts, embeddings_KD, match)
    caption = describe(noun, texts, embeddings_KD, match)
  captions = tuple(caption_of(text, noun) for text in texts)
  return noun, caption, captions, noun in LIVE_NOUNS
