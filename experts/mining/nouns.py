# SPDX-License-Identifier: Apache-2.0
"""English nouns of subjects: known nouns, singulars, heads of compounds.

DreamBench's 15 classes and some hundreds of things that people photograph.
Other words are allowed: `experts.mining.captions` then uses the majority of the
texts, or lets CLIP choose among the known nouns.

A prompt is "a {noun} in the snow", so a noun is in the singular: "shoes" become
"shoe", as DreamBench calls a pair of boots "boot". Words without a singular
("glasses", "scissors"), or that merely end in s ("bus", "canvas"), are kept.
"""

from collections.abc import Sequence

from suti.evaluation.dreambench import CLASSES, LIVE


def _split(text: str) -> tuple[str, ...]:
  return tuple(word.replace("_", " ") for word in text.split())


LIVE_NOUNS = frozenset(LIVE) | frozenset(
  _split(
    "alligator alpaca animal ant baby bat beagle bear bee beetle bird bison "
    "boy budgie bulldog bunny butterfly calf camel canary chameleon cheetah "
    "chick chicken chihuahua child chinchilla collie corgi cow crab crocodile "
    "crow dachshund dalmatian deer dolphin donkey dragonfly duck duckling "
    "eagle elephant elk falcon ferret fish flamingo foal fox frog gecko "
    "gerbil giraffe girl goat goldfish goose gorilla hamster hawk hedgehog "
    "hen hippopotamus horse hound husky iguana jaguar kangaroo kid kitten "
    "koala ladybug lamb leopard lion lizard llama lobster macaw man mare "
    "meerkat mole monkey moose mouse mule octopus orangutan ostrich otter owl "
    "ox panda panther parakeet parrot peacock pelican penguin person pig "
    "pigeon piglet pomeranian pony poodle pug puppy quail rabbit raccoon ram "
    "rat raven retriever rhinoceros robin rooster salamander seagull seal "
    "shark sheep shepherd skunk sloth snail snake sparrow spaniel spider "
    "squid squirrel stallion starfish stork swan terrier tiger toad "
    "toy_poodle toy_terrier turkey turtle tortoise walrus whale wolf woman "
    "wombat yak zebra"
  )
)
# Things that depict other things: a toy dog and a dog toy are toys. If a
# compound has several, the first in this list is its head.
_DEPICTING = _split(
  "stuffed_animal plushie plush teddy_bear doll toy figurine cartoon emoji "
  "statue sculpture"
)
_OBJECTS = _split(
  "accordion airplane ambulance apple apron armchair backpack bag bagel ball "
  "balloon banana banjo barrel basket basketball bathtub bed bell belt bench "
  "bicycle bike binoculars birdhouse blanket blender boat book bookcase boot "
  "bottle bouquet bowl bowtie box bracelet bread bride brooch broom brush "
  "bucket building burger bus cabinet cable cactus cake calculator camera can "
  "candle candlestick canoe cap car card carpet carriage castle cello chair "
  "chandelier chess_set chest clarinet clock coat coffee_maker coin comb "
  "compass computer cookie couch crown cup cupcake curtain cushion desk "
  "dice dish donut door dragon drawer dress drill drone drum earring egg "
  "engine envelope fan fence fireplace flag flower flowerpot flute football "
  "fork fountain frame fridge fruit glass glasses globe glove goggles "
  "guitar hammer handbag harmonica harp hat headphones helicopter helmet "
  "hoodie house hourglass iron jacket jar jeans jewel jug kettle key "
  "keyboard kite knife ladder lamp lantern laptop leaf lens lighthouse "
  "lipstick lunchbox machine mask microphone microscope microwave mirror "
  "mitten monster motorcycle motorbike mug mushroom necklace notebook "
  "orange ornament oven pan pants painting pencil perfume phone piano pillow "
  "pizza plant plate pot potato pumpkin purse puzzle quilt racket radio "
  "refrigerator ring robot rocket rose rug saddle sandal sandwich saucer "
  "saxophone scarf scissors scooter sewing_machine shell shelf shield ship "
  "shirt shoe shovel skateboard skirt skull sled slipper sneaker snowboard "
  "snowman sock sofa soap spaceship speaker spoon stapler stool stove "
  "strawberry submarine suit suitcase sunflower sunglasses surfboard sweater "
  "sword table tablet tank teacup teapot telephone telescope television tent "
  "tie tiara toaster tomato tool toothbrush towel tractor train tree trophy "
  "trousers truck trumpet tulip typewriter tv umbrella van vase vacuum_cleaner "
  "violin wagon wallet wardrobe watch watering_can wheel whistle wine_glass "
  "wreath yacht"
)
KNOWN = frozenset(CLASSES) | LIVE_NOUNS | {*_DEPICTING} | {*_OBJECTS}

