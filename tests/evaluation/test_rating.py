# SPDX-License-Identifier: Apache-2.0
"""`suti rate`: what is asked, what is written, what the page gives away."""

import json
import socket
import struct
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest

from suti.evaluation.benchmark import opinions
from suti.evaluation.rating import agreement, tasks
from suti.evaluation.rating.server import Room, serve
from suti.evaluation.rating.tasks import read_ratings, read_tasks
from suti.images import save_png
from tests.commands import error_of, start
from tests.evaluation.test_comparison import NASTY, write_scores

YES = {"subject": True, "text": True, "photorealism": True}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  place = tmp_path_factory.mktemp("rated")
  return [
    write_scores(place / "a", system="ours"),
    write_scores(place / "b", system="theirs"),
  ]


@pytest.fixture
def room(folders, tmp_path):
  found = read_tasks(folders, pairwise=False)
  return Room(found, tmp_path / "ratings.jsonl", seed=0)


def get(address, path, host=None):
  request = urllib.request.Request(address + path)
  if host:
    request.add_header("Host", host)
  with urllib.request.urlopen(request, timeout=10) as answer:
    return answer.read(), answer.headers


def post(address, answer, kind="application/json"):
  request = urllib.request.Request(
    address + "rating",
    data=answer if isinstance(answer, bytes) else json.dumps(answer).encode(),
    headers={"Content-Type": kind},
  )
  with urllib.request.urlopen(request, timeout=10) as reply:
    return json.loads(reply.read())


def test_a_rater_is_asked_everything_once_in_an_order_of_their_own(room):
  seen = {}
  for rater in ("Ann", "Bo"):
    order = []
    while (task := room.next(rater))["task"]:
      order.append(task["task"])
      room.rate({"rater": rater, "task": task["task"], **YES})
    seen[rater] = order
  assert sorted(seen["Ann"]) == sorted(seen["Bo"])
  assert len(set(seen["Ann"])) == 24
  assert seen["Ann"] != seen["Bo"]
  # Both begin with the same ten, so that their agreement is known early.
  assert sorted(seen["Ann"][:10]) == sorted(seen["Bo"][:10])
  # Another process goes on there.
  again = Room(room.tasks, room.path, seed=0)
  assert again.next("Ann")["task"] is None
  assert again.next("Cy")["done"] == 0


def test_a_name_in_other_letters_goes_on_and_sees_what_it_said(room):
  task = room.next("Ann")["task"]
  room.rate({"rater": "Ann", "task": task, **YES, "text": False})
  again = Room(room.tasks, room.path, seed=0)
  found = again.next("ANN")
  assert (found["rater"], found["done"], found["before"]) == ("Ann", 1, [task])
  assert found["said"] is None
  assert again.show(task, "Ann")["said"] == YES | {"text": False}
  assert again.show(task, "Bo")["said"] is None
  assert again.describe() == "Rated so far: Ann 1."
  # Answers of other pictures are said, and count for nothing.
  other = Room([t for t in room.tasks if t.key != task], room.path, seed=0)
  assert other.next("Ann")["done"] == 0
  assert other.describe().endswith("ratings.jsonl has 1 more; they stay.")


def test_what_a_rater_gets_names_no_system_and_no_file(room):
  task = room.next("Ann")
  text = json.dumps(task)
  assert "ours" not in text and "theirs" not in text and ".png" not in text
  assert task["prompt"] == f"a prompt {NASTY}"  # the page sets it as text
  assert set(task["questions"]) == set(tasks.QUESTIONS)


def test_overall_is_all_three(room):
  task = room.next("Ann")["task"]
  room.rate({"rater": "Ann", "task": task, **YES, "photorealism": False})
  (rating,) = read_ratings(room.path)
  assert rating["answers"]["subject"] and not rating["answers"]["overall"]
  # A later answer to the same question counts.
  room.rate({"rater": "Ann", "task": task, **YES})
  (rating,) = read_ratings(room.path)
  assert rating["answers"]["overall"]


def test_sides_are_shuffled_and_the_better_system_is_written(folders, tmp_path):
  found = read_tasks(folders, pairwise=True)
  assert len(found) == 12
  room = Room(found, tmp_path / "r.jsonl", seed=0)
  swapped = [tasks.is_swapped(task, "Ann", seed=0) for task in found]
  assert 0 < sum(swapped) < len(found)
  for task, other_side in zip(found, swapped, strict=True):
    shown = room.show(task.key, "Ann")["pictures"]
    first = room._token(task.pictures[0])
    assert shown.index(first) == int(other_side)
    room.rate(
      {
        "rater": "Ann",
        "task": task.key,
        "choice": "right" if other_side else "left",
      }
    )
    side = "right" if other_side else "left"
    assert room.show(task.key, "Ann")["said"] == {"choice": side}
    assert room.show(task.key, "Bo")["said"] is None
  summary = agreement.summarise(read_ratings(room.path))
  pair = summary["pairs"]["ours\ttheirs"]
  preferred = pair.pop("preferred")
  assert pair == {"wins": 12, "losses": 0, "ties": 0}
  assert preferred["mean"] == preferred["low"] == preferred["high"] == 1.0


