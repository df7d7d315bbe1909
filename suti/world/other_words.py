# SPDX-License-Identifier: Apache-2.0
"""Other words for what a picture shows: "a dog on the beach", "puppy, seaside".

People do not type a benchmark's sentences. A text encoder that has met these
words and forms reads theirs; `suti.world.captions` has the benchmark's own. Of
the words here, none is one of `held_out.WORDS_HELD_OUT`.
"""

import numpy as np

from suti.evaluation.styles import PAPER_ARTISTS, STYLE_TEXTS
from suti.world.captions import with_article
from suti.world.subjects import phrase
from suti.world.templates import (
  OUTFITS,
  PLACES,
  Shot,
  class_of,
  template_of,
)

_NOUNS = {
  "dog": ("dog", "puppy", "doggy"),
  "cat": ("cat", "kitten", "kitty"),
  "stuffed animal": ("stuffed animal", "plush toy", "teddy"),
  "backpack": ("backpack", "school bag"),
  "can": ("can", "tin can", "soda can"),
  "sneaker": ("sneaker", "shoe", "sports shoe"),
  "boot": ("boot", "leather boot"),
  "glasses": ("glasses", "pair of glasses", "eyeglasses"),
  "toy": ("toy", "plastic toy"),
  "cartoon": ("cartoon", "cartoon character"),
  "teapot": ("teapot", "tea pot"),
  "vase": ("vase", "flower vase"),
  "clock": ("clock", "alarm clock"),
  "candle": ("candle", "burning candle"),
  "bowl": ("bowl", "small bowl"),
}
_PLACES = {
  "studio": (
    *("on a plain background", "on a grey background"),
    *("in a photo studio", "against a white wall"),
  ),
  "jungle": (
    *("in a jungle", "jungle", "among tropical plants"),
    *("in the green jungle", "between palm leaves"),
  ),
  "snow": (
    *("in snow", "snow", "in winter", "on a snowy day"),
    *("in a snowy forest", "standing in white snow"),
  ),
  "beach": (
    *("at the beach", "beach", "at the seaside", "by the sea"),
    *("on the sand", "on a sunny beach"),
  ),
  "cobblestone": (
    *("on cobblestones", "cobblestone street", "in an old town"),
    *("on a street of stones", "in a cobblestone alley"),
  ),
  "pink fabric": (
    *("on pink fabric", "pink fabric", "on pink cloth"),
    *("on a pink blanket", "lying on pink silk"),
  ),
  "wooden floor": (
    *("on a wooden floor", "wooden floor", "on wood"),
    *("on a wood floor", "indoors on a wooden floor"),
  ),
  "city": (
    *("in a city", "city", "in front of a city"),
    *("with skyscrapers behind it", "with tall buildings in the background"),
  ),
  "mountain": (
    *("in the mountains", "mountain", "in front of a mountain"),
    "with mountains behind it",
  ),
  "blue house": (
    *("in front of a blue house", "blue house", "near a blue house"),
    *("with a blue house behind it", "beside a house"),
  ),
  "purple rug": (
    *("on a purple rug", "purple rug in a forest"),
    *("on a purple carpet in the woods", "in a forest on a purple rug"),
  ),
  "wheat field": (
    *("in a wheat field", "wheat field", "in front of a field of wheat"),
    *("on a farm", "with golden fields behind it"),
  ),
  "autumn tree": (
    *("under an autumn tree", "autumn leaves", "in autumn"),
    *("in fall, with orange leaves", "beside a tree in autumn"),
  ),
  "eiffel tower": (
    *("in Paris", "Eiffel Tower", "in front of the Eiffel Tower"),
    "with the Eiffel Tower behind it",
  ),
  "water": (
    *("floating on water", "water", "in a lake"),
    *("swimming in water", "on a pond", "in blue water"),
  ),
  "milk": (
    *("floating in milk", "milk", "in milk"),
    *("in an ocean of milk", "in a sea of white milk"),
  ),
  "sunflowers": (
    *("among sunflowers", "sunflowers", "in a garden with sunflowers"),
    *("on grass with sunflowers", "with flowers around it"),
  ),
  "mirror": (
    *("on a mirror", "mirror", "on a round mirror"),
    "with its reflection in a mirror",
  ),
  "sidewalk": (
    *("on a sidewalk", "crowded street", "in a crowd"),
    *("on the sidewalk of a street", "on a busy street"),
  ),
  "dirt road": (
    *("on a dirt road", "dirt road", "on a country road"),
    *("on a path", "on a dusty road"),
  ),
  "white rug": (
    *("on a white rug", "white rug", "on a white carpet"),
    "on a fluffy rug",
  ),
}
_OUTFITS = {
  "red hat": ("with a red hat", "in a red hat", "red hat"),
  "santa hat": (
    *("with a santa hat", "in a santa hat", "santa hat"),
    *("dressed as santa", "with a christmas hat"),
  ),
  "rainbow scarf": (
    *("with a rainbow scarf", "in a colorful scarf", "rainbow scarf"),
  ),
  "top hat": (
    *("in a top hat and monocle", "with a black top hat"),
    "top hat and monocle",
  ),
  "chef": (
    *("dressed as a chef", "as a cook", "with a chef hat", "chef outfit"),
  ),
  "firefighter": (
    *("dressed as a firefighter", "as a fireman", "firefighter outfit"),
  ),
  "police": (
    *("dressed as a police officer", "as a policeman", "police outfit"),
  ),
  "pink glasses": ("with pink glasses", "in pink glasses", "pink glasses"),
  "yellow shirt": ("in a yellow shirt", "with a yellow shirt", "yellow shirt"),
  "wizard": (
    *("dressed as a wizard", "as a wizard", "with a wizard hat"),
    "purple wizard outfit",
  ),
}
_LOOKS = {
  "red": ("bright red", "red"),
  "purple": ("purple", "violet"),
  "shiny": ("shiny", "sparkling", "glittering"),
  "wet": ("wet", "soaked"),
  "cube": ("cube shaped", "cubic", "square"),
}
_ARTISTS = {name: name.split()[-1] for name in PAPER_ARTISTS} | {
  "Vincent van Gogh": "Van Gogh",
  "Katsushika Hokusai": "Hokusai",
  "Georges Seurat": "Seurat",
  "Roy Lichtenstein": "Lichtenstein",
}
_STYLES = {
  artist: (
    *(f"in the style of {artist}", f"in the style of {name}"),
    *(f"painted by {name}", f"{name} style"),
  )
  for artist, name in _ARTISTS.items()
} | {
  "pencil sketch": ("as a pencil sketch", "drawn with a pencil", "sketch"),
  "watercolor": ("in watercolor", "as a watercolor painting", "watercolor"),
  "pixel art": ("as pixel art", "in pixels", "pixel art"),
  "mosaic": ("as a mosaic", "made of small tiles", "mosaic"),
}
# {a}: "a wet dog"; {n}: "wet dog"; {rest}: what it wears, where, which style.
_FORMS = (
  *("{a} {rest}", "{a} {rest}", "{n} {rest}", "{n}, {rest}", "my {n} {rest}"),
  *("a photo of {a} {rest}", "a picture of {a} {rest}", "the {n} {rest}"),
  *("{rest}: {a}", "this {n} {rest}", "photo of my {n}, {rest}"),
  *("a small picture of {a} {rest}", "a photo of {a} {rest}, highly detailed"),
  *("close up of {a} {rest}", "one {n} {rest}"),
)
assert _STYLES.keys() == STYLE_TEXTS.keys()


