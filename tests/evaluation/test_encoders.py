# SPDX-License-Identifier: Apache-2.0
"""Who conditions, filters and judges, and where two of them are one."""

from ml_collections import ConfigDict

from suti.evaluation.encoders import describe_encoders
from suti.io.files import write_json


def make(tmp_path, *, rule, encoder="", learned=None, num_steps=1, **names):
  models = {}
  for field in ("backbone", "clip", "identity", "judge"):
    folder = tmp_path / names.get(field, field)
    write_json(folder / "config.json", {"is": folder.name})
    models[field] = str(folder)
  done = tmp_path / "experts" / "filter" / "done.json"
  write_json(done, {"summary": {"rule": rule}})
  method = {"encoder": models[encoder]} if encoder else {}
  train = {"rule": learned, "num_steps": num_steps}
  return describe_encoders(
    ConfigDict(models | {"method": method, "train": train}), tmp_path
  )


def test_the_filters_encoders_are_those_of_its_rule(tmp_path):
  found = make(tmp_path, rule="delta_clip > 0.02")
  assert [name.split("/")[-1] for name in found["filter"]] == ["clip"]
  # Scores are CLIP's and the identity encoder's; that CLIP chose too is said.
  assert len(found["same"]) == 1 and found["same"][0].count("clip' of") == 2
  found = make(tmp_path, rule="delta_clip > 0.02, identity > 0.5")
  assert [name.split("/")[-1] for name in found["filter"]] == [
    "clip",
    "identity",
  ]


def test_who_chose_what_is_learned_filters_too(tmp_path):
  rule = {"rule": "delta_clip > 0.02", "learned": "identity > 0.7"}
  assert len(make(tmp_path, **rule)["filter"]) == 2
  assert len(make(tmp_path, **rule, num_steps=0)["filter"]) == 1


def test_a_judge_that_filters_is_named(tmp_path):
  found = make(tmp_path, rule="identity > 0.5", judge="identity")
  assert any(
    "of judge is" in text and "of filter" in text for text in found["same"]
  )
  assert list(found["judge"].values()) == [list(found["filter"].values())[1]]


def test_what_a_method_sees_pictures_through_conditions(tmp_path):
  """CLIP's scores flatter a model that was shown CLIP's view."""
  found = make(tmp_path, rule="", encoder="clip")
  names = [name.split("/")[-1] for name in found["conditioning"]]
  assert names == ["backbone", "clip"]
  assert any(
    "of scores is" in text and "of conditioning" in text
    for text in found["same"]
  )