# Ends in s and is one, or has no singular.
_UNCHANGED = frozenset(
  _split(
    "albatross alias aircraft always atlas bias binoculars bus canvas chaos "
    "chess christmas clothes corps gas glasses goggles headphones jeans "
    "leggings lens mars news overalls paris pajamas pants pliers pyjamas "
    "rhinoceros scissors series shorts species sunglasses texas thanks tights "
    "tongs trousers tweezers"
  )
)
_IRREGULAR = {
  "axes": "axe",
  "buses": "bus",
  "cacti": "cactus",
  "children": "child",
  "feet": "foot",
  "gases": "gas",
  "geese": "goose",
  "canvases": "canvas",
  "lenses": "lens",
  "lice": "louse",
  "men": "man",
  "mice": "mouse",
  "octopi": "octopus",
  "oxen": "ox",
  "people": "person",
  "quizzes": "quiz",
  "teeth": "tooth",
  "women": "woman",
  **{
    f"{stem}ves": f"{stem}f"
    for stem in _split("cal el hal hoo lea loa scar shea shel thie wol dwar")
  },
  **{f"{stem}ves": f"{stem}fe" for stem in _split("kni li wi")},
}
# Their plural takes an s alone: rules would cut "ie", "o" and "ch" off.
_PLAIN = frozenset(
  _split(
    "ache axe birdie brownie budgie cache calorie canoe collie cookie cutie "
    "doggie foe genie headache hoe hoodie horsie kiddie lie magpie movie "
    "niche oboe pie pixie plushie prairie rookie selfie shoe smoothie tie toe "
    "veggie yorkie zombie"
  )
)


def singular(word: str) -> str:
  """The singular of an English noun in lower case; itself if it is one."""
  if word in KNOWN or word in _UNCHANGED:
    return word
  if word in _IRREGULAR:
    return _IRREGULAR[word]
  if word[-3:] == "men" and word[:-3] + "man" in KNOWN:
    return word[:-3] + "man"
  if len(word) < 4 or word[-1] != "s" or word[-2:] in ("ss", "us", "is"):
    return word
  if word[:-1] in KNOWN or word[:-1] in _PLAIN:
    return word[:-1]
  if word.endswith("ies"):
    return f"{word[:-3]}y"
  # buses, but houses; dresses, boxes, watches, brushes; potatoes.
  if word.endswith(("sses", "xes", "ches", "shes", "oes")):
    return word[:-2]
  if word.endswith("uses") and word[-5:] != "ouses":
    return word[:-2]
  return word[:-1]


def known_noun(words: Sequence[str]) -> str:
  """The head noun of some words, in the singular; "" if none is known.

  The last noun of a compound is its head ("dog bowl" is a bowl), unless one
  depicts another: "toy dog" and "dog toy" are both a toy.
  """
  found = []
  rest = list(words)
  while rest:
    for size in (2, 1):
      noun = " ".join([*rest[-size:-1], singular(rest[-1])])
      if size <= len(rest) and noun in KNOWN:
        found.append(noun)
        del rest[-size:]
        break
    else:
      rest.pop()
  for noun in _DEPICTING:
    if noun in found:
      return noun
  return found[0] if found else ""
