# SPDX-License-Identifier: Apache-2.0
"""What SubjectWorld can show: 15 classes, the 50 DreamBench prompts, and more.

The classes and prompts are those of DreamBench (DreamBooth, arXiv:2208.12242,
supplementary material). Beyond them, a place, a look, a wardrobe and a style
make a composition (`compose`), which no benchmark has. This file holds names
only: how a class looks is in `subjects.py`, a prompt in `scenes.py`, a style in
`styles.py`.

Shape legend: n a batch of seeds, m draws per seed.
"""

import dataclasses
import functools

import numpy as np

from suti.evaluation.styles import STYLE_TEXTS, styled

CLASSES = (
  "backpack",
  "stuffed animal",
  "bowl",
  "can",
  "candle",
  "cat",
  "clock",
  "sneaker",
  "dog",
  "toy",
  "boot",
  "glasses",
  "cartoon",
  "teapot",
  "vase",
)
LIVE = ("dog", "cat")
# DreamBench has more dogs and toys than bowls, and 30% live subjects; the
# accessory prompts exist for live subjects alone, so they need their share.
_CLASS_WEIGHTS = {"dog": 3.6, "cat": 2.4, "toy": 2.0, "stuffed animal": 1.5}

# Split -> first subject seed. Splits are disjoint ranges, so a seed alone says
# whether it may be trained on.
SPLIT_SPAN = 1_000_000_000
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Template:
  """One DreamBench prompt, or a composition.

  Attributes:
    text: the prompt with "{}" for the class noun.
    skill: one of `suti.schema.SKILLS`.
    place: the name of the ground and backdrop (`backdrops.PLACES`).
    look: a change of the subject itself, "" for none.
    wardrobe: what the subject wears, "" for nothing.
    style: of the whole picture, a name of STYLE_TEXTS, "" for none.
  """

  text: str
  skill: str
  place: str
  look: str = ""
  wardrobe: str = ""
  style: str = ""


def _place(text, place):
  return Template(text=text, skill="recontextualization", place=place)


def _look(text, look):
  return Template(text=text, skill="attribute", place="studio", look=look)


def _wear(text, wardrobe):
  return Template(
    text=text, skill="accessory", place="studio", wardrobe=wardrobe
  )


_PLACES_OF_ALL = (
  _place("a {} in the jungle", "jungle"),
  _place("a {} in the snow", "snow"),
  _place("a {} on the beach", "beach"),
  _place("a {} on a cobblestone street", "cobblestone"),
  _place("a {} on top of pink fabric", "pink fabric"),
  _place("a {} on top of a wooden floor", "wooden floor"),
  _place("a {} with a city in the background", "city"),
  _place("a {} with a mountain in the background", "mountain"),
  _place("a {} with a blue house in the background", "blue house"),
  _place("a {} on top of a purple rug in a forest", "purple rug"),
)
_PLACES_OF_OBJECTS = (
  _place("a {} with a wheat field in the background", "wheat field"),
  _place("a {} with a tree and autumn leaves in the background", "autumn tree"),
  _place("a {} with the Eiffel Tower in the background", "eiffel tower"),
  _place("a {} floating on top of water", "water"),
  _place("a {} floating in an ocean of milk", "milk"),
  _place("a {} on top of green grass with sunflowers around it", "sunflowers"),
  _place("a {} on top of a mirror", "mirror"),
  _place("a {} on top of the sidewalk in a crowded street", "sidewalk"),
  _place("a {} on top of a dirt road", "dirt road"),
  _place("a {} on top of a white rug", "white rug"),
)
_WARDROBE = (
  _wear("a {} wearing a red hat", "red hat"),
  _wear("a {} wearing a santa hat", "santa hat"),
  _wear("a {} wearing a rainbow scarf", "rainbow scarf"),
  _wear("a {} wearing a black top hat and a monocle", "top hat"),
  _wear("a {} in a chef outfit", "chef"),
  _wear("a {} in a firefighter outfit", "firefighter"),
  _wear("a {} in a police outfit", "police"),
  _wear("a {} wearing pink glasses", "pink glasses"),
  _wear("a {} wearing a yellow shirt", "yellow shirt"),
  _wear("a {} in a purple wizard outfit", "wizard"),
)
_LOOKS = (
  _look("a red {}", "red"),
  _look("a purple {}", "purple"),
  _look("a shiny {}", "shiny"),
  _look("a wet {}", "wet"),
  _look("a cube shaped {}", "cube"),
)
OBJECT_TEMPLATES = _PLACES_OF_ALL + _PLACES_OF_OBJECTS + _LOOKS
LIVE_TEMPLATES = _PLACES_OF_ALL + _WARDROBE + _LOOKS
TEMPLATES = OBJECT_TEMPLATES + LIVE_TEMPLATES
STUDIO = Template(text="a {}", skill="recontextualization", place="studio")
NUM_TEMPLATES = 25  # of a group; numbers from here on are compositions


