# SPDX-License-Identifier: Apache-2.0
"""SubjectWorld as data: a web of pages, and held-out subjects.

The web stands where SuTI has WebLI (arXiv 2304.00186, section 3.1): rows
of (url, alt-text, image) with the noise of the web. The shares of noise are
ours; the paper gives only what it drops (77.8% of pages for too few pictures,
81.1% of the rest for similarity). As a dataset on disk: `builder.py`.
"""

import dataclasses
import io
from collections.abc import Collection, Iterator

import numpy as np
from PIL import Image

from suti.schema import Cluster, content_key
from suti.world.captions import caption, describe, with_article
from suti.world.ranges import SUBJECTS_A_PAGE, web_start
from suti.world.render import render_shots
from suti.world.templates import (
  CLASSES,
  LIVE,
  Shot,
  class_of,
  split_of,
  subject_seeds,
)

__all__ = [
  "LIVE",
  "VERSION",
  "Shot",
  "WebRow",
  "caption",
  "class_of",
  "describe",
  "heldout",
  "render_shots",
  "subject_seeds",
  "web_rows",
]

# Of pictures and captions: pictures of another version are rendered anew.
VERSION = "1.0.0"

_PAGES_A_BATCH = 16  # about 80 pictures: the renderer works in batches

# Kinds of pages and their shares.
_KINDS = {"good": 0.55, "mixed": 0.18, "thin": 0.12, "repeated": 0.15}

# Share of pictures on a page that only repeat the one before.
_AGAIN = 0.08

_USELESS = (
  "IMG_{:04d}.jpg",
  "DSC{:05d}",
  "buy now",
  "free shipping over 50",
  "click to enlarge",
  "product photo {:d}",
  "image",
  "",
)
# Pages show subjects in these places alone. Changed and dressed subjects are
# left to the prompts.
_NUM_PLACES = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class WebRow:
  """One picture of the web.

  Attributes:
    url: of the page it was found on.
    alt_text: the page's text for it, which may be useless.
    image: uint8 RGB (H, W, 3).
    truth: "world:SPLIT:SEED", for evaluation alone.
    view: the same for near-duplicates of one picture; for evaluation alone.
  """

  url: str
  alt_text: str
  image: np.ndarray
  truth: str
  view: str


def web_rows(
  split: str, *, num_pages: int, seed: int, start: int = 0, size_px: int = 64
) -> Iterator[WebRow]:
  """The pages of a small web, row by row, the rows of a page side by side.

  A page depends on `split`, `seed` and its number alone: a reader that has seen
  `start` pages goes on from there at no cost.

  Args:
    split: of the subjects.
    num_pages: where to stop.
    seed: which web. Those of two seeds share subjects where these differ by a
      multiple of 224, or where pages go beyond a million (`ranges.py`).
    start: pages to leave out at the beginning.
    size_px: side of the pictures.

  Yields: rows.
  """
  for first in range(start, num_pages, _PAGES_A_BATCH):
    last = min(first + _PAGES_A_BATCH, num_pages)
    plans = [
      plan
      for page in range(first, last)
      for plan in _page(split, page=page, seed=seed)
    ]
    images = render_shots([plan.shot for plan in plans], size_px=size_px)
    for plan, image in zip(plans, images["image"], strict=True):
      yield WebRow(
        url=plan.url,
        alt_text=plan.alt_text,
        image=spoiled(image, plan.spoil) if plan.spoil else image,
        truth=_truth(plan.shot.subject),
        view=f"{plan.shot.template}:{plan.shot.seed}",
      )


def heldout(
  split: str,
  *,
  num_subjects: int,
  images_each: int,
  size_px: int = 64,
  nouns: Collection[str] = (),
) -> list[Cluster]:
  """Subjects for evaluation: a few everyday pictures of each.

  Args:
    split: "validation" or "test".
    num_subjects: one cluster each.
    images_each: pictures of a subject, each in another scene.
    size_px: side of the pictures.
    nouns: the split's first subjects of these classes; empty is of all.

  Returns: clusters, in the order of their subjects.

  Raises:
    ValueError: a noun that is no class of the world's.
  """
  if unknown := [noun for noun in nouns if noun not in CLASSES]:
    raise ValueError(
      f"config.mine.nouns has {unknown[0]!r}: expected classes of "
      f"SubjectWorld, {', '.join(CLASSES)}."
    )
  shots = []
  for subject in _first_subjects(split, num_subjects, nouns=nouns):
    shots += heldout_shots(subject, images_each=images_each)
  images = render_shots(shots, size_px=size_px)["image"]
  clusters = []
  for start in range(0, len(shots), images_each):
    rows = slice(start, start + images_each)
    subject = shots[start].subject
    noun = class_of(subject)
    clusters.append(
      Cluster(
        key=content_key("heldout", split, subject, images_each),
        subject=noun,
        caption=with_article(describe(subject)),
        images=tuple(images[rows]),
        captions=tuple(caption(shot) for shot in shots[rows]),
        live=noun in LIVE,
        source=f"world:{split}",
        truth=(_truth(subject),) * images_each,
      )
    )
  return clusters


