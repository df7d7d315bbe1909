# SPDX-License-Identifier: Apache-2.0
"""What SubjectWorld can show: 15 classes and the 50 DreamBench prompts.

The classes and prompts are those of DreamBench (DreamBooth, arXiv:2208.12242,
supplementary material). This file holds names only: how a class looks is in
`subjects.py`, how a prompt looks is in `scenes.py`.

Shape legend: n a batch of seeds, m draws per seed.
"""

import dataclasses

import numpy as np

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
  """One DreamBench prompt.

  Attributes:
    text: the prompt with "{}" for the class noun.
    skill: "recontextualization", "attribute", "accessory" or "composition".
    place: the name of the ground and backdrop (`scenes.PLACES`).
    look: a change of the subject itself, "" for none.
    wardrobe: what the subject wears, "" for nothing.
  """

  text: str
  skill: str
  place: str
  look: str = ""
  wardrobe: str = ""


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


# Names in their order in TEMPLATES, and how each is said, in the order in which
# a composition says them: "a red {} wearing a santa hat in the snow".
LOOKS = {t.look: t.text.removeprefix("a ").removesuffix(" {}") for t in _LOOKS}
OUTFITS = {t.wardrobe: t.text.removeprefix("a {} ") for t in _WARDROBE}
PLACES = {
  t.place: t.text.removeprefix("a {} ")
  for t in _PLACES_OF_ALL + _PLACES_OF_OBJECTS
}
_AXES = tuple(("", *names) for names in (LOOKS, OUTFITS, PLACES))
_FIRST_COMPOSITION = 1000


def compose(*, look: str = "", wardrobe: str = "", place: str = "") -> int:
  """The `Shot.template` that shows a look, an outfit and a place together.

  Any of them may be "", the last for the studio: all places, looks and outfits
  are allowed for all subjects, whatever their group's templates are.
  """
  row = 0
  for axis, name in zip(_AXES, (look, wardrobe, place), strict=True):
    row = row * len(axis) + axis.index(name)
  return _FIRST_COMPOSITION + row


def composition(index: int) -> Template:
  """What `compose` numbered, as a template with a text."""
  row, chosen = index - _FIRST_COMPOSITION, []
  for axis in reversed(_AXES):
    row, place = divmod(row, len(axis))
    chosen.append(axis[place])
  assert row == 0, index
  place, wardrobe, look = chosen
  words = [
    *([LOOKS[look]] if look else []),
    "{}",
    *([OUTFITS[wardrobe]] if wardrobe else []),
    *([PLACES[place]] if place else []),
  ]
  return Template(
    text=f"a {' '.join(words)}",
    skill="composition",
    place=place or "studio",
    look=look,
    wardrobe=wardrobe,
  )


@dataclasses.dataclass(frozen=True, order=True)
class Shot:
  """One picture: everything else follows from these three integers.

  Attributes:
    subject: subject seed, see `subject_seeds`.
    template: index into the group's 25 templates, -1 for a plain studio, or
      what `compose` returns.
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
  """The template a shot shows."""
  if shot.template >= _FIRST_COMPOSITION:
    return composition(shot.template)
  if not -1 <= shot.template < 25:
    raise ValueError(
      f"Shot.template={shot.template}: use -1 (studio) or 0 to 24."
    )
  if shot.template < 0:
    return STUDIO
  return templates_of(class_of(shot.subject))[shot.template]