@dataclasses.dataclass(frozen=True, order=True)
class Shot:
  """One picture: everything else follows from these three integers.

  Attributes:
    subject: subject seed, see `subject_seeds`.
    template: index into the group's 25 templates, -1 for a plain studio, or
      from 25 on what `compose` returns.
    seed: camera, light, heading and scene jitter.
  """

  subject: int
  template: int = -1
  seed: int = 0


def subject_seeds(split: str, start: int, count: int) -> list[int]:
  """The subjects `start .. start + count` of a split; splits are disjoint."""
  if split not in SPLITS:
    raise ValueError(f"split={split!r} is unknown: use one of {SPLITS}.")
  if start < 0 or count < 0 or start + count > SPLIT_SPAN:
    raise ValueError(
      f"start={start}, count={count} is outside of split {split!r}: use "
      f"0 <= start and start + count <= {SPLIT_SPAN}."
    )
  first = SPLITS.index(split) * SPLIT_SPAN + start
  return list(range(first, first + count))


def split_of(seed: int) -> str:
  """The split a subject seed belongs to."""
  index = seed // SPLIT_SPAN
  if not 0 <= index < len(SPLITS):
    raise ValueError(
      f"subject seed {seed} is in no split: use suti.world.subject_seeds."
    )
  return SPLITS[index]


