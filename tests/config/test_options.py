# SPDX-License-Identifier: Apache-2.0
"""Each foreseeable mistake in a config: its whole text."""

import math

import pytest

from configs import quickstart
from suti.config import flags, options


def changed(changes: dict):
  """The quickstart's config with fields changed; None deletes nothing."""
  config = quickstart.get_config().unlock()
  for path, value in changes.items():
    *sections, name = path.split(".")
    fields = config
    for section in sections:
      fields = fields[section]
    with config.ignore_type():
      fields[name] = value
  return config


def message(changes: dict) -> str:
  with pytest.raises(ValueError) as caught:
    options.check(changed(changes))
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_the_quickstart_is_right():
  options.check(quickstart.get_config())
  options.check(quickstart.get_config("tiny"))


MISTAKES = {
  "too small": (
    {"train.batch_size": 0},
    "config.train.batch_size=0: expected an integer of at least 1; set it with "
    "--config.train.batch_size=….",
  ),
  "wrong type": (
    {"finetune.num_steps": 1.5},
    "config.finetune.num_steps=1.5: expected an integer of at least 1; set it "
    "with --config.finetune.num_steps=….",
  ),
  "a flag is no number": (
    {"finetune.num_steps": True},
    "config.finetune.num_steps=True: expected an integer of at least 1; set it "
    "with --config.finetune.num_steps=….",
  ),
  "not finite": (
    {"train.learning_rate": math.nan},
    "config.train.learning_rate=nan: expected a number above 0 and of at most "
    "1; set it with --config.train.learning_rate=….",
  ),
  "out of bounds": (
    {"sample.percentile": 0.995},
    "config.sample.percentile=0.995: expected a number above 1 and of at most "
    "100; 99.5 (per cent) is Imagen's; None clips without thresholding.",
  ),
  "a large bound": (
    {"seed": 2**32},
    "config.seed=4294967296: expected an integer of at least 0 and of at most "
    "4294967295; set it with --config.seed=….",
  ),
  "no such choice, but a close one": (
    {"mine.source": "wrld"},
    "config.mine.source='wrld': expected one of world, heldout, folder, table. "
    "Did you mean 'world'?",
  ),
  "no such choice": (
    {"sample.sampler": "pndm-7"},
    "config.sample.sampler='pndm-7': expected one of ddpm, ddim, dpmpp_2m; set "
    "it with --config.sample.sampler=….",
  ),
  "no such skill": (
    {"prompts.skills": ("stile",)},
    "config.prompts.skills=('stile',): expected some of recontextualization, "
    "attribute, style, accessory, view, expression, composition. Did "
    "you mean 'style'?",
  ),
  "no skill": (
    {"prompts.skills": ()},
    "config.prompts.skills=(): expected some of recontextualization, "
    "attribute, style, accessory, view, expression, composition; set it "
    "with --config.prompts.skills=….",
  ),
  "empty model": (
    {"backbone": " "},
    "config.backbone=' ': expected a text that is not empty; name a shipped "
    "model, e.g. 'world_base', or a folder in the published layout.",
  ),
  "unknown field": (
    {"train.batch_sise": 4},
    "config.train.batch_sise=4: there is no such field. Did you mean "
    "'batch_size'?",
  ),
  "unknown field, nothing close": (
    {"pack.zzz": 4},
    "config.pack.zzz=4: there is no such field. config.pack has "
    "shard_size, demonstrations, prompts.",
  ),
  "a field that another replaced": (
    {"filter.threshold": 0.1},
    "config.filter.threshold=0.1: there is no such field. Did you mean "
    "config.filter.rule? A threshold of 0.02 is --config.filter.rule="
    '"delta_clip > 0.02".',
  ),
  "a rule that is none": (
    {"filter.rule": "0.02"},
    "config.filter.rule='0.02': '0.02' is no condition: write NAME > NUMBER, "
    "or with >=, < or <=, and join several by commas, as in 'delta_clip > "
    "0.02, identity > 0.6'.",
  ),
  "half a group in a batch": (
    {"sample.together": 3},
    "config.sample.batch_size=8 is not a multiple of config.sample.together=3: "
    "images that see each other are sampled in one batch; use a multiple.",
  ),
  "half a group of a subject": (
    {"sample.together": 3, "sample.batch_size": 6},
    "config.prompts.num_per_cluster=8 times config.sample.images_per_prompt=1 "
    "is 8 images a subject, no multiple of config.sample.together=3: change "
    "one, so that groups are whole.",
  ),
  "half a group of a benchmark's subject": (
    {"sample.together": 4, "benchmark.num_prompts": 6},
    "config.benchmark.num_prompts=6 times "
    "config.apprentice_sample.images_per_prompt=1 is 6 images a subject, no "
    "multiple of config.sample.together=4: change one, so that groups are "
    "whole.",
  ),
  "groups of one as demonstrations": (
    {"pack.demonstrations": "group"},
    "config.pack.demonstrations='group' shows images that were sampled in a "
    "target's sight, and config.sample.together=1 samples each alone: set it "
    "to 'cluster', or sample several together.",
  ),
  "a section that is none": (
    {"pack": 3},
    "config.pack=3: expected a section with fields, as in "
    "configs/quickstart.py.",
  ),
  "wrong order": (
    {"mine.min_images": 11},
    "config.mine.min_images=11 is above config.mine.max_images=10: expected "
    "at most that; lower the one or raise the other.",
  ),
  "more demonstrations than there are": (
    {"apprentice_sample.num_demonstrations": 6},
    "config.apprentice_sample.num_demonstrations=6 is above "
    "config.benchmark.images_each=5: expected at most that; lower the one or "
    "raise the other.",
  ),
  "a system twice": (
    {"apprentice_sample.systems": ("apprentice", "apprentice")},
    "config.apprentice_sample.systems=('apprentice', 'apprentice'): expected "
    "each once; leave out the repeated.",
  ),
  "classes of the web": (
    {"mine.nouns": ("dog",)},
    "config.mine.nouns=('dog',) has no effect with config.mine.source='world': "
    "leave it empty, and put the subjects that you want into a folder.",
  ),
  "a benchmark's list that is not there": (
    {"benchmark.prompts": "/no/such.csv"},
    "config.benchmark.prompts='/no/such.csv': expected a file of prompts, CSV "
    "or JSON, and there is none; '' takes DreamBench's.",
  ),
  "more prompts than DreamBench has": (
    {"benchmark.num_prompts": 26},
    "config.benchmark.num_prompts=26: expected at most 25, as many as "
    "DreamBench has for a subject; more need a list, config.benchmark.prompts.",
  ),
  "a list that is not there": (
    {"prompts.source": "list"},
    "config.prompts.path='': expected a file of prompts, CSV or JSON, as "
    "config.prompts.source='list' says, and there is none; give its path or "
    "set --config.prompts.source=unseen.",
  ),
  "a list that is not read": (
    {"prompts.path": "x.csv"},
    "config.prompts.path='x.csv' has no effect with config.prompts.source="
    "'unseen': leave it out, or set --config.prompts.source=list.",
  ),
  "templates of no kind": (
    {"prompts.templates": "some"},
    "config.prompts.templates='some': expected one of all, seen, held_out; set "
    "it with --config.prompts.templates=….",
  ),
  "no folder": (
    {"mine.source": "folder", "mine.path": "/no/such"},
    "config.mine.path='/no/such': expected a folder of subject folders, as "
    "config.mine.source='folder' says, and there is none; give its path or "
    "set --config.mine.source=world.",
  ),
  "no table": (
    {"mine.source": "table"},
    "config.mine.path='': expected a table's file or the folder of its "
    "parts, as "
    "config.mine.source='table' says, and there is none; give its path or set "
    "--config.mine.source=world.",
  ),
  "checkpoints between two lines of the log": (
    {"train.checkpoint_every": 3, "train.log_every": 2},
    "config.train.checkpoint_every=3 is not a multiple of "
    "config.train.log_every=2: a run that goes on from a checkpoint would log "
    "other means; use a multiple.",
  ),
  "neither a number nor auto": (
    {"finetune.experts_per_device": "all"},
    "config.finetune.experts_per_device='all': expected an integer of at least "
    "1, or 'auto'; None goes by config.finetune.experts_per_wave.",
  ),
  "a number that is a text": (
    {"finetune.experts_per_device": "3"},
    "config.finetune.experts_per_device='3': expected an integer of at least "
    "1, or 'auto'; None goes by config.finetune.experts_per_wave.",
  ),
  "a loss below which all would be quarantined": (
    {"finetune.diverged": 1.0},
    "config.finetune.diverged=1.0: expected a number above 1, how many times "
    "its first loss an expert's last may be, or 0, which quarantines none by "
    "its loss; 6 is a good value.",
  ),
  "windows that no expert fills twice": (
    {"finetune.stop_window": 31},
    "config.finetune.stop_window=31 is more than half of "
    "config.finetune.num_steps=60: two windows are compared, so no expert "
    "would ever stop early; lower it, or set it to 0.",
  ),
  "nothing to compare with": (
    {"apprentice_sample.systems": ("base",)},
    "config.apprentice_sample.systems=('base',): expected 'apprentice' among "
    "them, as the others are compared with it; add it.",
  ),
  "no such system": (
    {"apprentice_sample.systems": ("apprentice", "coppy")},
    "config.apprentice_sample.systems=('apprentice', 'coppy'): expected some "
    "of apprentice, before, base, text_only, copy, wrong_subject, shuffled. "
    "Did you mean 'copy'?",
  ),
  "nobody else to show": (
    {"benchmark.num_subjects": 1, "benchmark.num_expert_subjects": 1},
    "config.apprentice_sample.systems has 'wrong_subject', which is shown "
    "other subjects, and config.benchmark.num_subjects=1: leave it out, or "
    "raise that.",
  ),
  "nothing to copy": (
    {"apprentice_sample.num_demonstrations": 0},
    "config.apprentice_sample.systems has 'copy', which takes demonstrations, "
    "and config.apprentice_sample.num_demonstrations=0: leave it out, or raise "
    "that.",
  ),
  "a rate that falls before it has risen": (
    {"train.decay": 1.0},
    "config.train.warmup_steps=20 and the share config.train.decay=1.0 of 300 "
    "steps overlap: lower one, or raise config.train.num_steps.",
  ),
  "batch and mesh": (
    {"mesh.data": 8, "train.batch_size": 30},
    "config.train.batch_size=30 is not divisible by the 8 devices of mesh axis "
    "'data': use a multiple of 8 or set config.mesh.data.",
  ),
  "batch and two axes": (
    {"mesh.data": 4, "mesh.fsdp": 2, "train.batch_size": 4},
    "config.train.batch_size=4 is not divisible by the 8 devices of mesh axis "
    "'data' x 'fsdp': use a multiple of 8 or set config.mesh.data.",
  ),
  "an axis of nothing": (
    {"mesh.data": 0},
    "config.mesh.data=0: expected a number of devices, or -1 for those that "
    "are left.",
  ),
  "two axes of the rest": (
    {"mesh.data": -1, "mesh.fsdp": -1},
    "config.mesh={'data': -1, 'fsdp': -1}: expected -1 for one "
    "axis at most; give the others a number of devices.",
  ),
  "no regular expression": (
    {"method.sites": "("},
    "config.method.sites='(': expected a regular expression, but missing ), "
    "unterminated subpattern at position 0; quote or mend it.",
  ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_the_text_of_a_mistake(name):
  changes, text = MISTAKES[name]
  assert message(changes) == text


def test_a_missing_field_and_a_missing_section():
  config = quickstart.get_config().unlock()
  del config.train.batch_size
  with pytest.raises(ValueError) as caught:
    options.check(config)
  assert str(caught.value) == (
    "config.train.batch_size is missing: copy it from configs/sections."
  )
  del config["train"]
  with pytest.raises(ValueError) as caught:
    options.check(config)
  assert str(caught.value) == (
    "config.train is missing: copy it from configs/sections."
  )


def test_an_optional_field_may_be_none_but_not_absent():
  config = quickstart.get_config().unlock()
  config.sample.percentile = None
  options.check(config)
  del config.sample["percentile"]
  with pytest.raises(
    ValueError, match=r"config\.sample\.percentile is missing"
  ):
    options.check(config)


def test_a_pretraining_config_is_none_of_the_loops():
  with pytest.raises(ValueError, match=r"--config has none of the loop's"):
    options.check({"seed": 0, "pool": {"num_subjects": -1}})


def test_a_setting_without_effect_warns():
  config = changed({"mine.path": "photos"})
  with pytest.warns(UserWarning, match="'photos' has no effect"):
    options.check(config)


@pytest.mark.parametrize("variant", ["", "tiny"])
def test_every_field_of_the_quickstart_has_a_rule_and_the_reverse(variant):
  """A rule that no config uses would hide a typo in the rule's own name."""
  config = quickstart.get_config(variant)
  rules = {"": {**options._TOP, **options.FIELDS}, **options.FIELDS}
  # Its other fields are the method's own: suti/config/options.py.
  assert set(rules.pop("method")) <= set(config.method)
  for section, known in rules.items():
    fields = config[section] if section else config
    assert set(known) == set(fields), section
  for (section, name), known in options.NESTED.items():
    assert set(known) == set(config[section][name]), name


def test_a_field_that_another_replaced_on_the_command_line(root):
  file = root / "configs" / "quickstart.py"
  with pytest.raises(ValueError) as caught:
    flags.parse_config(
      [f"--config={file}", "--config.filter.threshold=0.1"], command=""
    )
  assert str(caught.value) == (
    f"--config.filter.threshold: {file} has no such field. Did you mean "
    "config.filter.rule? A threshold of 0.02 is --config.filter.rule="
    '"delta_clip > 0.02".'
  )


@pytest.mark.parametrize(
  ("text", "value"), [("3", 3), ("auto", "auto"), ("None", None)]
)
def test_a_number_or_a_word_on_the_command_line(root, text, value):
  file = root / "configs" / "quickstart.py"
  config = flags.parse_config(
    [f"--config={file}", f"--config.finetune.experts_per_device={text}"],
    command="",
  )
  assert config.finetune.experts_per_device == value
  options.check(config)
