# SPDX-License-Identifier: Apache-2.0
"""Other projects' folders, each as its own code writes it."""

import dataclasses
import json
import os

import pytest

from suti.evaluation.benchmark.subjects import read_folder
from suti.evaluation.folders.pictures import find_prompt, plain_prompt
from suti.evaluation.folders.reading import layout_of, read_pictures
from suti.images import save_png
from tests.evaluation.benchmark_folders import picture, write_subjects

SNOW, RED = "a dog in the snow", "a red dog"


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
  folder = tmp_path_factory.mktemp("benchmark")
  write_subjects(folder)
  return read_folder(folder)


def read(path, benchmark=None, **options):
  return read_pictures(
    path, layout=layout_of(path), benchmark=benchmark, **options
  )


def shown(reading):
  return [
    (p.subject, p.prompt, p.number, p.path.name) for p in reading.pictures
  ]


@pytest.mark.parametrize(
  "name",
  [
    "a dog in the snow",
    "a_dog_in_the_snow",
    "A-Dog-in-the-Snow",
    "a sks dog in the snow",
    "0",
    "00",
    "prompt_0",
  ],
)
def test_a_plain_folder_says_its_prompt_in_many_ways(tmp_path, benchmark, name):
  save_png(tmp_path / "dog" / name / "seed_3.png", picture(1))
  found = read(tmp_path, benchmark, identifiers=["sks"])
  assert shown(found) == [("dog", SNOW, 3, "seed_3.png")]
  assert found.expected["teapot"] == ("a teapot in the snow", "a red teapot")


def test_a_word_too_many_is_named(tmp_path, benchmark):
  for said in ("a sks dog in the snow", "a red dog"):
    save_png(tmp_path / "dog" / said / "0.png", picture(1))
  (extra,) = read(tmp_path, benchmark).extra
  assert extra.why == (
    "no prompt 'a sks dog in the snow' of dog; --identifier sks leaves 'sks' "
    "out"
  )


def test_prompts_of_any_script_are_told_apart():
  prompts = ("一只狗在雪地里", "一只红色的狗", "un café noir")
  assert find_prompt("一只红色的狗", prompts, ()) == prompts[1]
  # As macOS writes it: the accent is a character of its own.
  assert find_prompt("un_cafe\u0301_noir", prompts, ()) == prompts[2]


def test_two_prompts_that_names_cannot_tell_apart_want_numbers(
  tmp_path, benchmark
):
  dog = dataclasses.replace(
    benchmark.subjects["dog"], prompts=("a dog, red", "a dog red")
  )
  benchmark = dataclasses.replace(benchmark, subjects={"dog": dog})
  for said in ("a_dog_red", "1"):
    save_png(tmp_path / "dog" / said / "0.png", picture(1))
  found = read(tmp_path, benchmark)
  assert [p.prompt for p in found.pictures] == ["a dog red"]
  assert found.extra[0].why == (
    "several prompts of dog are written 'a_dog_red': give its number"
  )


def test_numbers_from_one_are_refused(tmp_path, benchmark):
  for number in (1, 2):
    save_png(tmp_path / "dog" / str(number) / "0.png", picture(number))
  with pytest.raises(ValueError, match="numbered up to 2, so from 1: expected"):
    read(tmp_path, benchmark)
  path = tmp_path / "x.csv"
  path.write_text("subject,prompt,path\ndog,1,a.png\ndog,2,b.png\n")
  with pytest.raises(ValueError, match="numbered up to 2, so from 1: expected"):
    read(path, benchmark)


def test_what_is_there_twice_or_cannot_be_read_is_named(tmp_path, benchmark):
  for said in ("a_red_dog", "A_Red_Dog"):
    save_png(tmp_path / "dog" / said / "0.png", picture(1))
  (tmp_path / "dog" / "a_red_dog" / "1.jxl").write_bytes(b"x")
  save_png(tmp_path / "DOG" / "a_red_dog" / "0.png", picture(1))
  name = os.fsdecode(b"\xff.png")
  (tmp_path / "dog" / "a_red_dog" / name).write_bytes(b"x")
  found = read(tmp_path, benchmark)
  assert len(found.pictures) == 2
  assert "1 pictures are there more than once" in found.notes[0]
  assert "A_Red_Dog/0.png and" in found.notes[0]
  assert {x.why for x in found.extra} == {
    "convert to JPEG or PNG",
    "no subject 'DOG'. Did you mean 'dog'?",
    "its name is not UTF-8: rename it",
  }
  assert all(str(x.path).encode() for x in found.extra)


def test_masks_are_no_pictures(tmp_path, benchmark):
  save_png(tmp_path / "dog" / "0" / "0.png", picture(1))
  save_png(tmp_path / "dog" / "0" / "0.mask.png", picture(2))
  assert len(read(tmp_path, benchmark).pictures) == 1


def test_an_identifier_is_a_whole_word():
  assert plain_prompt("a <token> dog", ()) == "a dog"
  assert plain_prompt("a sks task", ["sks"]) == "a task"
  assert find_prompt("7", [SNOW], ()) is None


