# SPDX-License-Identifier: Apache-2.0
"""What a prompt is for a model, read from how the model was trained."""

import pytest

from apprentice import prompt_kinds
from suti.io.files import write_json

SNOW, PINK = "a dog in the snow", "a dog on top of pink fabric"


@pytest.mark.parametrize(
  ("base", "lessons", "snow", "pink"),
  [
    ("all", "all", "seen", "seen"),
    ("all", "none", "seen", "seen"),
    ("all", "seen", "seen", "held_out_of_lessons"),
    ("seen", "seen", "seen", "held_out"),
    ("seen", "none", "seen", "held_out"),
    ("unknown", "seen", "seen", "unknown"),
    ("unknown", "all", "seen", "seen"),
    ("all", "unknown", "unknown", "unknown"),
    ("unknown", "none", "unknown", "unknown"),
  ],
)
def test_a_prompt_is_what_both_trainings_make_it(base, lessons, snow, pink):
  kinds = prompt_kinds.kinds_of(
    dict.fromkeys((SNOW, PINK, "dog, jungle", "a dog at sea"), ("dog", True)),
    base=base,
    lessons=lessons,
    listed={"dog, jungle": {"kind": "other_words"}},
  )
  assert (kinds[SNOW], kinds[PINK]) == (snow, pink)
  assert kinds["dog, jungle"] == "other_words"
  assert kinds["a dog at sea"] == "unknown"


def test_shipped_models_say_what_they_have_seen():
  assert prompt_kinds.base_prompts("world_base") == "all"


@pytest.fixture
def trained(tmp_path):
  """A workdir's training on a base: (config of train) -> lesson_prompts."""

  def train(init, *, num_steps=5, examples=()):
    fields = {"init": str(init), "num_steps": num_steps, "examples": examples}
    done = {"config": {"train": fields}}
    write_json(tmp_path / "apprentice/train/done.json", done)
    return prompt_kinds.lesson_prompts(tmp_path)

  return train


def prompts_done(workdir, templates):
  write_json(
    workdir / "experts/prompts/done.json",
    {"config": {"prompts": {"templates": templates}}},
  )
  write_json(workdir / "experts/pack/done.json", {})


def test_lessons_are_those_of_this_run_of_others_and_from_before(
  trained, tmp_path
):
  assert trained("world_base", num_steps=0) == "none"
  assert trained("world_apprentice", num_steps=0) == "all"
  prompts_done(tmp_path, "seen")
  assert trained("world_base") == "seen"
  assert trained("world_apprentice") == "all"
  other = tmp_path / "other"
  prompts_done(other, "all")
  assert trained("world_base", examples=[str(other / "experts/pack")]) == "all"
  # A pretraining's examples lie beside its done.json.
  pool = {"config": {"pool": {"templates": "seen"}}}
  write_json(tmp_path / "examples/done.json", pool)
  shards = [str(tmp_path / "examples/shards")]
  assert trained("world_base", examples=shards) == "seen"


def test_what_no_record_says_is_unknown(trained, tmp_path):
  prompts_done(tmp_path, "seen")
  elsewhere = [str(tmp_path / "downloaded/shards")]
  assert trained("world_base", examples=elsewhere) == "unknown"
  (tmp_path / "bare").mkdir()
  write_json(tmp_path / "bare/apprentice.json", {})
  assert trained(tmp_path / "bare") == "unknown"