def _first_subjects(
  split: str, num: int, *, nouns: Collection[str]
) -> list[int]:
  """The first subjects of a split that are of some classes."""
  found: list[int] = []
  start = 0
  while len(found) < num:
    seeds = subject_seeds(split, start, num)
    start += num
    found += [seed for seed in seeds if not nouns or class_of(seed) in nouns]
  return found[:num]


def heldout_shots(subject: int, *, images_each: int) -> list[Shot]:
  """The shots of a held-out subject."""
  rng = np.random.default_rng((subject, images_each))
  places = rng.permutation(_NUM_PLACES)
  return [
    Shot(
      subject=subject,
      template=int(places[i % _NUM_PLACES]),
      seed=int(rng.integers(2**31)),
    )
    for i in range(images_each)
  ]


def page_shots(
  split: str, *, page: int, seed: int
) -> tuple[list[Shot], list[int]]:
  """The shots of a page, and the seed of each near-duplicate's damage or 0."""
  plans = _page(split, page=page, seed=seed)
  return [plan.shot for plan in plans], [plan.spoil for plan in plans]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plan:
  """A row before it is rendered; `spoil` seeds a near-duplicate's damage."""

  url: str
  alt_text: str
  shot: Shot
  spoil: int = 0


def _truth(subject: int) -> str:
  return f"world:{split_of(subject)}:{subject}"


def _page(split: str, *, page: int, seed: int) -> list[_Plan]:
  """What is on one page."""
  rng = np.random.default_rng((seed, page, len(split)))
  kind = rng.choice(list(_KINDS), p=list(_KINDS.values()))
  url = f"https://world.example/{seed}/{page:06d}"
  # Every page has subjects of its own, which no pool of pictures has.
  first = web_start(seed=seed, page=page)
  subjects = subject_seeds(split, first, SUBJECTS_A_PAGE)
  count = int(rng.integers(1, 3) if kind == "thin" else rng.integers(3, 11))
  num_subjects = int(rng.integers(2, 5)) if kind == "mixed" else 1
  chosen = [subjects[i % num_subjects] for i in range(count)]
  templates = rng.integers(-1, _NUM_PLACES, count)
  seeds = rng.integers(0, 2**31, count)
  # The same picture again, now and then, or for a whole page.
  again = rng.random(count) < (1.0 if kind == "repeated" else _AGAIN)
  plans = []
  for i, subject in enumerate(chosen):
    copied = i > 0 and bool(again[i]) and subject == chosen[i - 1]
    shot = Shot(subject=subject, template=int(templates[i]), seed=int(seeds[i]))
    if copied:
      shot = plans[-1].shot
    plans.append(
      _Plan(
        url=url,
        alt_text=_alt_text(shot, rng),
        shot=shot,
        spoil=int(rng.integers(1, 2**31)) if copied else 0,
      )
    )
  return plans


def _alt_text(shot: Shot, rng: np.random.Generator) -> str:
  """A true text in two of three cases, more or less telling."""
  draw = rng.random()
  if draw < 0.3:
    text = _USELESS[int(rng.integers(len(_USELESS)))]
    return text.format(int(rng.integers(10_000)))
  return caption(shot, detailed=draw < 0.8)


def spoiled(image_u8: np.ndarray, seed: int) -> np.ndarray:
  """A near-duplicate: cut by a pixel or two and saved once more as JPEG."""
  rng = np.random.default_rng(seed)
  size = image_u8.shape[0]
  cut = _cut(size, rng)
  picture = Image.fromarray(image_u8[cut : size - cut, cut : size - cut])
  buffer = io.BytesIO()
  picture.resize((size, size), Image.Resampling.BICUBIC).save(
    buffer, "JPEG", quality=int(rng.integers(70, 96))
  )
  return np.asarray(Image.open(buffer).convert("RGB"))


def spoil_cut(size_px: int, seed: int) -> int:
  """The pixels that `spoiled` cuts off each side."""
  return _cut(size_px, np.random.default_rng(seed))


def _cut(size: int, rng: np.random.Generator) -> int:
  return int(rng.integers(0, 2 + size // 32))