def test_a_pairs_share_is_over_pairs_and_its_interval_over_subjects():
  """One that three people rate weighs as one that one does; a tie is half."""

  def rated(task, subject, better):
    return {
      "rater": "Ann",
      "task": task,
      "systems": ["ours", "theirs"],
      "subject": subject,
      "better": better,
    }

  rows = [rated("1", "rex", better) for better in ("ours", "ours", "theirs")]
  rows += [rated("2", "rex", None), rated("3", "tom", "theirs")]
  pair = agreement.summarise(rows)["pairs"]["ours\ttheirs"]
  assert (pair["wins"], pair["losses"], pair["ties"]) == (2, 2, 1)
  found = pair["preferred"]
  assert found["subjects"] == 2
  np.testing.assert_allclose(found["mean"], (2 / 3 + 1 / 2 + 0) / 3)
  np.testing.assert_allclose(
    (found["low"], found["high"]), (0, (2 / 3 + 1 / 2) / 2)
  )


def rating(rater, task, subject, answer):
  answers = dict.fromkeys((*tasks.QUESTIONS, tasks.OVERALL), answer)
  return {
    "rater": rater,
    "task": task,
    "systems": ["ours"],
    "subject": subject,
    "answers": answers,
  }


def test_alpha_of_a_worked_example():
  """Two raters, four pictures, one disagreement: by hand.

  Of 8 answers 5 are yes and 3 no. Observed disagreement is 2 of 8 ordered
  pairs, expected (5 x 3 x 2) / (8 x 7): 1 - 0.25 / (30 / 56) = 0.5333.
  """
  rows = []
  answers = ((True, True), (True, False), (True, True), (False, False))
  for i, pair in enumerate(answers):
    for rater, answer in zip(("Ann", "Bo"), pair, strict=True):
      rows.append(rating(rater, f"t{i}", f"s{i}", answer))
  # One that only one of them has seen takes no part.
  rows.append(rating("Ann", "t9", "s9", False))
  assert agreement.alpha_of(rows, "subject") == pytest.approx(1 - 14 / 30)
  summary = agreement.summarise(rows)
  share = summary["systems"]["ours"]["subject"]["mean"]
  assert share == pytest.approx((1 + 0.5 + 1 + 0 + 0) / 5)
  assert summary["raters"] == 2
  assert summary["shared"] == dict.fromkeys(summary["alpha"], 4)
  assert agreement.alpha_of(rows[:1], "subject") is None


def test_alpha_equals_krippendorffs_with_raters_missing():
  import krippendorff

  rng = np.random.default_rng(0)
  for _ in range(10):
    table = rng.integers(0, 3, (4, 8)).astype(float)
    table[rng.random(table.shape) < 0.3] = np.nan
    rows = [
      rating(f"r{r}", f"t{t}", "s", table[r, t])
      for r, t in zip(*np.nonzero(~np.isnan(table)), strict=True)
    ]
    expected = krippendorff.alpha(
      reliability_data=table, level_of_measurement="nominal"
    )
    assert agreement.alpha_of(rows, "text") == pytest.approx(expected)


def test_the_server_answers_this_machines_page_alone(room):
  with serve(room, port=0) as address:
    source, headers = get(address, "")
    assert b"Rate pictures" in source and b"{{nonce}}" not in source
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    task = json.loads(get(address, "next?rater=Ann")[0])
    png, headers = get(address, f"picture/{task['pictures'][0]}")
    assert png.startswith(b"\x89PNG") and headers["Content-Type"] == "image/png"
    assert post(address, {"rater": "Ann", "task": task["task"], **YES}) == {
      "saved": True
    }
    refused = [
      (403, lambda: get(address, "", host="evil.example")),
      (404, lambda: get(address, "picture/../../etc/passwd")),
      (404, lambda: get(address, "next?rater=%3Cb%3E")),
      (415, lambda: post(address, {}, kind="text/plain")),
      (400, lambda: post(address, {"rater": "Ann", "task": "x", **YES})),
      (400, lambda: post(address, {"rater": "A" * 41, "task": task["task"]})),
      (400, lambda: post(address, {"rater": "Ann", "task": task["task"]})),
      (413, lambda: post(address, {"rater": "A" * 20_000})),
      (400, lambda: post(address, b'{"a":' + b"[" * 9_000)),
    ]
    for code, ask in refused:
      with pytest.raises(urllib.error.HTTPError) as caught:
        ask()
      assert caught.value.code == code
      caught.value.close()
  assert len(read_ratings(room.path)) == 1


