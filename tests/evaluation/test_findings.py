# SPDX-License-Identifier: Apache-2.0
"""A study's numbers, from the metrics of its runs, and its page."""

import re

import numpy as np
import pytest
from ml_collections import ConfigDict

from suti.evaluation import findings, intervals
from suti.evaluation.charts import intervals as chart
from suti.evaluation.findings_page import FILE, write_page
from suti.io.files import read_json, write_json


def make_study(**kw):
  study = ConfigDict(
    {
      "title": "<b>Which</b>",
      "question": "More & more?",
      "paper": "0.02",
      "reference": "two",
      "x": "number",
      "seeds": (0, 1),
      "systems": ("apprentice",),
      "labels": {},
      "measures": ("identity", "retrieval"),
      "order": ("two", "one"),
      "variants": {"one": {"x": 1.0}, "two": {"x": 2.0}},
    }
  )
  study.update(kw)
  return study


def write_run(folder, identity, retrieval=None):
  """The metrics of a run: a value a subject, and of some by the judge."""
  metrics = {
    "systems": {"apprentice": {"images": len(identity)}},
    "per_subject": {
      f"{i:012x}": {"apprentice": {"identity": value}}
      for i, value in enumerate(identity)
    },
    "times": {"apprentice_seconds_per_image": 0.5},
  }
  if retrieval is not None:
    metrics["judged"] = {
      "per_subject": {
        f"{i:012x}": {"apprentice": {} if x is None else {"retrieval": x}}
        for i, x in enumerate(retrieval)
      }
    }
  write_json(folder / "apprentice/evaluate/metrics.json", metrics)


@pytest.fixture
def workdir(tmp_path):
  write_run(tmp_path / "one/seed-0", [0.1, 0.2, 0.3], [1.0, None, 0.0])
  write_run(tmp_path / "one/seed-1", [0.3, 0.2, 0.1], [1.0, None, 0.0])
  write_run(tmp_path / "two/seed-0", [0.5, 0.6, 0.7])
  write_run(tmp_path / "two/seed-1", [0.5, 0.6, 0.5])
  return tmp_path


def test_a_variant_may_have_rows_of_its_own(tmp_path):
  """As the main table has: one run's systems, and another run's experts."""
  study = make_study(
    systems=("apprentice", "experts"),
    labels={"experts": "an expert each"},
    variants={
      "two": {"row": ""},
      "one": {"row": "one word", "systems": ("experts",)},
    },
  )
  rows = findings.list_rows(study, tmp_path)
  assert [(r.label, r.system, r.workdirs[0].parent.name) for r in rows] == [
    ("apprentice", "apprentice", "two"),
    ("an expert each", "experts", "two"),
    ("one word", "experts", "one"),
  ]


def test_a_value_is_the_mean_over_seeds_of_each_subject(workdir):
  found = findings.read_findings(make_study(), workdir)
  assert [row["label"] for row in found["rows"]] == ["two", "one"]
  two, one = (row["measures"] for row in found["rows"])
  assert two["identity"]["mean"] == pytest.approx(np.mean([0.5, 0.6, 0.6]))
  np.testing.assert_allclose(two["identity"]["by_seed"], [0.6, 1.6 / 3])
  assert "difference" not in two["identity"]  # it is the reference
  apart = intervals.difference([0.2, 0.2, 0.2], [0.5, 0.6, 0.6])
  expected = pytest.approx((apart.mean, apart.low, apart.high))
  difference = one["identity"]["difference"]
  assert tuple(difference[k] for k in ("mean", "low", "high")) == expected
  assert difference["resolved"] and difference["subjects"] == 3
  assert found["rows"][0]["images"] == 6
  assert found["rows"][0]["seconds_per_image"] == 0.5


def test_a_subject_without_a_value_is_left_out_of_that_measure(workdir):
  found = findings.read_findings(make_study(), workdir)
  two, one = (row["measures"] for row in found["rows"])
  assert "retrieval" not in two
  assert one["retrieval"]["subjects"] == 2
  assert one["retrieval"]["mean"] == 0.5
  assert "difference" not in one["retrieval"]