def draws(seeds, *, stream: int, count: int) -> np.ndarray:
  """Uniform numbers that depend on (seed, stream, position) alone.

  Args:
    seeds: integers, (n,).
    stream: which independent sequence, so that a new use of randomness does
      not change the pictures already there.
    count: numbers a seed.

  Returns:
    (n, count) float64 in [0, 1).
  """
  with np.errstate(over="ignore"):
    x_nm = np.asarray(seeds, np.uint64)[:, None] * np.uint64(
      0x9E3779B97F4A7C15
    ) + (
      np.arange(count, dtype=np.uint64)[None] + np.uint64(1 + stream * 4096)
    ) * np.uint64(0xD1342543DE82EF95)
    # The finaliser of splitmix64, twice: once leaves neighbours correlated.
    for _ in range(2):
      x_nm = (x_nm ^ (x_nm >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
      x_nm = (x_nm ^ (x_nm >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
      x_nm = x_nm ^ (x_nm >> np.uint64(31))
  return (x_nm >> np.uint64(11)).astype(np.float64) * 2.0**-53


_WEIGHTS = np.array([_CLASS_WEIGHTS.get(name, 1.0) for name in CLASSES])
_CLASS_EDGES = np.cumsum(_WEIGHTS / _WEIGHTS.sum())


def class_indices(seeds) -> np.ndarray:
  """Index into CLASSES for each seed, (n,) int64."""
  u_n = draws(seeds, stream=0, count=1)[:, 0]
  return np.minimum(
    np.searchsorted(_CLASS_EDGES, u_n, side="right"), len(CLASSES) - 1
  )


def class_of(seed: int) -> str:
  """The class noun of a subject, e.g. "dog"."""
  return CLASSES[int(class_indices([seed])[0])]


def templates_of(class_name: str) -> tuple[Template, ...]:
  """The 25 templates of the class's group."""
  return LIVE_TEMPLATES if class_name in LIVE else OBJECT_TEMPLATES


def template_of(shot: Shot) -> Template:
  """The template a shot shows.

  Raises:
    ValueError: there is none of that number, or none for such a subject.
  """
  if shot.template < -1:
    raise ValueError(
      f"Shot.template={shot.template}: use -1 (studio), 0 to 24, or what"
      " suti.world.compose gives."
    )
  if shot.template < 0:
    return STUDIO
  if shot.template < NUM_TEMPLATES:
    return templates_of(class_of(shot.subject))[shot.template]
  template = composition(shot.template)
  if template.wardrobe and class_of(shot.subject) not in LIVE:
    raise ValueError(
      f"Shot.template={shot.template} has the wardrobe {template.wardrobe!r},"
      f" and subject {shot.subject} is a {class_of(shot.subject)}: only"
      f" {' and '.join(LIVE)} are dressed; leave the wardrobe out."
    )
  return template


# --- Compositions ------------------------------------------------------------

# How each name is said, in the order in which a composition says them: "a
# mosaic of a red {} wearing a santa hat in the snow".
LOOKS = {t.look: t.text.removeprefix("a ").removesuffix(" {}") for t in _LOOKS}
OUTFITS = {t.wardrobe: t.text.removeprefix("a {} ") for t in _WARDROBE}
PLACES = {
  t.place: t.text.removeprefix("a {} ")
  for t in _PLACES_OF_ALL + _PLACES_OF_OBJECTS
}
# What a composition is made of: part -> its names, first that of nothing. The
# positions of names are in the numbers of shots: new ones go to the end.
PARTS = {
  "place": ("studio", *PLACES),
  "look": ("", *LOOKS),
  "wardrobe": ("", *OUTFITS),
  "style": ("", *STYLE_TEXTS),
}
# Bits of a number that hold each part, from the lowest up, so that one more
# name of any part moves no other number; style is above all the rest.
_BITS = {"place": 6, "look": 4, "wardrobe": 5, "style": 5}
_STYLE_SHIFT = 15


def compose(
  *, place: str = "", look: str = "", wardrobe: str = "", style: str = ""
) -> int:
  """The `Shot.template` of any place, look, wardrobe and style together.

  Args:
    place, look, wardrobe, style: names of PARTS, or "" for none: a studio
      is no place. Only live subjects are dressed.

  Returns:
    A number from 25 on, another one for each composition. The numbers below
    are DreamBench's own prompts; one of those, asked for as a composition,
    is the same scene seen from elsewhere.

  Raises:
    ValueError: a name is unknown.
  """
  asked = {"place": place, "look": look, "wardrobe": wardrobe, "style": style}
  number, shift = 0, 0
  for part, name in asked.items():
    name = name or PARTS[part][0]
    if name not in PARTS[part]:
      raise ValueError(
        f"{part}={name!r} is unknown: use one of"
        f" {', '.join(map(repr, PARTS[part]))}."
      )
    number += PARTS[part].index(name) << shift
    shift += _BITS[part]
  return NUM_TEMPLATES + number


@functools.cache
def composition(number: int) -> Template:
  """The template that `compose` numbered; undoes it.

  Raises:
    ValueError: it gives no such number.
  """
  code, names = number - NUM_TEMPLATES, {}
  for part, bits in _BITS.items():
    index = code & ((1 << bits) - 1)
    code >>= bits
    if index >= len(PARTS[part]):
      code = -1
      break
    names[part] = PARTS[part][index]
  if code:
    raise ValueError(
      f"Shot.template={number} is no composition: use -1 (studio), 0 to 24, or"
      " what suti.world.compose gives."
    )
  return Template(text=_text(**names), skill=_skill(**names), **names)


def _text(*, place, look, wardrobe, style):
  """The words of a composition, by those of its parts."""
  words = (
    LOOKS.get(look),
    "{}",
    OUTFITS.get(wardrobe),
    PLACES.get(place),
  )
  return styled(f"a {' '.join(filter(None, words))}", style)


def _skill(*, place, look, wardrobe, style):
  """The rarest of the skills that a composition needs."""
  del place
  asked = {"style": style, "accessory": wardrobe, "attribute": look}
  return next((k for k, name in asked.items() if name), "recontextualization")


def unstyled(template: int) -> int:
  """The same without its style: what a styled picture is painted from."""
  if template < NUM_TEMPLATES:
    return template
  code = template - NUM_TEMPLATES
  return NUM_TEMPLATES + (code & ((1 << _STYLE_SHIFT) - 1))


def template_named(prompt: str, noun: str, *, live: bool) -> int | None:
  """The `Shot.template` that a prompt describes, None if it is no template.

  Args:
    prompt: "a dog in the snow", or of several parts as `caption` words them:
      "a pencil sketch of a red dog wearing a red hat in the snow".
    noun: the subject's in it.
    live: whether the subject is of LIVE: others wear nothing.
  """
  return _numbers(noun, live).get(prompt)


@functools.lru_cache(maxsize=64)
def _numbers(noun: str, live: bool) -> dict[str, int]:
  """Prompt of each template and composition of a noun -> its number."""
  numbers = {}
  for style in PARTS["style"]:
    for wardrobe in PARTS["wardrobe"] if live else ("",):
      for look in PARTS["look"]:
        for place in PARTS["place"]:
          names = {"place": place, "look": look, "wardrobe": wardrobe}
          number = compose(**names, style=style)
          numbers[_text(**names, style=style).format(noun)] = number
  group = LIVE_TEMPLATES if live else OBJECT_TEMPLATES
  return numbers | {t.text.format(noun): i for i, t in enumerate(group)}
