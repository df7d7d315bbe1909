# SPDX-License-Identifier: Apache-2.0
"""Experts of a wave as files of their own."""

import shlex

import numpy as np
import pytest
import safetensors

from experts.clusters import write_clusters
from experts.export import export_experts
from experts.farm.wave_files import describe, write_wave
from experts.farm.waves import make_waves
from suti.hf.lora import load_lora
from suti.hf.lora_export import LAYOUTS
from suti.io.files import read_json, write_json
from suti.models.unet import declare_unet
from suti.nn.param import functional, without
from suti.nn.surgery import lora
from suti.schema import Cluster
from tests import tiny

SPEC, _ = functional(declare_unet(tiny.ONE_LEVEL_UNET))
NEW = without(
  functional(
    lora(
      declare_unet(tiny.ONE_LEVEL_UNET),
      r"attn\d\.to_(q|out\.0)$|conv1$",
      rank=2,
    )
  )[0],
  SPEC,
)
KEYS = ("0a" * 6, "0b" * 6, "0c" * 6)


def write(folder, names=NEW, *, failed=()):
  """Two waves of two experts, the last one padded; returns the weights."""
  rng = np.random.default_rng(0)
  found = {}
  for wave in make_waves(KEYS, experts_per_wave=2, num_devices=1):
    params = {
      name: rng.normal(size=(2, *p.shape)).astype(np.float32)
      for name, p in names.items()
    }
    failed_E = np.array(
      [3 if key in failed else -1 for key in wave.keys] + [-1]
    )
    state = {
      "params": params,
      "failed_E": failed_E,
      "diverged_E": np.zeros(3, bool),
      "step_E": np.full(2, 4),
      "loss_ET": np.ones((2, 4)),
    }
    record = describe(wave, state, teacher="lora", damaged={})
    write_wave(folder, wave, record, params=[params])
    for row, key in enumerate(wave.keys):
      found[key] = {name: x[row] for name, x in params.items()}
  return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_expert_is_a_file_of_its_own(layout, tmp_path):
  experts = write(tmp_path / "finetune")
  out = tmp_path / "out"
  written = export_experts(tmp_path / "finetune", out, layout=layout)
  suffix = "" if layout == "peft" else ".safetensors"
  assert written == [out / (key + suffix) for key in KEYS]
  assert sorted(out.iterdir()) == written
  for path, params in zip(written, experts.values(), strict=True):
    (update,) = load_lora(path, {"unet": SPEC}).values()
    assert update.keys() == params.keys()
    for name, value in params.items():
      np.testing.assert_array_equal(update[name], value)


SUBJECTS = (  # of KEYS: source, noun, caption
  ("/home/somebody/photos/Rex the 2nd!", "dog", "a brown dog"),
  ("https://example.com/shop?id=3", "bear plushie", "a 'red' bear plushie"),
  ("photos/my-dog", "dog", "a dog"),
)
NAMES = (
  f"rex-the-2nd-dog-{KEYS[0]}",
  f"bear-plushie-{KEYS[1]}",
  f"my-dog-{KEYS[2]}",
)


def write_workdir(workdir, *, backbone="org/base", subjects=SUBJECTS):
  """A run whose subjects are known; returns its folder of experts."""
  write(workdir / "experts" / "finetune")
  config = {"config": {"backbone": backbone}, "inputs": {}}
  write_json(workdir / "experts" / "finetune" / "stage.json", config)
  image_u8 = np.zeros((8, 8, 3), np.uint8)
  clusters = [
    Cluster(
      key=key,
      subject=noun,
      caption=caption,
      images=(image_u8,),
      captions=(caption,),
      live=True,
      source=source,
    )
    for key, (source, noun, caption) in zip(KEYS, subjects, strict=True)
  ]
  write_clusters(workdir / "experts" / "mine", KEYS, iter(clusters))
  return workdir / "experts" / "finetune"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_experts_have_the_names_of_their_subjects(layout, tmp_path):
  folder = write_workdir(tmp_path / "run")
  written = export_experts(folder, tmp_path / "out", layout=layout)
  end = "" if layout == "peft" else ".safetensors"
  assert [path.name for path in written] == [name + end for name in NAMES]
  file = written[1]
  if layout == "peft":
    config = read_json(file / "adapter_config.json")
    assert config["base_model_name_or_path"] == "org/base"
    file /= "adapter_model.safetensors"
  with safetensors.safe_open(file, framework="np") as opened:
    header = opened.metadata()
  assert {k: v for k, v in header.items() if k.startswith("suti.")} == {
    "suti.base": "org/base",
    "suti.rank": "2",
    "suti.subject": "bear plushie",
    "suti.noun": "bear plushie",
    "suti.caption": "a 'red' bear plushie",
    "suti.command": "suti generate --model org/base --lora "
    + shlex.join(
      [written[1].name, "--prompt", f"{SUBJECTS[1][2]} in the snow"]
    ),
  }


def test_nothing_of_this_machine_is_in_a_file(tmp_path):
  base = tmp_path / "private" / "base"
  folder = write_workdir(tmp_path / "run", backbone=str(base))
  for layout in ("diffusers", "kohya"):
    for file in export_experts(folder, tmp_path / layout, layout=layout):
      content = file.read_bytes()
      assert b"private" not in content and b"somebody" not in content
      assert b'"suti.base":"base"' in content


