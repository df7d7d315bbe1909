# SPDX-License-Identifier: Apache-2.0
"""Masks beside a user's pictures: found, cut as these, and never pictures."""

import dataclasses

import numpy as np
import pytest

from apprentice import generate, model
from apprentice import sample as stage_7
from apprentice.method import STANDARD, Field
from apprentice.systems import list_requests
from configs import quickstart
from suti.cli import subject
from suti.images import save_png
from suti.io.files import write_json
from suti.io.image_files import load_image
from suti.io.records import write_records
from suti.pipeline.backbone import describe_backbone
from suti.schema import Label, Prompt
from tests.experts import inputs

SIZE_PX = 16


@pytest.fixture
def dog(tmp_path):
  """Two pictures of 80 x 64 px; the second has a mask, its right half."""
  for number in range(2):
    image = np.full((64, 80, 3), 100 + number, np.uint8)
    save_png(tmp_path / "dog" / f"{number}.png", image)
  mask = np.zeros((64, 80, 3), np.uint8)
  mask[:, 40:] = 255
  save_png(tmp_path / "dog" / "1.mask.png", mask)
  return tmp_path / "dog"


def test_masks_are_found_beside_their_pictures(dog):
  files, notes = subject.find_pictures([str(dog)])
  assert [file.name for file in files] == ["0.png", "1.png"] and not notes
  # As a shell's dog/*.png has them.
  every = [str(file) for file in sorted(dog.iterdir())]
  assert len(every) == 3 and subject.find_pictures(every)[0] == files
  pictures, _ = subject.load_pictures(files)
  first, second = subject.load_masks(files, pictures)
  assert first is None
  assert second.shape == (64, 80)
  assert second[:, 40:].all() and not second[:, :40].any()
  line, given = subject.use_masks([first, second], pictures, is_seen=True)
  assert line == (
    "1 of 2 pictures have a mask beside them; of the others the whole counts."
  )
  whole, same = given["demonstration_masks"]
  assert whole.all() and whole.shape == (64, 80)
  np.testing.assert_array_equal(same, second)
  line, given = subject.use_masks([first, second], pictures, is_seen=False)
  assert given == {} and line == (
    "1 of 2 pictures have a mask beside them; this model's method sees none."
  )


def test_masks_that_do_not_fit_are_one_line(dog):
  with pytest.raises(ValueError) as caught:
    subject.find_pictures([str(dog / "1.mask.png")])
  assert str(caught.value) == (
    f"--subject={dog / '1.mask.png'}: masks alone, and no picture beside them; "
    "give pictures of one subject."
  )
  save_png(dog / "0.mask.png", np.zeros((64, 64, 3), np.uint8))
  files, _ = subject.find_pictures([str(dog)])
  pictures, _ = subject.load_pictures(files)
  with pytest.raises(ValueError) as caught:
    subject.load_masks(files, pictures)
  assert str(caught.value) == (
    f"{dog / '0.mask.png'} has 64x64 px, and its picture 80x64: save the mask "
    "in the picture's size."
  )


def test_one_that_cannot_be_read_takes_no_others_mask(dog):
  (dog / "0.png").write_bytes(b"no picture")
  files, _ = subject.find_pictures([str(dog)])
  pictures, _ = subject.load_pictures(files)
  (mask,) = subject.load_masks(files, pictures)
  assert mask[:, 40:].all()


def test_a_method_that_sees_masks_gets_them_cut_like_their_pictures(
  dog, tiny_backbone
):
  method = quickstart.get_config().method.unlock()
  method.update(sites=r"transformer_blocks\.0$", num_heads=2)
  apprentice = model.declare(
    describe_backbone(str(tiny_backbone)), name="suti", config=method
  )
  assert not generate.sees(apprentice, "demonstration_masks")
  field = Field(
    name="shown", source="demonstration_masks", made="plane", absent=1.0
  )
  seeing = dataclasses.replace(
    apprentice,
    method=dataclasses.replace(
      apprentice.method, fields=lambda config: (*STANDARD, field)
    ),
  )
  assert generate.sees(seeing, "demonstration_masks")
  image = load_image(dog / "1.png")
  mask = load_image(dog / "1.mask.png").mean(2) > 127
  batch = generate.make_batch(
    seeing,
    [("a dog", [image], ["a dog"])] * 2,
    num_demonstrations=2,
    masks=[(mask,), ()],
  )
  # Of the square from column 8, at a quarter of the size; the second is blank.
  assert batch["shown"].shape == (2, 2, SIZE_PX, SIZE_PX)
  assert batch["shown"][0, 0, :, 8:].all()
  assert not batch["shown"][0, 0, :, :8].any()
  assert batch["shown"][1].all()  # not known: the field's own


def test_the_benchmarks_masks_follow_what_each_system_is_shown(tmp_path):
  clusters = {each.key: each for each in inputs.make_clusters(3)}
  assert stage_7.read_masks(tmp_path, clusters) == {}
  folder = tmp_path / "benchmark/experts/label"
  labels = []
  for index, key in enumerate(clusters):
    mask = np.zeros((SIZE_PX, SIZE_PX), bool)
    mask[index] = True
    labels.append(Label(key=key, number=0))
    labels.append(
      Label(
        key=key,
        number=1,
        names=("dog",),
        boxes_xyxy=((0.0, 0.0, 1.0, 1.0),),
        scores=(1.0,),
        masks=(mask,),
      )
    )
  write_records(folder / "part-00000.array_record", labels, kind=Label)
  write_json(folder / "done.json", {})
  masks = stage_7.read_masks(tmp_path, clusters)
  first, *others = clusters
  prompts = [Prompt(cluster=first, prompt="a dog", skill="attribute")]
  for system, owner in (
    ("apprentice", first),
    ("wrong_subject", others[0]),
    ("shuffled", others[1]),
  ):
    (row,) = list_requests(
      clusters,
      prompts,
      system=system,
      num_demonstrations=2,
      images_each=1,
      seed=0,
      masks=masks,
    )
    assert row.masks[0].all()  # nobody found it there
    np.testing.assert_array_equal(row.masks[1], masks[owner][1])
    np.testing.assert_array_equal(row.images[1], clusters[owner].images[1])
