# SPDX-License-Identifier: Apache-2.0
"""What a LoRA's config says of its strength, and what it may not say."""

import json
import math
import time

import pytest

from suti.hf import lora_patterns
from suti.hf.lora_config import alphas_of, check_config, strength
from tests.hf.test_lora import LINEAR, pair, refusal, write

LAYERS = [
  "down_blocks.0.attentions.0.to_q",
  "down_blocks.0.attentions.0.to_k",
  "text_model.encoder.layers.0.fc1",
]


@pytest.mark.parametrize(
  ("fields", "text"),
  [
    ({"lora_alpha": "4"}, "lora_alpha='4' of .* must be a number from 0"),
    ({"lora_alpha": math.inf}, "lora_alpha=inf of .* must be a number from 0"),
    ({"lora_alpha": math.nan}, "lora_alpha=nan of .* must be a number from 0"),
    ({"lora_alpha": -4}, "lora_alpha=-4 of .* must be a number from 0"),
    ({"lora_alpha": True}, "lora_alpha=True of .* must be a number from 0"),
    ({"lora_alpha": 10**400}, "lora_alpha=1000.* must be a number from 0"),
    ({"lora_alpha": [4]}, r"lora_alpha=\[4\] of .* must be a number from 0"),
    ({"alpha_pattern": [3]}, "alpha_pattern=.* gives no alpha for a layer"),
    ({"alpha_pattern": {"to_q": None}}, "of 'to_q'=None of .* must be a numb"),
    ({"alpha_pattern": {"to_q": math.inf}}, "'to_q'=inf of .* must be a numb"),
    ({"use_rslora": "false"}, "use_rslora='false' of .* must be true or false"),
    ({"use_rslora": 0}, "use_rslora=0 of .* must be true or false"),
    ({"use_dora": "false"}, "use_dora='false' of .* must be true or false"),
    ({"lora_bias": "no"}, "lora_bias='no' of .* must be true or false"),
  ],
)
def test_a_value_that_makes_no_sense_is_one_line(fields, text, tmp_path):
  with pytest.raises(ValueError, match=text) as error:
    check_config(fields, "lora.safetensors")
  assert "lora.safetensors" in str(error.value)
  # The same in a file's own header, as JSON of Python's has it.
  header = {"lora_adapter_metadata": json.dumps(fields)}
  line = refusal(write(tmp_path / "x.safetensors", pair(), header))
  assert "FILE must be" in line or "FILE gives no alpha" in line


def test_an_alpha_that_overflows_is_one_line(tmp_path):
  header = {"lora_adapter_metadata": json.dumps({"lora_alpha": 3e38})}
  tensors = {k: 100 * v for k, v in pair("unet.conv_in").items()}
  specs = {"unet": {"conv_in.weight": LINEAR}}
  line = refusal(write(tmp_path / "x.safetensors", tensors, header), specs)
  assert line.startswith("FILE is damaged: conv_in is multiplied by 1.5e+38")


def test_an_alpha_may_be_left_open():
  fields = {"lora_alpha": None, "alpha_pattern": None, "use_rslora": None}
  check_config(fields, "lora.safetensors")
  assert alphas_of(fields, LAYERS, "x") == {}
  assert strength(fields, rank=4, alpha=None) == 1


@pytest.mark.parametrize(
  ("patterns", "alphas"),
  [
    ({"to_q": 1.0}, [1, 8, 8]),
    ({"o_q": 1.0}, [8, 8, 8]),  # no part of a name
    ({r"down_blocks\.0\.attentions\.0\.to_q": 1.0}, [1, 8, 8]),
    ({"^down_blocks.0.attentions.0.to_q": 1.0}, [1, 8, 8]),
    ({"^attentions.0.to_q": 1.0}, [8, 8, 8]),
    ({"to_(q|k)": 1.0, "to_q": 2.0}, [1, 1, 8]),
    ({"to_q": 2.0, "to_[qk]": 1.0}, [2, 1, 8]),
    ({"down_blocks.*": 1.0}, [1, 1, 8]),
    ({"encoder.layers.0.fc1": 3.0}, [8, 8, 3]),
    ({"^encoder.layers.0.fc1": 3.0}, [8, 8, 3]),
    ({"text_model.encoder.layers.0.fc1": 3.0}, [8, 8, 3]),
  ],
)
def test_the_first_pattern_that_fits_decides(patterns, alphas):
  found = alphas_of({"lora_alpha": 8, "alpha_pattern": patterns}, LAYERS, "x")
  assert [found[layer] for layer in LAYERS] == alphas


@pytest.mark.parametrize("pattern", ["(", "[", r"\q", "a{2,1}", "(" * 400])
def test_what_is_no_pattern_is_one_line(pattern):
  with pytest.raises(ValueError, match="which is no pattern") as error:
    alphas_of({"alpha_pattern": {pattern: 4}}, LAYERS, "lora.safetensors")
  assert "\n" not in str(error.value)
  assert "lora.safetensors" in str(error.value)


@pytest.mark.parametrize(
  "pattern", ["(.|.)*!", "(a|_|.)+(.*)*!", r"([\w.]*)*!"]
)
def test_a_pattern_that_would_take_years_is_refused(pattern, monkeypatch):
  monkeypatch.setattr(lora_patterns, "WAIT_S", 1.0)
  begin = time.monotonic()
  fields = {"alpha_pattern": {"to_(k|v)": 2, pattern: 4, "to_(q|k)": 3}}
  with pytest.raises(ValueError) as error:
    alphas_of(fields, LAYERS, "lora.safetensors")
  assert f"has {pattern!r}, which takes more than 1 s" in str(error.value)
  assert time.monotonic() - begin < 10


def test_there_are_not_more_patterns_than_layers():
  many = {f"a.{i}": 1.0 for i in range(2001)}
  for patterns in (many, {"a" * 501: 1.0}):
    with pytest.raises(ValueError, match="no model has so many layers"):
      alphas_of({"alpha_pattern": patterns}, LAYERS, "lora.safetensors")