def test_systems_of_one_variant_are_rows(workdir):
  study = make_study(
    order=("one",),
    systems=("apprentice", "base"),
    labels={"base": "the base"},
    reference="apprentice",
  )
  rows = findings.list_rows(study, workdir)
  assert [row.label for row in rows] == ["apprentice", "the base"]
  found = findings.read_findings(study, workdir)
  assert found["rows"][1]["measures"] == {}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"reference": "three"}, "config.reference='three': expected the label"),
    (
      {"variants": {"one": {"row": "same"}, "two": {"row": "same"}}},
      "Two rows of the study are called 'same'",
    ),
    ({"seeds": (0, 2)}, r"seed-2/apprentice/evaluate/metrics.json does not "),
  ],
)
def test_mistakes_are_one_line(workdir, change, message):
  with pytest.raises(ValueError, match=message) as error:
    findings.read_findings(make_study(**change), workdir)
  assert "\n" not in str(error.value)


def test_a_measure_of_one_seed_alone_is_absent(workdir):
  """As of an expert that was quarantined in the other."""
  write_run(workdir / "two/seed-0", [0.5, 0.6, 0.7], [None, None, None])
  write_run(workdir / "two/seed-1", [0.5, 0.6, 0.5], [1.0, 0.5, 0.0])
  two, _ = findings.read_findings(make_study(), workdir)["rows"]
  assert two["measures"].keys() == {"identity"}


def test_runs_of_other_subjects_are_refused(workdir):
  write_run(workdir / "two/seed-1", [0.5, 0.6])
  with pytest.raises(ValueError, match=r"have \[3, 2\] subjects"):
    findings.read_findings(make_study(), workdir)


def test_other_subjects_are_not_paired(workdir):
  """As many, but others, as of a variant with another benchmark."""
  for seed in (0, 1):
    path = workdir / f"one/seed-{seed}/apprentice/evaluate/metrics.json"
    metrics = read_json(path)
    metrics["per_subject"] = {
      f"f{key[1:]}": row for key, row in metrics["per_subject"].items()
    }
    write_json(path, metrics)
    if not seed:
      with pytest.raises(ValueError, match="other subjects for each seed"):
        findings.read_findings(make_study(), workdir)
  found = findings.read_findings(make_study(), workdir)
  assert found["rows"][1]["measures"]["identity"]["subjects"] == 3
  assert "difference" not in found["rows"][1]["measures"]["identity"]


def test_the_page_says_what_is_unresolved_and_escapes_texts(workdir, tmp_path):
  study = make_study()
  write_run(workdir / "one/seed-0", [0.9, 0.6, 0.2])
  write_run(workdir / "one/seed-1", [0.9, 0.6, 0.2])
  found = findings.read_findings(study, workdir)
  write_json(workdir / FILE, found | {"command": "suti study <x>"})
  write_page([workdir, workdir], tmp_path / "page")
  source = (tmp_path / "page/index.html").read_text()
  assert source.count("&lt;b&gt;Which&lt;/b&gt;") == 2
  assert "More &amp; more?" in source and "suti study &lt;x&gt;" in source
  assert "<b>Which" not in source
  assert re.search(r"~ [+-]0\.000 <small>\[", source), source
  assert source.count("<svg") == 2  # identity has two points, in each study


def test_a_folder_without_findings_is_refused(tmp_path):
  with pytest.raises(
    ValueError, match=r"has no findings\.json: give the workd"
  ):
    write_page([tmp_path], tmp_path / "page")


def test_a_page_never_takes_the_place_of_other_files(workdir):
  """The workdir itself, say: a page replaces its folder."""
  found = findings.read_findings(make_study(), workdir)
  write_json(workdir / FILE, found | {"command": "suti study"})
  write_page([workdir], workdir / "page")
  write_page([workdir], workdir / "page")  # anew
  with pytest.raises(ValueError, match=r"such as findings\.json: move"):
    write_page([workdir], workdir)
  assert (workdir / "one/seed-0").is_dir()


def test_an_interval_is_drawn_from_low_to_high():
  svg = chart(
    [(1, 0.5, 0.4, 0.6), (3, 0.7, None, None)], x_label="<", title="t"
  )
  assert svg.count("<circle") == 2
  assert "&lt;" in svg
  (first, second) = re.findall(
    r'class="one" d="M[\d.]+ ([\d.]+)V([\d.]+)"', svg
  )
  assert float(first[0]) > float(first[1])  # low stands below high
  assert second[0] == second[1]


def test_experts_have_their_seconds_too():
  """Stage 8 writes them as of one expert."""
  runs = [{"times": {"expert_seconds_per_image": s}} for s in (0.2, 0.4)]
  assert findings._seconds(runs, "experts") == pytest.approx(0.3)
  assert findings._seconds(runs, "apprentice") is None
