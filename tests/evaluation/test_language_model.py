# SPDX-License-Identifier: Apache-2.0
"""`suti judge` against a server of the tests' own."""

import contextlib
import http.server
import json
import time

import pytest

from suti.evaluation.language_model import client, scales
from suti.evaluation.language_model.client import Address, RefusedError, ask
from suti.io.files import read_json
from tests.commands import error_of, start
from tests.evaluation.test_comparison import write_scores
from tests.local_server import serving

SECRET = "sk-secret"


class Model:
  """What the server says: `answer(question) -> text, or (code, body)`."""

  def __init__(self, answer):
    self.answer, self.asked, self.keys = answer, [], set()
    self.url = ""


@contextlib.contextmanager
def serve(answer):
  model = Model(answer)

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
      model.asked.append(body)
      model.keys.add(self.headers.get("Authorization"))
      said = model.answer(body["messages"][0]["content"][-1]["text"])
      code, reply = said if isinstance(said, tuple) else (200, chat(said))
      content = json.dumps(reply).encode()
      self.send_response(code)
      if code == 307:
        self.send_header("Location", "http://127.0.0.1:9/elsewhere")
      self.send_header("Content-Length", str(len(content)))
      self.end_headers()
      with contextlib.suppress(OSError):
        self.wfile.write(content)

    def log_message(self, *_):
      pass

  with serving(Handler) as url:
    model.url = f"{url}/v1"
    yield model


def chat(text):
  return {
    "model": "judge-1",
    "system_fingerprint": "fp_7",
    "choices": [{"message": {"content": text}}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5},
  }


def sensible(question):
  if "the subject kept" in question:
    return "It has other eyes.\nScore: 3"
  return "Mostly.\n**Score: 2**"


@pytest.fixture
def folder(tmp_path):
  return write_scores(tmp_path / "scores", system="ours")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
  monkeypatch.setattr(client, "_WAIT_S", 0.01)
  monkeypatch.delenv(client.KEY, raising=False)


def run(folder, url, *more):
  return start("judge", folder, "--model", "m", "--address", url, *more)


def test_answers_are_scored_on_dreambench_plus_scale(folder, monkeypatch):
  monkeypatch.setenv(client.KEY, SECRET)
  with serve(sensible) as model:
    assert run(folder, model.url) == 0
  place = folder / "judge-dreambench-plus-m"
  table = read_json(place / "scores.json")
  means = {name: row["mean"] for name, row in table["scores"].items()}
  assert means == pytest.approx(
    {"concept": 0.75, "prompt": 0.5, "overall": 0.375}
  )
  assert table["asked"] == 12 * 2 * 3 and table["missing"] == 0
  assert table["models"] == {"judge-1 fp_7": 72}
  # A reference and the picture, or the picture alone; a seed of its own each.
  counts = {len(body["messages"][0]["content"]) for body in model.asked}
  assert counts == {2, 3}
  assert len({body["seed"] for body in model.asked}) == 72
  assert model.keys == {f"Bearer {SECRET}"}
  for path in folder.rglob("*"):
    assert path.is_dir() or SECRET.encode() not in path.read_bytes()


def test_answers_are_kept_and_scored_again_without_asking(folder):
  with serve(sensible) as model:
    assert run(folder, model.url) == 0
    count = len(model.asked)
    assert run(folder, model.url) == 0
    assert len(model.asked) == count
  (folder / "judge-dreambench-plus-m" / "scores.json").unlink()
  assert start("judge", folder, "--model", "m") == 0
  table = read_json(folder / "judge-dreambench-plus-m" / "scores.json")
  assert table["scores"]["overall"]["mean"] == pytest.approx(0.375)
  path = folder / "judge-dreambench-plus-m" / "answers.jsonl"
  kept = json.loads(path.read_text().splitlines()[0])
  assert kept["text"].startswith("It has other eyes") and "seed" in kept


def test_nonsense_is_missing_and_counted(folder, capsys):
  answers = iter(
    ["I would say three or 4.", "", "Score: 7", "Score: 1\nScore: 2"]
  )
  with serve(lambda question: next(answers, "Score: 4")) as model:
    assert run(folder, model.url) == 0
  table = read_json(folder / "judge-dreambench-plus-m" / "scores.json")
  assert table["missing"] == 4
  assert table["failures"] == {"cannot be read": 3, "an empty answer": 1}
  assert table["scores"]["overall"]["mean"] == 1.0
  assert "4 of 72 answers are missing" in capsys.readouterr().out
  # The next start asks again what failed, not what was answered.
  with serve(sensible) as model:
    assert run(folder, model.url) == 0
    assert len(model.asked) == 1


def test_a_refusal_and_other_forms_are_failures(folder):
  refusal = {"choices": [{"message": {"content": None, "refusal": "no"}}]}
  replies = iter([(200, refusal), (200, ["?"]), (400, {}), (307, {})])
  with serve(lambda question: next(replies)) as model:
    address = Address(url=model.url, model="m")
    found = [ask(address, "x", [], seed=0).failure for _ in range(3)]
    with pytest.raises(RefusedError, match="answers HTTP 307"):
      ask(address, "x", [], seed=0)
  assert found == [
    "the model refused",
    "an answer of another form than a chat's",
    "HTTP 400",
  ]


