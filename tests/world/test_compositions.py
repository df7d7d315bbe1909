# SPDX-License-Identifier: Apache-2.0
"""Numbers and words of places, looks, wardrobes and styles together."""

import itertools

import numpy as np
import pytest

from suti.world.captions import caption
from suti.world.scenes import shot_keys, stage
from suti.world.templates import (
  LIVE,
  NUM_TEMPLATES,
  PARTS,
  Shot,
  class_of,
  compose,
  subject_seeds,
  template_named,
  template_of,
  templates_of,
  unstyled,
)

SUBJECTS = {class_of(s): s for s in subject_seeds("test", 0, 300)}
DOG, TEAPOT = SUBJECTS["dog"], SUBJECTS["teapot"]


def test_each_composition_has_a_number_of_its_own_that_leads_back():
  everything = [
    dict(zip(PARTS, values, strict=True))
    for values in itertools.product(*PARTS.values())
  ]
  numbers = [compose(**names) for names in everything]
  assert min(numbers) == NUM_TEMPLATES == 25
  assert len(set(numbers)) == len(numbers)
  # 17 divides no part's count: all names are seen.
  for number, names in list(zip(numbers, everything, strict=True))[::17]:
    template = template_of(Shot(DOG, number))
    assert {part: getattr(template, part) for part in PARTS} == names


def test_numbers_stay_what_they_were():
  """Pools on disk and shots in files are named by them."""
  assert compose() == 25
  assert compose(place="snow") == 25 + 2
  assert compose(look="red") == 25 + 64
  assert compose(wardrobe="red hat") == 25 + 1024
  assert compose(style="Claude Monet") == 25 + 32768
  everything = compose(
    place="white rug", look="cube", wardrobe="wizard", style="mosaic"
  )
  assert everything == 25 + 20 + 5 * 64 + 10 * 1024 + 12 * 32768
  assert unstyled(everything) == everything - 12 * 32768
  assert [unstyled(t) for t in (-1, 0, 24)] == [-1, 0, 24]


def test_what_names_nothing_is_one_line():
  with pytest.raises(ValueError, match=r"^place='moon' is unknown: use one of"):
    compose(place="moon")
  with pytest.raises(ValueError, match=r"^style='Monet' is unknown: .*Claude"):
    compose(style="Monet")
  for number in (25 + 21, 25 + 6 * 64, 25 + 11 * 1024, 25 + 13 * 32768, 10**9):
    with pytest.raises(ValueError, match=rf"={number} is no composition: use"):
      template_of(Shot(DOG, number))
  chef = compose(wardrobe="chef")
  with pytest.raises(
    ValueError, match=r"'chef', and .* a teapot: only dog and"
  ):
    template_of(Shot(TEAPOT, chef))


def test_captions_of_compositions():
  both = compose(place="snow", wardrobe="santa hat")
  monet = compose(place="snow", look="red", style="Claude Monet")
  assert caption(Shot(DOG, both)) == "a dog wearing a santa hat in the snow"
  assert caption(Shot(DOG, monet)) == (
    "a Claude Monet styled painting of a red dog in the snow"
  )
  sketch = compose(style="pencil sketch")
  assert caption(Shot(TEAPOT, sketch)) == "a pencil sketch of a teapot"
  detailed = caption(Shot(TEAPOT, sketch), detailed=True)
  plain = caption(Shot(TEAPOT), detailed=True)
  assert detailed == f"a pencil sketch of {plain}"
  # "an orange teapot" keeps its article behind "a mosaic of".
  orange = next(
    s
    for s in subject_seeds("test", 0, 2000)
    if caption(Shot(s), detailed=True).startswith("an ")
  )
  mosaic = caption(Shot(orange, compose(style="mosaic")), detailed=True)
  assert mosaic.startswith("a mosaic of an ")


def test_a_skill_is_the_rarest_that_is_asked_for():
  def skill(**names):
    return template_of(Shot(DOG, compose(**names))).skill

  assert skill(place="snow") == "recontextualization"
  assert skill(place="snow", look="red") == "attribute"
  assert skill(look="red", wardrobe="chef") == "accessory"
  assert skill(wardrobe="chef", style="mosaic") == "style"


def named(prompt, noun):
  return template_named(prompt, noun, live=noun in LIVE)


def test_a_prompt_leads_to_its_number():
  for noun, subject in SUBJECTS.items():
    for i, template in enumerate(templates_of(noun)):
      assert named(template.text.format(noun), noun) == i
    for style in PARTS["style"][1:]:
      for place in ("studio", "eiffel tower", "milk"):
        number = compose(place=place, look="wet", style=style)
        prompt = caption(Shot(subject, number))
        assert named(prompt, noun) == number
  assert named("a dog", "dog") == compose()
  assert named("a dog on the moon", "dog") is None
  assert named("a cat in the snow", "dog") is None
  assert named("a teapot in a chef outfit", "teapot") is None


def test_a_style_moves_neither_camera_nor_light():
  shot = Shot(DOG, compose(place="snow", wardrobe="chef"), 5)
  painted = compose(place="snow", wardrobe="chef", style="mosaic")
  first, second = stage([shot]), stage([Shot(DOG, painted, 5)])
  for key, value in first.items():
    np.testing.assert_array_equal(value, second[key], err_msg=key)


def test_the_random_numbers_of_other_shots_stay_what_they_were():
  shots = [Shot(7, -1, 0), Shot(7, 0, 3), Shot(2_000_000_001, 24, 2**31 - 1)]
  assert [int(k) for k in shot_keys(shots)] == [
    6018027433648440320,
    6429514514788332531,
    15736151812224793861,
  ]
