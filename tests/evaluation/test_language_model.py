# SPDX-License-Identifier: Apache-2.0
"""`suti judge` against a server of the tests' own."""

import contextlib
import http.server
import json
import time

import pytest

from suti.evaluation.language_model import client, scales
from suti.evaluation.language_model.client import Address, RefusedError, ask
from suti.io.files import read_json, send_folder
from suti.io.paths import path_of
from tests.commands import error_of, start
from tests.evaluation.test_comparison import write_scores
from tests.local_server import serving

SECRET = "sk-secret"
CUT_OFF = 206  # the reply ends a byte before its length
_BETWEEN_S = 0.03  # pieces of a reply


class Model:
  """What the server says: `answer(question) -> text, or (code, body)`.

  A body is an object, bytes, or bytes in pieces, which come slowly.
  """

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
      pieces = [reply] if isinstance(reply, bytes) else reply
      if isinstance(reply, dict | list):
        pieces = [json.dumps(reply).encode()]
      pieces = list(pieces)
      length = sum(map(len, pieces)) + (code == CUT_OFF)
      self.send_response(code)
      if isinstance(reply, dict) and "wait" in reply:
        self.send_header("Retry-After", reply["wait"])
      if code == 307:
        self.send_header("Location", "http://127.0.0.1:9/elsewhere")
      self.send_header("Content-Length", str(length))
      self.end_headers()
      for piece in pieces:
        with contextlib.suppress(OSError):
          self.wfile.write(piece)
          self.wfile.flush()
        time.sleep(_BETWEEN_S if len(pieces) > 1 else 0)

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


@pytest.mark.parametrize(
  ("reply", "failure"),
  [
    ((200, b"[" * 500_000), "an answer of another form than a chat's"),
    (
      (200, chat("Score: 3") | {"usage": {"prompt_tokens": float("inf")}}),
      "an answer of another form than a chat's",
    ),
    ("x" * 10_000_000, "an answer of more than 1,000,000 bytes"),
    ((400, b"\xff" * 9), "HTTP 400"),
    ((CUT_OFF, chat("Score: 3")), "IncompleteRead(0 bytes read, 1 more expect"),
    ((500, b"<html>"), "HTTP 500"),
    ((200, (b" ",) * 40), "no answer within 0.3 s"),
  ],
)
def test_what_is_no_answer_has_a_reason(reply, failure):
  with serve(lambda question: reply) as model:
    address = Address(url=model.url, model="m", timeout_s=0.3)
    answer = ask(address, "x", [], seed=0)
  assert answer.failure.startswith(failure) and not answer.text
  # A server in trouble is told from a question that has no answer.
  assert answer.trouble == (len(model.asked) == 3)


def test_half_a_character_does_not_stop_it(folder):
  with serve(lambda question: "Score: 3\n\ud83d") as model:
    assert run(folder, model.url) == 0
  table = read_json(folder / "judge-dreambench-plus-m" / "scores.json")
  assert table["missing"] == 0


def test_a_server_says_how_long_to_wait(monkeypatch):
  waits = []
  monkeypatch.setattr(client.time, "sleep", waits.append)
  replies = iter([(429, {"wait": "7"}), (503, {"wait": "9999"}), "Score: 4"])
  with serve(lambda question: next(replies)) as model:
    ask(Address(url=model.url, model="m"), "x", [], seed=0)
  assert {7.0, client._MAX_WAIT_S} <= set(waits)


def test_a_server_that_goes_away_is_not_asked_to_the_end(folder, capsys):
  answers = iter(["Score: 4"] * 12)
  with serve(lambda question: next(answers, (503, {}))) as model:
    line = error_of(
      capsys, "judge", folder, "--model", "m", "--address", model.url
    )
    assert len(model.asked) == 12 + 10 * 3
  assert "has not answered the last 10 questions, the last one" in line
  assert "HTTP 503. 12 answers are kept in" in line
  with serve(sensible) as model:
    assert run(folder, model.url) == 0
    assert len(model.asked) == 72 - 12


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
    ("\n" * 100_000 + "Score: 3", 0.75),
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
    (f'{{"score": [{"9" * 5000}, 6]}}', None),
  ],
)
def test_objects_are_read_or_missing(answer, expected):
  assert scales.parse_marks(answer, most=10, count=2) == expected


def test_another_seed_or_a_wrong_address_is_refused(
  folder, capsys, monkeypatch
):
  line = error_of(capsys, "judge", folder, "--model", "m")
  assert "has no answers to score: give --address to ask for them" in line
  with serve(sensible) as model:
    assert run(folder, model.url) == 0
  line = error_of(capsys, "judge", folder, "--model", "m", "--seed", "1")
  assert "holds answers to other questions or of another seed" in line
  ask = ("judge", folder, "--model", "other", "--address")
  assert "expected the address of an API" in error_of(capsys, *ask, "x:y")
  assert "names a user" in error_of(capsys, *ask, "https://a:b@c.example")
  assert "cannot be reached: start the server" in error_of(
    capsys, *ask, "http://127.0.0.1:9/v1"
  )
  monkeypatch.setenv(client.KEY, SECRET)
  line = error_of(capsys, *ask, "http://elsewhere.example/v1")
  assert "would send OPENAI_API_KEY unencrypted" in line and SECRET not in line


@pytest.mark.parametrize(
  ("more", "words"),
  [
    (("--seed", "-1"), "--seed=-1 must be between 0 and"),
    (("--price-in", "1"), "give both, of 0 or more, or none"),
    (("--price-in", "-1", "--price-out", "1"), "give both, of 0 or more"),
    (("--timeout", "nan"), "--timeout=nan must be from 0 to 3600 s"),
    (("--model", " "), "--model is empty: give its name"),
    (("--scale", "x"), "--scale=x: expected dreambench-plus or viescore"),
  ],
)
def test_wrong_numbers_are_one_line(folder, capsys, more, words):
  line = error_of(capsys, "judge", folder, "--model", "m", *more)
  assert words in line
  assert not list(folder.glob("judge-*"))


def test_an_evaluation_in_a_bucket_is_copied_first(folder, buckets, capsys):
  there = path_of("gs://bucket/scores")
  send_folder(folder, there)
  line = error_of(
    capsys, "judge", there, "--model", "m", "--address", "http://x"
  )
  assert (
    "is in a bucket, where answers cannot be added one by one: copy" in line
  )


def test_the_report_shows_what_it_said(folder, tmp_path):
  with serve(sensible) as model:
    assert run(folder, model.url) == 0
  assert start("report", folder, "--out", tmp_path / "page") == 0
  source = (tmp_path / "page" / "index.html").read_text()
  assert "<h3>dreambench-plus</h3>" in source and "0.375" in source
  assert '<th class="n">concept</th>' in source