def test_a_server_in_trouble_is_asked_again(folder):
  replies = iter([(503, {}), (429, {}), "Score: 4"])
  with serve(lambda question: next(replies)) as model:
    answer = ask(Address(url=model.url, model="m"), "x", [], seed=0)
  assert answer.text == "Score: 4" and answer.tokens_out == 5


def test_a_server_that_sleeps_is_not_waited_for():
  with serve(lambda question: time.sleep(0.5) or "Score: 4") as model:
    address = Address(url=model.url, model="m", timeout_s=0.05)
    found = ask(address, "x", [], seed=0)
  assert found.failure == "no answer within 0.05 s"


def test_a_wrong_key_ends_it_and_keeps_what_there_is(folder, capsys):
  answers = iter(["Score: 4"] * 5)
  with serve(lambda question: next(answers, (401, {}))) as model:
    line = error_of(
      capsys, "judge", folder, "--model", "m", "--address", model.url
    )
  assert "answers HTTP 401 to model m: correct --address" in line
  assert "5 answers are kept" in line


def test_a_model_that_answers_nothing_is_given_up(folder, capsys):
  error = {"error": {"message": "no  pictures\nhere"}}
  with serve(lambda question: (400, error)) as model:
    line = error_of(
      capsys, "judge", folder, "--model", "m", "--address", model.url
    )
    assert len(model.asked) == 10
  assert "the first 10 questions have no answer" in line
  assert "HTTP 400: no pictures here. Correct --address" in line


def test_an_estimate_asks_nothing(folder, capsys):
  prices = ("--price-in", "1000", "--price-out", "0", "--estimate")
  with serve(sensible) as model:
    assert run(folder, model.url, *prices) == 0
    assert not model.asked
  said = capsys.readouterr().out
  assert "72 of 72 questions are to be asked" in said and "a cost of" in said


def test_viescore_takes_the_lower_mark_and_the_root_of_the_product(folder):
  with serve(
    lambda question: (
      'Fine: {"score": [9, 4], "reasoning": "x"}'
      if "follows the text" in question
      else '```json\n{"score": [10, 9]}\n```'
    )
  ) as model:
    assert run(folder, model.url, "--scale", "viescore") == 0
  table = read_json(folder / "judge-viescore-m" / "scores.json")
  assert table["scores"]["semantics"]["mean"] == pytest.approx(0.4)
  assert table["scores"]["overall"]["mean"] == pytest.approx(0.6)


@pytest.mark.parametrize(
  ("answer", "expected"),
  [
    ("Score: 0", 0.0),
    ("text\nscore = 4", 1.0),
    ("Score: 3/4", 0.75),
    ("final score: 2.", 0.5),
    ("Score: -1", None),
    ("Score: 5", None),
    ("the score is 3", None),
    ("Score: three", None),
    ("Score: 3 or 4", None),
    ("Score: 3\nScore: 3", None),
  ],
)
def test_marks_are_read_or_missing(answer, expected):
  assert scales.parse_mark(answer, most=4) == expected


@pytest.mark.parametrize(
  ("answer", "expected"),
  [
    ('{"score": [8, 6]}', 0.6),
    ('{"score": [8]}', None),
    ('{"score": [8, 11]}', None),
    ('{"score": "86"}', None),
    ('{"score": [true, 6]}', None),
    ('{"score": [8, 6]} {"score": [8, 6]}', None),
    ("score: 8, 6", None),
  ],
)
def test_objects_are_read_or_missing(answer, expected):
  assert scales.parse_marks(answer, most=10, count=2) == expected


def test_another_seed_or_a_wrong_address_is_refused(
  folder, capsys, monkeypatch
):
  assert start("judge", folder, "--model", "m") == 0
  line = error_of(capsys, "judge", folder, "--model", "m", "--seed", "1")
  assert "holds answers to other questions or of another seed" in line
  ask = ("judge", folder, "--model", "m", "--address")
  assert "expected the address of an API" in error_of(capsys, *ask, "x:y")
  assert "names a user" in error_of(capsys, *ask, "https://a:b@c.example")
  assert "cannot be reached: start the server" in error_of(
    capsys, *ask, "http://127.0.0.1:9/v1"
  )
  monkeypatch.setenv(client.KEY, SECRET)
  line = error_of(capsys, *ask, "http://elsewhere.example/v1")
  assert "would send OPENAI_API_KEY unencrypted" in line and SECRET not in line


def test_the_report_shows_what_it_said(folder, tmp_path):
  with serve(sensible) as model:
    assert run(folder, model.url) == 0
  assert start("report", folder, "--out", tmp_path / "page") == 0
  source = (tmp_path / "page" / "index.html").read_text()
  assert "dreambench-plus by m" in source and "0.375" in source
