# SPDX-License-Identifier: Apache-2.0
"""DreamBench's facts: its subjects, their classes, its 2 x 25 prompts.

DreamBooth (arXiv 2208.12242), section 4.1: 30 subjects of 15 classes, 25
prompts for objects and 25 for live subjects, 4 pictures a prompt. The unique
token of the original texts is left out, as SuTI has none. The skill of each
prompt, in SuTI's terms (arXiv 2304.00186, section 3.2), is our reading.
Pictures, protocol and metrics are elsewhere; here are names alone.
"""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Template:
  """A prompt with "{}" in the place of the subject.

  Attributes:
    text: "a {} in the jungle".
    skill: one of `suti.schema.SKILLS`.
  """

  text: str
  skill: str


# Folder of a subject -> class, in the order of the published table.
SUBJECTS = {
  "backpack": "backpack",
  "backpack_dog": "backpack",
  "bear_plushie": "stuffed animal",
  "berry_bowl": "bowl",
  "can": "can",
  "candle": "candle",
  "cat": "cat",
  "cat2": "cat",
  "clock": "clock",
  "colorful_sneaker": "sneaker",
  "dog": "dog",
  "dog2": "dog",
  "dog3": "dog",
  "dog5": "dog",
  "dog6": "dog",
  "dog7": "dog",
  "dog8": "dog",
  "duck_toy": "toy",
  "fancy_boot": "boot",
  "grey_sloth_plushie": "stuffed animal",
  "monster_toy": "toy",
  "pink_sunglasses": "glasses",
  "poop_emoji": "toy",
  "rc_car": "toy",
  "red_cartoon": "cartoon",
  "robot_toy": "toy",
  "shiny_sneaker": "sneaker",
  "teapot": "teapot",
  "vase": "vase",
  "wolf_plushie": "stuffed animal",
}
# The one photograph a subject that Kosmos-G, and UNO's list, take for it.
SINGLE_REFERENCES = {
  "backpack": "02",
  "backpack_dog": "02",
  "bear_plushie": "03",
  "berry_bowl": "02",
  "can": "01",
  "candle": "02",
  "cat": "04",
  "cat2": "02",
  "clock": "03",
  "colorful_sneaker": "01",
  "dog": "02",
  "dog2": "02",
  "dog3": "05",
  "dog5": "00",
  "dog6": "02",
  "dog7": "01",
  "dog8": "04",
  "duck_toy": "01",
  "fancy_boot": "02",
  "grey_sloth_plushie": "04",
  "monster_toy": "04",
  "pink_sunglasses": "04",
  "poop_emoji": "00",
  "rc_car": "03",
  "red_cartoon": "00",
  "robot_toy": "00",
  "shiny_sneaker": "01",
  "teapot": "04",
  "vase": "02",
  "wolf_plushie": "04",
}
NUM_PHOTOGRAPHS = 158
IMAGES_PER_PROMPT = 4
# Photographs of a subject that are read, all of a real benchmark's: DreamBench
# has 4 to 6.
MOST_REFERENCES = 1000

CLASSES = tuple(dict.fromkeys(SUBJECTS.values()))
LIVE = ("cat", "dog")


def _templates(skill: str, *texts: str) -> tuple[Template, ...]:
  return tuple(Template(text=text, skill=skill) for text in texts)


_PLACES = _templates(
  "recontextualization",
  "a {} in the jungle",
  "a {} in the snow",
  "a {} on the beach",
  "a {} on a cobblestone street",
  "a {} on top of pink fabric",
  "a {} on top of a wooden floor",
  "a {} with a city in the background",
  "a {} with a mountain in the background",
  "a {} with a blue house in the background",
  "a {} on top of a purple rug in a forest",
)
_MORE_PLACES = _templates(
  "recontextualization",
  "a {} with a wheat field in the background",
  "a {} with a tree and autumn leaves in the background",
  "a {} with the Eiffel Tower in the background",
  "a {} floating on top of water",
  "a {} floating in an ocean of milk",
  "a {} on top of green grass with sunflowers around it",
  "a {} on top of a mirror",
  "a {} on top of the sidewalk in a crowded street",
  "a {} on top of a dirt road",
  "a {} on top of a white rug",
)
_OUTFITS = _templates(
  "accessory",
  "a {} wearing a red hat",
  "a {} wearing a santa hat",
  "a {} wearing a rainbow scarf",
  "a {} wearing a black top hat and a monocle",
  "a {} in a chef outfit",
  "a {} in a firefighter outfit",
  "a {} in a police outfit",
  "a {} wearing pink glasses",
  "a {} wearing a yellow shirt",
  "a {} in a purple wizard outfit",
)
_CHANGES = _templates(
  "attribute",
  "a red {}",
  "a purple {}",
  "a shiny {}",
  "a wet {}",
  "a cube shaped {}",
)

OBJECT_TEMPLATES = _PLACES + _MORE_PLACES + _CHANGES
LIVE_TEMPLATES = _PLACES + _OUTFITS + _CHANGES


# Words that begin with a vowel's letter and no vowel, and the other way round.
_AS_YOU = ("eu", "one", "uk", "uni", "use")
_SILENT = ("heir", "honest", "hour")


def with_article(text: str) -> str:
  """A text with its indefinite article, by its sound: "an owl", "a unicorn"."""
  vowel = text.startswith(tuple("aeiou")) and not text.startswith(_AS_YOU)
  return f"{'an' if vowel or text.startswith(_SILENT) else 'a'} {text}"


def fill(text: str, subject: str) -> str:
  """A template's text with a subject: "a {} in snow" -> "an owl in snow"."""
  return text.replace("a {}", with_article(subject)).replace("{}", subject)


def templates_of(*, live: bool) -> tuple[Template, ...]:
  """The 25 prompts of a group, in the published order."""
  return LIVE_TEMPLATES if live else OBJECT_TEMPLATES
