# SPDX-License-Identifier: Apache-2.0
"""`suti push`: cards, and an upload through the hub's real client."""

import base64
import contextlib
import http.server
import json

import pytest
from huggingface_hub import constants

from suti.hf import cards
from suti.io.files import send_folder, write_json
from suti.io.paths import path_of
from tests.commands import error_of, start
from tests.local_server import serving

TRAIN = {
  "method": "suti",
  "init": "/home/someone/secret/world_apprentice",
  "examples": ["/home/someone/secret/shards"],
  "num_steps": 10,
  "batch_size": 4,
  "max_demonstrations": 10,
}


@pytest.fixture
def run(tmp_path):
  """What a finished run leaves of what is published."""
  run = tmp_path / "run"
  write_json(
    run / "apprentice/train/done.json",
    {
      "summary": {"steps": 10, "loss": 0.25},
      "seconds": 3600,
      "config": {"train": TRAIN, "backbone": "world_base", "seed": 7},
      "inputs": {},
    },
  )
  write_json(run / "apprentice/train/model/apprentice.json", {"a": 1})
  weights = run / "apprentice/train/model/unet/model.safetensors"
  weights.parent.mkdir()
  weights.write_bytes(bytes(range(256)))
  write_json(
    run / "apprentice/evaluate/metrics.json",
    {
      "systems": {
        "apprentice": {"identity": {"mean": 0.6704}, "images": 30},
        "a | b": {"clip_t": {"mean": 0.5}, "images": 3},
      },
      "judged": {
        "systems": {
          "apprentice": {
            "retrieval": {"mean": 0.27, "low": 0.125, "high": 0.458},
            "questions": {"mean": 0.77, "low": None, "high": None},
            "images": 48,
          }
        }
      },
    },
  )
  write_json(
    run / "experts/pack/done.json",
    {
      "summary": {"examples": 3, "clusters": 2},
      "config": {"seed": 7, "path": "/home/someone/secret/web"},
    },
  )
  (run / "experts/pack/examples-train.array_record-00000").write_bytes(b"x")
  write_json(
    run / "experts/filter/done.json",
    {
      "summary": {
        "candidates": 4,
        "kept": 3,
        "keep_rate": 0.75,
        "filter": "suti",
        "rule": "delta_clip > 0.02 | identity > 0",
      },
      "config": {"clip": "world_clip"},
    },
  )
  rows = [("a", "red", "attribute", True), ("a", "hat", "accessory", False)]
  rows += [("b", "red", "attribute", True), ("b", "old", "attribute", True)]
  for name, keys in (
    ("filter/scores", ("cluster", "prompt", "kept")),
    ("prompts/prompts", ("cluster", "prompt", "skill")),
  ):
    path = run / "experts" / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    names = ("cluster", "prompt", "skill", "kept")
    lines = [dict(zip(names, row, strict=True)) for row in rows]
    path.write_text(
      "".join(json.dumps({k: x[k] for k in keys}) + "\n" for x in lines)
    )
  return run


class Hub:
  def __init__(self):
    self.created, self.files, self.tokens, self.refuse = [], {}, set(), 0


@contextlib.contextmanager
def serve():
  """The hub's answers to one who publishes small files."""
  hub = Hub()

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
      hub.tokens.add(self.headers.get("Authorization"))
      path = self.path
      if hub.refuse:
        return self.send({"error": "no"}, code=hub.refuse)
      if path == "/api/repos/create":
        body = json.loads(content)
        hub.created.append(body)
        kind = "datasets/" if body.get("type") == "dataset" else ""
        name = f"{body['organization']}/{body['name']}"
        return self.send({"url": f"{hub.url}/{kind}{name}", "name": name})
      if "/preupload/" in path:
        files = [
          {
            "path": file["path"],
            "uploadMode": "regular",
            "shouldIgnore": False,
            "oid": None,
          }
          for file in json.loads(content)["files"]
        ]
        return self.send({"files": files})
      if "/commit/" in path:
        for line in content.splitlines():
          row = json.loads(line)
          if row["key"] == "file":
            value = row["value"]
            hub.files[value["path"]] = base64.b64decode(value["content"])
        return self.send(
          {
            "commitUrl": f"{hub.url}/me/mine/commit/{'0' * 40}",
            "commitOid": "0" * 40,
            "success": True,
          }
        )
      return self.send({"errors": [], "warnings": []})

    def do_GET(self):
      self.send({"error": "no"}, code=hub.refuse or 404)

    def send(self, value, code=200):
      content = json.dumps(value).encode()
      self.send_response(code)
      self.send_header("Content-Type", "application/json")
      self.send_header("Content-Length", str(len(content)))
      self.end_headers()
      self.wfile.write(content)

    def log_message(self, *_):
      pass

  with serving(Handler) as url:
    hub.url = url
    yield hub


