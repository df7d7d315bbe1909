# SPDX-License-Identifier: Apache-2.0
"""Experts of a wave as files of their own."""

import numpy as np
import pytest

from experts.export import export_experts
from experts.farm.wave_files import describe, write_wave
from experts.farm.waves import make_waves
from suti.hf.lora import load_lora
from suti.models.unet import declare_unet
from suti.nn.param import functional, without
from suti.nn.surgery import lora
from tests.experts import inputs

SPEC, _ = functional(declare_unet(inputs.UNET))
NEW = without(
  functional(
    lora(declare_unet(inputs.UNET), r"attn\d\.to_(q|out\.0)$|conv1$", rank=2)
  )[0],
  SPEC,
)
KEYS = ("0a", "0b", "0c")


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


@pytest.mark.parametrize("layout", ["diffusers", "peft"])
def test_every_expert_is_a_file_of_its_own(layout, tmp_path):
  experts = write(tmp_path / "finetune")
  out = tmp_path / "out"
  written = export_experts(tmp_path / "finetune", out, layout=layout)
  suffix = ".safetensors" if layout == "diffusers" else ""
  assert written == [out / (key + suffix) for key in KEYS]
  assert sorted(out.iterdir()) == written
  for path, params in zip(written, experts.values(), strict=True):
    (update,) = load_lora(path, {"unet": SPEC}).values()
    assert update.keys() == params.keys()
    for name, value in params.items():
      np.testing.assert_array_equal(update[name], value)


def test_those_that_are_asked_for(tmp_path):
  write(tmp_path / "finetune")
  folder, out = tmp_path / "finetune", tmp_path / "out"
  assert export_experts(folder, out, clusters=["0c"]) == [
    out / "0c.safetensors"
  ]
  match = "no finished expert of cluster '0d': there are 0a, 0b, 0c"
  with pytest.raises(ValueError, match=match):
    export_experts(folder, tmp_path / "more", clusters=["0c", "0d"])
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


def test_quarantined_experts_are_left_out(tmp_path):
  folder, out = tmp_path / "finetune", tmp_path / "out"
  write(folder, failed=["0b"])
  assert [path.stem for path in export_experts(folder, out)] == ["0a", "0c"]
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