def test_a_table(tmp_path, benchmark):
  for name in ("x.png", "y.png"):
    save_png(tmp_path / "files" / name, picture(1))
  path = tmp_path / "pictures.csv"
  path.write_text(
    "Subject,Prompt,Path,Number\n"
    "dog,a dog in the snow,files/x.png,5\n"
    'dog,"a dog, dancing",files/y.png,\n'
    "cat,a cat,files/y.png,\n"
  )
  found = read(path, benchmark)
  assert shown(found) == [("dog", SNOW, 5, "x.png")]
  assert [x.why for x in found.extra] == [
    "line 3: no prompt 'a dog, dancing' of dog",
    "line 4: no subject 'cat'.",
  ]


def test_rows_of_a_table_that_say_too_little_or_twice_are_named(
  tmp_path, benchmark
):
  path = tmp_path / "pictures.csv"
  text = (
    '\ufeffsubject,prompt,path\ndog,"a red\ndog",x.png\ndog,a red dog,x.png\n'
    "dog,a red dog,\ndog\ndog,a red dog,\0\n"
  )
  path.write_text(text, encoding="utf-8")
  found = read(path, benchmark)
  assert shown(found) == [("dog", RED, 2, "x.png")]
  assert [x.why for x in found.extra] == [
    "line 4: no path",
    "line 5: no path",
    "line 6: no path",
    "it is listed twice",
  ]


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("subject,text,path\ndog,a,b\n", "has no column prompt: expected subj"),
    ("subject;prompt;path\n", "with commas between, found subject;prompt;path"),
    ("", "found none"),
    ("subject,prompt,path\ndog," + "x" * 200_000, "line 2, cannot be read as"),
  ],
)
def test_a_table_that_is_none_is_refused(tmp_path, benchmark, text, words):
  path = tmp_path / "pictures.csv"
  path.write_text(text)
  with pytest.raises(ValueError, match=words):
    read(path, benchmark)


def test_imagenhub(tmp_path, benchmark):
  model = tmp_path / "DreamBooth"
  for number in (1, 2, 9):
    save_png(model / f"sample_{number}.jpg", picture(number))
  (tmp_path / "dataset_lookup.json").write_text(
    json.dumps(
      {
        "sample_1.jpg": {
          "subject_id": 1,
          "subject": "dog",
          "prompt": "a <token> dog in Paris",
        },
        "sample_2.jpg": {"subject": "can", "prompt": "a <token> can"},
        "sample_3.jpg": {"subject": "dog", "prompt": "a <token> dog at sea"},
      }
    )
  )
  found = read(model, benchmark)
  assert shown(found) == [("dog", "a dog in Paris", 0, "sample_1.jpg")]
  assert found.expected["dog"] == ("a dog in Paris", "a dog at sea")
  assert found.benchmark.subjects["dog"].references
  assert {x.path.name for x in found.extra} == {
    "sample_2.jpg",
    "sample_9.jpg",
  }
  assert "Not comparable with DreamBench's prompts" in found.notes[0]


def test_dreambench_plus(tmp_path, benchmark):
  for collection in ("live/00_dog", "object/01_mug"):
    for number in (0, 1):
      name = f"{collection}/{number}_0"
      save_png(tmp_path / "src_image" / f"{name}.jpg", picture(1))
      text = tmp_path / "text" / f"{name}.txt"
      text.parent.mkdir(parents=True, exist_ok=True)
      text.write_text(f"prompt {number} of {collection}\n")
  save_png(tmp_path / "tgt_image" / "live" / "00_dog" / "1_0.jpg", picture(2))
  save_png(tmp_path / "tgt_image" / "live" / "00_dog" / "7_0.jpg", picture(2))
  found = read(tmp_path)
  assert shown(found) == [
    ("live/00_dog", "prompt 1 of live/00_dog", 0, "1_0.jpg")
  ]
  assert found.extra[0].why == "no picture of src_image beside it"
  # A subject of which nothing was generated is expected all the same.
  assert len(found.expected["object/01_mug"]) == 2
  assert found.benchmark.subjects["live/00_dog"].category == "live"
  with pytest.raises(ValueError, match="leave out --benchmark and --data"):
    read(tmp_path, benchmark)


def test_uno(tmp_path, benchmark):
  results = tmp_path / "results"
  for name in ("0_0", "0_1", "1_0", "2_0", "9_0"):
    save_png(results / f"{name}.png", picture(1))
  table = tmp_path / "list.json"
  table.write_text(
    json.dumps(
      [
        {"prompt": SNOW, "image_paths": ["./dreambooth/dataset/dog/02.jpg"]},
        {"text": RED, "image_path": "dreambench/dog/02.jpg"},
        {"prompt": "both", "image_paths": ["dog/0.jpg", "teapot/0.jpg"]},
      ]
    )
  )
  found = read(results, benchmark, table=table)
  assert shown(found) == [
    ("dog", SNOW, 0, "0_0.png"),
    ("dog", SNOW, 1, "0_1.png"),
    ("dog", RED, 0, "1_0.png"),
  ]
  assert {x.why for x in found.extra} == {
    "several subjects",
    "no row of list.json",
  }
  with pytest.raises(ValueError, match="give --list FILE, the JSON list that"):
    read(results, benchmark)
  table.write_text("{}")
  with pytest.raises(ValueError, match="expected UNO's JSON list of rows"):
    read(results, benchmark, table=table)
  for paths in ("dog/02.jpg", {"a": 1}, [1], []):
    table.write_text(json.dumps([{"prompt": SNOW, "image_paths": paths}]))
    with pytest.raises(ValueError, match="row 0 has no prompt and image_paths"):
      read(results, benchmark, table=table)


