# SPDX-License-Identifier: Apache-2.0
"""`suti report`: systems side by side, safe to open, right in its numbers."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from suti.evaluation.benchmark.evaluate import read_scores
from suti.evaluation.benchmark.subjects import read_folder
from suti.evaluation.benchmark.tables import Row
from suti.images import save_png
from suti.io.files import read_json, write_json
from tests.commands import error_of, start
from tests.evaluation.benchmark_folders import picture, write_subjects
from tests.evaluation.test_report import read

NASTY = "<img src=x onerror=alert(1)>"


def write_scores(
  folder, *, system, shift=0.0, fingerprint="a", seed=0, benchmark="k"
):
  """What `suti evaluate` leaves, with made-up scores of six subjects."""
  rng = np.random.default_rng(seed)
  pictures = folder.parent / f"{folder.name}-pictures"
  rows, references = [], {}
  for s in range(6):
    name = f"subject {s} {NASTY}" if s == 0 else f"subject {s}"
    paths = []
    for k in range(2):
      path = pictures / f"{s}-{k}.png"
      save_png(path, picture(10 * s + k))
      paths.append(str(path))
    references[name] = paths[:1]
    for k in range(2):
      rows.append(
        Row(
          subject=name,
          prompt=f"a prompt {NASTY}",
          number=k,
          category="live" if s % 2 else "object",
          noun="dog",
          template="a prompt",
          skill="attribute",
          path=paths[k],
          references=4,
          identity=0.5 + 0.05 * s + shift,
          clip_i=0.7,
          clip_t=float(rng.normal(0.3, 0.05)),
          delta_clip=0.0,
          copying=0.6,
        )
      )
  (folder).mkdir()
  text = "\n".join(json.dumps(dataclasses.asdict(row)) for row in rows)
  (folder / "pictures.jsonl").write_text(text)
  write_json(folder / "references.json", references)
  from suti.evaluation import protocol
  from suti.evaluation.benchmark import tables

  rules = protocol.Protocol()
  groups = tables.grouped(rows, rules, by=lambda row: row.subject)
  write_json(
    folder / "metrics.json",
    {
      "system": system,
      "protocol": protocol.record(rules, []),
      "encoders": {
        "identity": {
          "folder": "dino",
          "class": "ViTModel",
          "fingerprint": fingerprint,
        }
      },
      "benchmark": {"name": "made up", "key": benchmark},
      "titles": protocol.titles_of("DINO"),
      "scores": tables.overall(rows, rules),
      "real": {},
      "copied": {"share": 0.25},
      "comparable": True,
      "warnings": [f"a warning {NASTY}"],
      "per_subject": groups,
    },
  )
  return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  place = tmp_path_factory.mktemp("scores")
  return [
    write_scores(place / "a", system=f"ours {NASTY}"),
    write_scores(place / "b", system="theirs", shift=-0.1, seed=1),
    write_scores(place / "c", system="theirs", fingerprint="b"),
  ]


@pytest.fixture(scope="module")
def out(folders):
  out = folders[0].parent / "page"
  assert start("report", *folders, "--out", out) == 0
  return out


def test_systems_are_compared_by_subject(out):
  found = read_json(out / "comparison.json")["systems"]
  row = found["theirs"]["identity"]
  # The same on every subject, whose own differences cancel out.
  assert [row[k] for k in ("mean", "low", "high")] == pytest.approx([-0.1] * 3)
  assert row["holds"] and row["subjects"] == 6
  assert not found["theirs"]["clip_t"]["holds"]
  assert found["theirs (2)"] == {"not_compared": "another encoders"}


def test_the_page_needs_nobody_and_escapes_everything(out):
  source, reader = read(out)
  assert not reader.links and "script" not in reader.tags
  assert NASTY not in source and "onerror=alert" not in source.replace(
    "&lt;img src=x onerror=alert(1)&gt;", ""
  )
  for name in ("ours", "theirs (2)", "-0.100", "within noise", "25.0%"):
    assert name in source, name
  for path in reader.sources:
    assert (out / path).is_file()
  assert len(reader.sources) == 6 * (1 + 3)


def test_another_benchmark_of_one_name_is_not_compared(folders, tmp_path):
  other = write_scores(tmp_path / "d", system="theirs", benchmark="another")
  out = tmp_path / "page"
  assert start("report", folders[0], other, "--out", out) == 0
  found = read_json(out / "comparison.json")["systems"]
  assert found["theirs"] == {"not_compared": "another benchmark"}


def test_a_page_is_made_anew_and_no_other_folder_is_written(
  folders, tmp_path, capsys
):
  for _ in range(2):
    assert start("report", folders[0], "--out", tmp_path / "page") == 0
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "x.txt").write_text("x")
  line = error_of(capsys, "report", folders[0], "--out", tmp_path / "mine")
  assert "holds other files: give a new folder for the page" in line
  line = error_of(capsys, "report", tmp_path, "--out", tmp_path / "y")
  assert "has no metrics.json: give a folder that suti evaluate" in line


def test_a_picture_that_is_gone_is_left_out(folders, tmp_path, capsys):
  shutil.copytree(folders[1], tmp_path / "s")
  rows = read_scores(tmp_path / "s")[1]
  lines = [
    json.dumps(dataclasses.asdict(dataclasses.replace(row, path="gone.png")))
    for row in rows
  ]
  (tmp_path / "s" / "pictures.jsonl").write_text("\n".join(lines))
  assert start("report", tmp_path / "s", "--out", tmp_path / "page") == 0
  assert "gone.png does not exist" in capsys.readouterr().err


def test_subjects_of_a_folder_are_read_for_it(tmp_path):
  write_subjects(tmp_path)
  assert set(read_folder(tmp_path).subjects) == {"dog", "teapot"}