def test_a_browser_that_goes_on_early_prints_nothing(room, capsys):
  with serve(room, port=0) as address:
    port = int(address.rstrip("/").rpartition(":")[2])
    browser = socket.create_connection(("127.0.0.1", port))
    browser.sendall(b"GET /pic")
    # Closed by a reset, as when a picture is no longer wanted.
    linger = struct.pack("ii", 1, 0)
    browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    browser.close()
    assert get(address, "")[0]
  assert not capsys.readouterr().err


def test_raters_answer_together_and_no_line_is_lost(room):
  def work(rater):
    for _ in range(6):
      task = room.next(rater)["task"]
      room.rate({"rater": rater, "task": task, **YES})

  threads = [threading.Thread(target=work, args=(f"r{i}",)) for i in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(read_ratings(room.path)) == 24


def test_a_line_that_was_cut_off_is_left_out(room):
  task = room.next("Ann")["task"]
  room.rate({"rater": "Ann", "task": task, **YES})
  with room.path.open("a") as file:
    file.write('{"rater": "An')
  task = Room(room.tasks, room.path, seed=0).next("Ann")["task"]
  room.rate({"rater": "Ann", "task": task, **YES})
  assert len(read_ratings(room.path)) == 2


def test_ratings_join_the_report(room, folders, tmp_path):
  for rater in ("Ann", "Bo"):
    for _ in range(24):
      task = room.next(rater)["task"]
      text = (task > "8") or rater == "Bo"
      room.rate({"rater": rater, "task": task, **YES, "text": text})
  out = tmp_path / "page"
  options = ("--ratings", room.path, "--out", out)
  assert start("report", *folders, *options) == 0
  source = (out / "index.html").read_text()
  assert "2 raters. Overall is all three." in source
  assert "What people say" in source and "not known" in source


def test_pairs_are_counted_and_systems_stand_as_on_the_page():
  rows = [
    rating("Ann", f"t{i}", "s", i > 0) | {"systems": [name]}
    for i, name in enumerate(("theirs", "ours"))
  ]
  rows += [
    {"rater": "Ann", "task": f"p{i}", "systems": ["ours", "theirs"]}
    | {"subject": "s", "better": better}
    for i, better in enumerate(("ours", "theirs", "ours", None))
  ]
  (source,) = opinions.people(
    agreement.summarise(rows), systems=["ours", "theirs"]
  )
  assert source.index(">ours<") < source.index(">theirs<")
  assert "the first is better" in source
  assert source.index("2 (50%)") < source.index("1 (25%)")


def test_mistakes_are_one_line(folders, tmp_path, capsys):
  out = tmp_path / "r.jsonl"
  same = (folders[0], folders[0], "--out", out)
  assert "two of the folders are of a system called 'ours'" in error_of(
    capsys, "rate", *same
  )
  assert "--pairwise needs the scores of two systems" in error_of(
    capsys, "rate", folders[0], "--pairwise", "--out", out
  )
  assert "--port=70000 must be between" in error_of(
    capsys, "rate", folders[0], "--port", "70000", "--out", out
  )
  out.write_text('{"rater": 3}\n')
  assert "line 1, is no rating" in error_of(
    capsys, "rate", folders[0], "--out", out
  )
  picture = tmp_path / "0.jpg"
  save_png(picture, np.zeros((8, 8, 3), np.uint8))
  assert (
    "0.jpg, line 1, is no rating: give the file that suti rate"
    in error_of(capsys, "rate", folders[0], "--out", picture)
  )
  assert "x.jsonl does not exist: suti rate writes it" in error_of(
    capsys,
    "report",
    folders[0],
    "--ratings",
    "x.jsonl",
    "--out",
    tmp_path / "p",
  )


def test_a_port_that_is_taken_is_said(room, folders, tmp_path, capsys):
  with serve(room, port=0) as address:
    port = address.rstrip("/").rpartition(":")[2]
    line = error_of(
      capsys, "rate", folders[0], "--port", port, "--out", tmp_path / "r.jsonl"
    )
  assert f"--port={port} cannot be opened" in line