def test_omnicontext(tmp_path):
  place = tmp_path / "fullset" / "single_object"
  for name in ("a1", "b2", "b2_0", "b2_1", "c3"):
    save_png(place / f"{name}.png", picture(1))
  table = tmp_path / "rows.jsonl"
  rows = [
    {
      "key": key,
      "task_type": "single_object",
      "instruction": f"put {key} on a table",
      "input_images": [f"inputs/{key}.png"],
    }
    for key in ("a1", "b2")
  ]
  table.write_text("\n".join(map(json.dumps, rows)))
  found = read(tmp_path, table=table)
  assert [(p.subject, p.number, p.path.name) for p in found.pictures] == [
    ("single_object/a1", 0, "a1.png"),
    ("single_object/b2", 0, "b2_0.png"),
    ("single_object/b2", 1, "b2_1.png"),
  ]
  assert [x.path.name for x in found.extra] == ["c3.png"]
  reference = found.benchmark.subjects["single_object/a1"].references
  assert reference == (tmp_path / "inputs" / "a1.png",)
  table.write_text("\n".join(map(json.dumps, [rows[0], rows[0]])))
  with pytest.raises(ValueError, match="single_object/a1 is in two rows"):
    read(tmp_path, table=table)
  with pytest.raises(ValueError, match="--identifier=sks: prompts of omnicont"):
    read(tmp_path, table=table, identifiers=["sks"])
  del rows[0]["key"]
  table.write_text("\n".join(map(json.dumps, rows)))
  with pytest.raises(ValueError, match=r"line 1: expected input_images, inst"):
    read(tmp_path, table=table)


@pytest.mark.parametrize(
  ("facts", "words"),
  [
    ({"images_per_prompt": "four"}, "images_per_prompt='four' must be a whole"),
    ({"images_per_prompt": -1}, "images_per_prompt=-1 must be a whole"),
    ({"prompts": ["a {}"]}, "must be 'dreambench'; write prompts of your own"),
    ([], "holds no JSON object"),
  ],
)
def test_a_benchmarks_settings_are_checked(tmp_path, facts, words):
  write_subjects(tmp_path)
  (tmp_path / "benchmark.json").write_text(json.dumps(facts))
  with pytest.raises(ValueError, match=words):
    read_folder(tmp_path)


def test_photographs_that_are_not_read_are_said(tmp_path):
  write_subjects(tmp_path)
  (tmp_path / "dog" / "9.psd").write_bytes(b"x")
  (tmp_path / "dog" / "notes.txt").write_text("no picture")
  (note,) = read_folder(tmp_path).notes
  assert "1 file is not read: 1 .psd (9.psd; convert to JPEG or PNG)" in note


def test_a_class_of_several_words_that_nobody_wrote_is_said(tmp_path):
  write_subjects(tmp_path)
  assert not read_folder(tmp_path).notes
  (tmp_path / "dog").rename(tmp_path / "my_dog")
  found = read_folder(tmp_path)
  assert found.subjects["my_dog"].prompts[0] == "a my dog in the snow"
  (note,) = found.notes
  assert "after their folders: my_dog ('my dog'). prompts_and_classes" in note
  assert note.endswith("rows such as 'my_dog,dog'.")
  (tmp_path / "prompts_and_classes.txt").write_text(
    "subject_name,class\nmy_dog,dog\n"
  )
  found = read_folder(tmp_path)
  assert found.subjects["my_dog"].prompts[0] == "a dog in the snow"
  assert not found.notes


def test_a_class_may_stand_behind_a_space(tmp_path):
  write_subjects(tmp_path)
  (tmp_path / "prompts_and_classes.txt").write_text(
    "subject_name,class\ndog, corgi\n"
  )
  subject = read_folder(tmp_path).subjects["dog"]
  assert (subject.noun, subject.prompts[1]) == ("corgi", "a red corgi")


def test_a_class_and_prompts_file_gives_nouns(tmp_path):
  write_subjects(tmp_path)
  (tmp_path / "prompts_and_classes.txt").write_text(
    "Classes\n\nsubject_name,class\ndog,corgi\n\nPrompts\n"
  )
  found = read_folder(tmp_path)
  assert found.subjects["dog"].prompts[0] == "a corgi in the snow"
  (tmp_path / "prompts_and_classes.txt").write_text(
    "subject_name,class\nkettle,kettle\n"
  )
  with pytest.raises(ValueError, match="names kettle, which is no folder"):
    read_folder(tmp_path)