def in_other_words(shot: Shot, rng: np.random.Generator) -> str:
  """A true text of a shot, as one of many people would put it.

  Args:
    shot: the picture.
    rng: chooses the words, and what is left unsaid.
  """
  template = template_of(shot)
  look = template.look
  noun = _noun(shot, rng, coloured=look in ("red", "purple"))
  if look:
    noun = f"{_pick(rng, _LOOKS[look])} {noun}"
  rest = [
    _pick(rng, (*_OUTFITS[name], OUTFITS[name]))
    for name in (template.wardrobe,)
    if name
  ]
  if template.place == "studio":
    # Most people do not mention that there is nothing.
    place = _pick(rng, _PLACES["studio"] + ("",) * 6)
  else:
    place = _pick(rng, (*_PLACES[template.place], PLACES[template.place]))
  rest += [place] if place else []
  if template.style:
    rest.append(_pick(rng, _STYLES[template.style]))
  if rng.random() < 0.3:
    rest.reverse()
  form = _pick(rng, _FORMS)
  text = form.format(a=with_article(noun), n=noun, rest=" ".join(rest))
  return text.replace(" ,", ",").strip(" ,:")


def _noun(shot: Shot, rng: np.random.Generator, *, coloured: bool) -> str:
  """The noun, in half of the cases with the subject's colour and pattern.

  Args:
    shot: whose subject.
    rng: chooses.
    coloured: the scene gives the subject another colour.
  """
  noun = class_of(shot.subject)
  other = _pick(rng, _NOUNS[noun])
  if rng.random() < 0.5:
    return other
  colour, pattern, words, _ = phrase(int(shot.subject))
  if words == noun and rng.random() < 0.7:
    words = other
  if coloured or rng.random() < 0.1:
    colour = ""
  if rng.random() < 0.3:
    pattern = ""
  return " ".join(word for word in (colour, pattern, words) if word)


def _pick(rng: np.random.Generator, texts: tuple[str, ...]) -> str:
  return texts[int(rng.integers(len(texts)))]
