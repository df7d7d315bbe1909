# SPDX-License-Identifier: Apache-2.0
"""Finding a method by its file's name."""

import pytest

from apprentice import method


def test_a_method_is_a_file():
  assert method.find("suti").paper == "https://arxiv.org/abs/2304.00186"


def test_a_wrong_name_is_answered_with_the_nearest():
  with pytest.raises(ValueError) as error:
    method.find("suty")
  assert str(error.value).startswith(
    "No method 'suty' (config.train.method). apprentice/methods has"
  )
  assert str(error.value).endswith("Did you mean 'suti'?")


def test_a_name_like_none_gets_no_guess():
  with pytest.raises(
    ValueError, match=r"apprentice/methods has .*\.$"
  ) as error:
    method.find("zzzzzz")
  assert "Did you mean" not in str(error.value)