@pytest.mark.parametrize(
  ("wanted", "keys"),
  [
    (["dog"], [0, 2]),
    (["my-dog"], [2]),
    (["bear plushie", KEYS[0]], [0, 1]),
    ([NAMES[1]], [1]),
    (["Rex the 2nd!"], [0]),
  ],
)
def test_experts_are_chosen_by_what_they_are_known_by(wanted, keys, tmp_path):
  folder = write_workdir(tmp_path / "run")
  written = export_experts(folder, tmp_path / "out", experts=wanted)
  assert [path.stem for path in written] == [NAMES[i] for i in keys]


def test_a_subject_that_is_not_there(tmp_path):
  folder = write_workdir(tmp_path / "run")
  with pytest.raises(ValueError) as error:
    export_experts(folder, tmp_path / "out", experts=["dog", "cat"])
  assert str(error.value) == (
    f"{folder} has no finished expert of 'cat': there are "
    f"{', '.join(NAMES)}; give a key, or the name of a subject."
  )


@pytest.mark.parametrize(
  "name", ["../../x", "/etc/passwd", "..", "a/b", "\x00", "x\ny", "", "é/д"]
)
def test_a_subjects_name_is_no_path(name, tmp_path):
  subjects = [(name, name, name)] * 3
  folder = write_workdir(tmp_path / "run", subjects=subjects)
  for layout in LAYOUTS:
    out = tmp_path / layout
    for path in export_experts(folder, out, layout=layout):
      assert path.parent == out and path.exists()
      assert path.name.removesuffix(".safetensors").endswith(KEYS) or any(
        key in path.name for key in KEYS
      )
  assert sorted(p.name for p in tmp_path.iterdir()) == [*sorted(LAYOUTS), "run"]


def test_selected_experts(tmp_path):
  write(tmp_path / "finetune")
  folder, out = tmp_path / "finetune", tmp_path / "out"
  assert export_experts(folder, out, experts=KEYS[2:]) == [
    out / f"{KEYS[2]}.safetensors"
  ]
  match = f"no finished expert of '0d': there are {KEYS[0]}"
  with pytest.raises(ValueError, match=match):
    export_experts(folder, tmp_path / "more", experts=[KEYS[2], "0d"])
  assert not (tmp_path / "more").exists()


def test_what_is_there_is_not_written_over(tmp_path):
  write(tmp_path / "finetune")
  folder, out = tmp_path / "finetune", tmp_path / "out"
  export_experts(folder, out)
  with pytest.raises(ValueError, match="out is already there: give the name"):
    export_experts(folder, out)
  with pytest.raises(ValueError, match=r"lies inside of .*finetune, which is"):
    export_experts(folder, folder / "out")


def test_an_export_that_stops_half_way_leaves_nothing(tmp_path):
  write(tmp_path / "finetune")
  second = tmp_path / "finetune" / "wave-00001.safetensors"
  second.write_bytes(second.read_bytes()[:-1])
  with pytest.raises(
    ValueError, match=r"wave-00001\.safetensors is not a whole"
  ):
    export_experts(tmp_path / "finetune", tmp_path / "out")
  assert [path.name for path in tmp_path.iterdir()] == ["finetune"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("where", ["../theirs", "{}/theirs"])
def test_a_run_of_others_writes_nowhere_else(tmp_path, layout, where):
  folder, theirs = tmp_path / "finetune", tmp_path / "theirs"
  write(folder)
  theirs.mkdir()
  (theirs / "mine.txt").write_text("mine")
  file = folder / "wave-00001.json"
  record = read_json(file)
  record["experts"][0]["cluster"] = where.format(tmp_path)
  write_json(file, record)
  with pytest.raises(ValueError) as error:
    export_experts(folder, tmp_path / "out", layout=layout)
  text = str(error.value)
  assert text.startswith(f"Expert 0 of {file} is none: its cluster is ")
  assert "\n" not in text
  assert [p.name for p in theirs.iterdir()] == ["mine.txt"]
  assert sorted(p.name for p in tmp_path.iterdir()) == ["finetune", "theirs"]


@pytest.mark.parametrize("record", [[], {}, {"experts": [3]}, {"experts": 3}])
def test_a_record_that_is_none_is_one_line(tmp_path, record):
  write(tmp_path / "finetune")
  write_json(tmp_path / "finetune" / "wave-00001.json", record)
  with pytest.raises(ValueError, match=r"wave-00001\.json .*"):
    export_experts(tmp_path / "finetune", tmp_path / "out")


def test_quarantined_experts_are_left_out(tmp_path):
  folder, out = tmp_path / "finetune", tmp_path / "out"
  write(folder, failed=KEYS[1:2])
  assert [path.stem for path in export_experts(folder, out)] == [
    KEYS[0],
    KEYS[2],
  ]
  write(folder, failed=KEYS)
  with pytest.raises(ValueError, match="has no finished expert: run"):
    export_experts(folder, tmp_path / "none")


def test_what_cannot_be_exported(tmp_path):
  folder, out = tmp_path / "finetune", tmp_path / "out"
  write(folder, {name: SPEC[name] for name in ["conv_in.weight"]})
  with pytest.raises(ValueError, match=r"they change 'conv_in\.weight' itself"):
    export_experts(folder, out)
  (folder / "wave-00000.safetensors").unlink()
  with pytest.raises(ValueError, match="keep='nothing' weights are del"):
    export_experts(folder, out)