@pytest.fixture
def hub(monkeypatch):
  with serve() as running:
    monkeypatch.setattr(constants, "ENDPOINT", running.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield running


def test_a_model_is_published_with_its_card(run, hub, capsys):
  assert start("push", run, "me/mine") == 0
  assert "Published at" in capsys.readouterr().out
  assert hub.created[0]["name"] == "mine"
  assert hub.files["unet/model.safetensors"] == bytes(range(256))
  assert hub.tokens == {"Bearer hf_test"}
  card = hub.files["README.md"].decode()
  for words in (
    "license: apache-2.0",
    "| apprentice | 0.670 |",
    "| apprentice | 0.270 [0.125, 0.458] | 0.770 |  |  | 48 |",
    "| seed | 7 |",
    "SubjectWorld alone",
    "Intended use",
  ):
    assert words in card, words
  assert "someone" not in card
  # Again: the folder that was put together is replaced.
  assert start("push", run, "me/mine") == 0


def test_a_dataset_has_keep_rates(run, hub):
  assert start("push", run, "me/examples", "--dataset", "--private") == 0
  assert hub.created[0]["type"] == "dataset"
  card = hub.files["README.md"].decode()
  assert "| kept by the filter | 3 (75.0%) |" in card
  assert "| attribute | 3 | 3 | 100.0% |" in card
  assert "| accessory | 1 | 0 | 0.0% |" in card
  assert "| its rule | `delta_clip > 0.02 \\| identity > 0` |" in card
  # Whose the mined pictures are is not known; renders are our own.
  assert "license: other" in card and "whose rights are their owners'" in card
  mined = {"config": {"mine": {"source": "world"}}}
  write_json(run / "experts/mine/done.json", mined)
  card = cards.dataset_card(run, repo="me/examples")
  assert "license: apache-2.0" in card and "renders of SubjectWorld" in card
  assert "someone" not in card
  assert set(hub.files) == {
    "README.md",
    "examples-train.array_record-00000",
  }


def test_a_run_in_a_bucket_is_put_together_here(run, tmp_path, buckets, capsys):
  there = path_of("gs://bucket/run")
  send_folder(run, there)
  line = error_of(capsys, "push", there, "me/mine", "--dry-run")
  assert "is in a bucket: give --folder, a new one on this machine" in line
  folder = tmp_path / "published"
  more = ("--folder", folder, "--dry-run")
  assert start("push", there, "me/mine", *more) == 0
  weights = folder / "unet" / "model.safetensors"
  assert weights.read_bytes() == bytes(range(256))
  assert "| apprentice | 0.670 |" in (folder / "README.md").read_text()


def test_a_dry_run_uploads_nothing(run, tmp_path, capsys):
  folder = tmp_path / "published"
  argv = ("push", run, "me/mine", "--folder", folder, "--dry-run")
  assert start(*argv) == 0
  assert (folder / "README.md").is_file()
  assert "nothing was uploaded" in capsys.readouterr().out
  assert "is already there" in error_of(capsys, *argv)


@pytest.mark.parametrize(
  ("place", "shown"),
  [
    ("/home/someone/models/base", "models/base"),
    ("~/someone/models/base", "models/base"),
    ("gs://someone/models/base", "models/base"),
    ("/base", "base"),
    ("world_base", "world_base"),
  ],
)
def test_a_card_names_no_place_in_full(place, shown):
  assert cards._public(place) == shown
  assert cards._without_places({"a": [place]}) == {"a": [shown]}


def test_a_bar_in_a_value_stays_in_its_cell():
  assert cards._table({"a": "x | y\nz"})[2] == "| a | x \\| y z |"


@pytest.mark.parametrize(
  ("code", "words"),
  [
    (401, "the hub does not know your token"),
    (403, "your token may not write to me/mine"),
    (500, "the hub answered HTTP 500"),
  ],
)
def test_a_refusal_is_one_line(run, hub, capsys, code, words):
  hub.refuse = code
  assert words in error_of(capsys, "push", run, "me/mine")


def test_a_hub_that_does_not_answer_is_one_line(run, hub, monkeypatch, capsys):
  monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
  line = error_of(capsys, "push", run, "me/mine")
  assert "me/mine was not published: the hub cannot be reached (" in line
  assert "-published-model is kept." in line


def test_mistakes_are_one_line(run, tmp_path, capsys):
  dry = "--dry-run"
  assert "expected ORG/NAME" in error_of(capsys, "push", run, "mine", dry)
  assert "has no finished apprentice/train" in error_of(
    capsys, "push", tmp_path, "me/mine", dry
  )
  link = run / "apprentice/train/model/secret"
  link.symlink_to("/etc/passwd")
  line = error_of(capsys, "push", run, "me/mine", dry)
  assert "secret is a link" in line
