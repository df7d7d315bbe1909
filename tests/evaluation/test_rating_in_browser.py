# SPDX-License-Identifier: Apache-2.0
"""Two raters click and type through `suti rate`, to the saved file."""

import pytest

from suti.evaluation.rating.server import Room, serve
from suti.evaluation.rating.tasks import read_ratings, read_tasks
from tests import browser
from tests.commands import start
from tests.evaluation.test_comparison import NASTY, write_scores

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  place = tmp_path_factory.mktemp("rated")
  return [
    write_scores(place / "a", system="ours"),
    write_scores(place / "b", system="theirs"),
  ]


def enter(page, address, name):
  page.goto(address)
  page.fill("#rater", name)
  page.keyboard.press("Enter")


def test_rating_by_keys_by_mouse_and_back_again(folders, tmp_path):
  path = tmp_path / "ratings.jsonl"
  room = Room(read_tasks(folders, pairwise=False), path, seed=0)
  with serve(room, port=0) as address, browser.opened() as (page, elsewhere):
    enter(page, address, "Ann")
    page.wait_for_selector("#pictures img")
    # The prompt is shown as text, whatever is in it.
    assert page.inner_text("#prompt") == f"a prompt {NASTY}"
    assert page.locator("#prompt img").count() == 0
    assert page.is_disabled("#save")
    for key in ("y", "y", "n", "Enter"):
      page.keyboard.press(key)
    page.get_by_text("1 of 24").wait_for()
    # The mouse does the same.
    for row in page.locator(".question").all():
      row.locator(".yes").click()
    page.click("#save")
    page.get_by_text("2 of 24").wait_for()
    # Enter before all is answered says what is missing.
    page.keyboard.press("Enter")
    page.get_by_text("Answer all three questions first").wait_for()
    # Back twice shows what was said; on again without a change, then with one.
    page.keyboard.press("Backspace")
    page.wait_for_selector(".question:nth-child(3) .yes[aria-pressed=true]")
    page.keyboard.press("Backspace")
    page.wait_for_selector(".question:nth-child(3) .no[aria-pressed=true]")
    page.keyboard.press("Enter")
    page.wait_for_selector(".question:nth-child(3) .yes[aria-pressed=true]")
    for key in ("n", "n", "n", "Enter"):
      page.keyboard.press(key)
    page.wait_for_selector("#save:disabled")
    assert page.inner_text("#count") == "2 of 24"
    assert len(path.read_text().splitlines()) == 3
    # All of it is in view on a small laptop.
    page.set_viewport_size({"width": 1280, "height": 650})
    assert page.evaluate("document.documentElement.scrollHeight") <= 650
    # A second rater starts at the beginning; the first goes on.
    enter(page, address, "Bo")
    page.get_by_text("0 of 24").wait_for()
    enter(page, address, " ann ")
    page.get_by_text("2 of 24").wait_for()
    assert page.inner_text("#who") == "Ann"
    page.screenshot(path=tmp_path / "rate.png")
  assert not elsewhere
  answers = [rating["answers"] for rating in read_ratings(path)]
  assert len(answers) == 2
  assert answers[0] == {
    "subject": True,
    "text": True,
    "photorealism": False,
    "overall": False,
  }
  assert not any(answers[1].values())


def test_a_name_and_a_program_that_stopped_are_said(folders, tmp_path):
  room = Room(read_tasks(folders, pairwise=False), tmp_path / "r.jsonl", seed=0)
  with browser.opened() as (page, _):
    with serve(room, port=0) as address:
      enter(page, address, "Ann <b>")
      page.get_by_text("A name has 1 to 40 letters").wait_for()
      enter(page, address, "Zoë O'Hara")
      page.get_by_text("0 of 24").wait_for()
    for key in ("y", "y", "n", "Enter"):
      page.keyboard.press(key)
    page.get_by_text("The program has stopped: start it again").wait_for()
  assert not (tmp_path / "r.jsonl").exists()


def test_pairs_to_the_end_and_into_the_report(folders, tmp_path):
  path = tmp_path / "pairs.jsonl"
  room = Room(read_tasks(folders, pairwise=True)[:3], path, seed=0)
  with serve(room, port=0) as address, browser.opened() as (page, elsewhere):
    enter(page, address, "Ann")
    page.click("[data-choice=left]")
    page.get_by_text("1 of 3").wait_for()
    page.keyboard.press("Space")  # must not press the same button again
    for number, key in enumerate(("ArrowDown", "ArrowRight"), start=1):
      page.get_by_text(f"{number} of 3").wait_for()
      page.keyboard.press(key)
    page.wait_for_selector("#end:not([hidden])")
    # The last one may still be changed, and Enter leaves it as it is.
    page.keyboard.press("Backspace")
    page.wait_for_selector("[data-choice=right][aria-pressed=true]")
    page.keyboard.press("Enter")
    page.wait_for_selector("#end:not([hidden])")
  ratings = read_ratings(path)
  assert [r["better"] is None for r in ratings] == [False, True, False]
  out = tmp_path / "page"
  assert start("report", *folders, "--ratings", path, "--out", out) == 0
  with browser.opened() as (page, elsewhere):
    page.goto(f"file://{out / 'index.html'}")
    assert "What people say" in page.inner_text("body")
    widths = page.evaluate(
      "[...document.images].map((i) => (i.loading = 'eager', i.decode()"
      ".then(() => i.naturalWidth)))"
      ".reduce((all, x) => all.then((a) => x.then((w) => [...a, w])),"
      " Promise.resolve([]))"
    )
    assert widths and set(widths) == {64}
    page.screenshot(path=tmp_path / "report.png", full_page=True)
  assert all(url.startswith("file://") for url in elsewhere)
