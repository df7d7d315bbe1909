# SPDX-License-Identifier: Apache-2.0
"""The report of a made-up run: complete, self-contained, and safe to open."""

import dataclasses
import html.parser
import json
import pathlib
import re

import numpy as np
import pytest
from PIL import Image, ImageDraw

from configs import quickstart
from suti.evaluation import charts, report, report_filter, report_pictures
from suti.io.files import write_atomic, write_json
from suti.io.records import write_lines, write_records
from suti.schema import Candidate, Cluster, Prompt, Score

NASTY = "<script>alert('x')</script>"
PROMPTS = (
  ("a {} in the snow", "recontextualization"),
  ("a {} on the beach", "recontextualization"),
  ("a {} with the Eiffel Tower in the background", "recontextualization"),
  ("a purple {}", "attribute"),
  ("a {} wearing a santa hat", "accessory"),
  ("a cube shaped {}", "attribute"),
)
SUBJECTS = ("dog", "teapot", "sneaker")


def picture(seed: int, *, size_px: int = 64) -> np.ndarray:
  """A blob with ears before a ground and a sky; colours from the seed."""
  rng = np.random.default_rng(seed)
  sky, ground, body = (
    tuple(int(c) for c in v) for v in rng.integers(60, 250, (3, 3))
  )
  image = Image.new("RGB", (size_px, size_px), sky)
  draw = ImageDraw.Draw(image)
  draw.rectangle([0, size_px * 0.6, size_px, size_px], fill=ground)
  x, y = rng.uniform(0.3, 0.5, 2) * size_px
  radius = rng.uniform(0.2, 0.3) * size_px
  draw.ellipse([x - radius, y, x + radius, y + 1.5 * radius], fill=body)
  draw.ellipse([x, y - radius, x + radius, y + radius / 3], fill=body)
  return np.asarray(image)


def done(workdir: pathlib.Path, name: str, seconds: float, **summary) -> None:
  write_json(
    workdir / name / "done.json",
    {"summary": summary, "seconds": seconds, "config": {}, "inputs": {}},
  )


def make_clusters(names, *, first: int) -> list[Cluster]:
  return [
    Cluster(
      key=f"{first + i:012x}",
      subject=name,
      caption=f"a brown {name}",
      images=tuple(picture(100 * (first + i) + k) for k in range(5)),
      captions=tuple(f"a {name} in scene {k}" for k in range(5)),
      live=name == "dog",
      source="made up",
      truth=None,
    )
    for i, name in enumerate(names)
  ]


def make_candidates(prompts, *, salt: int) -> list[Candidate]:
  return [
    Candidate(
      key=f"{salt:04x}{i:08x}",
      cluster=prompt.cluster,
      prompt=prompt.prompt,
      skill=prompt.skill,
      image=picture(1000 * salt + i),
      seed=i,
      guidance=4.0,
    )
    for i, prompt in enumerate(prompts)
  ]


def make_prompts(clusters) -> list[Prompt]:
  return [
    Prompt(cluster=c.key, prompt=text.format(c.subject), skill=skill)
    for c in clusters
    for text, skill in PROMPTS
  ]


def write_run(workdir: pathlib.Path, *, experts: bool = True) -> None:
  """All that a finished run leaves of what the report reads."""
  rng = np.random.default_rng(0)
  train, held = (
    make_clusters(SUBJECTS, first=1),
    make_clusters(SUBJECTS, first=9),
  )
  held[0] = Cluster(**{**vars(held[0]), "caption": f"a dog {NASTY}"})
  for root, clusters in ((workdir, train), (workdir / "benchmark", held)):
    write_clusters(root, clusters)
  write_experts(workdir, train, rng)
  write_apprentice(workdir, held, rng)
  if experts:
    write_records(
      workdir / "benchmark/experts/sample/wave-00000.array_record",
      make_candidates(make_prompts(held[:1]), salt=4),
      kind=Candidate,
    )
    done(workdir / "benchmark", "experts/finetune", 44.0, experts=1)
    done(workdir / "benchmark", "experts/sample", 9.0, candidates=6)
  write_metrics(workdir, held, experts=experts)


def write_clusters(root: pathlib.Path, clusters: list[Cluster]) -> None:
  folder = root / "experts"
  write_records(
    folder / "mine" / "clusters.array_record", clusters, kind=Cluster
  )
  write_lines(folder / "prompts" / "prompts.jsonl", make_prompts(clusters))
  done(root, "experts/mine", 31.0, clusters=len(clusters))
  done(root, "experts/prompts", 0.2, prompts=18)


def score(candidate: Candidate, *, kept: bool, **values: float) -> Score:
  return Score(
    candidate=candidate.key,
    cluster=candidate.cluster,
    prompt=candidate.prompt,
    values=values,
    kept=kept,
    group=candidate.group,
  )


def write_experts(workdir: pathlib.Path, train: list[Cluster], rng) -> None:
  """Candidates of the experts, and their scores."""
  tried = make_candidates(make_prompts(train) * 4, salt=1)
  write_records(
    workdir / "experts/sample/wave-00000.array_record", tried, kind=Candidate
  )
  deltas = rng.normal(0.01, 0.03, len(tried))
  write_lines(
    workdir / "experts/filter/scores.jsonl",
    [
      score(
        candidate,
        kept=bool(delta > 0.02),
        clip_t=0.3,
        delta_clip=float(delta),
        identity=0.8,
      )
      for candidate, delta in zip(tried, deltas, strict=True)
    ],
  )
  done(
    workdir, "experts/finetune", 243.0, experts=12, quarantined=0, loss=0.0412
  )
  done(workdir, "experts/sample", 71.0, candidates=len(tried))
  done(workdir, "experts/filter", 3.1, kept=20, rule="delta_clip > 0.02")
  done(workdir, "experts/label", 1.5, pictures=60, labelled=60)
  done(workdir / "benchmark", "experts/label", 0.5, pictures=15, labelled=15)
  done(workdir, "experts/label_candidates", 0.5, candidates=72)
  done(workdir, "experts/pack", 0.4, examples=20)


def write_apprentice(workdir: pathlib.Path, held: list[Cluster], rng) -> None:
  """A log whose last line is cut, and generated images of two systems."""
  steps = [
    {"step": s, "loss": 0.03 + 0.1 / (1 + s / 30) + rng.normal(0, 0.006)}
    for s in range(0, 1000, 10)
  ]
  steps += [
    {"step": s, "validation_loss": 0.03, "validation_gain": s / 1e5}
    for s in (0, 500, 990)
  ]
  text = "\n".join(json.dumps(row) for row in steps) + '\n{"step": 10'
  write_atomic(workdir / "apprentice/train/log.jsonl", text.encode())
  done(workdir, "apprentice/train", 412.0, steps=1000)
  for salt, name in ((2, "apprentice"), (3, "base")):
    write_records(
      workdir / f"apprentice/sample/{name}-00000.array_record",
      make_candidates(make_prompts(held), salt=salt),
      kind=Candidate,
    )
  done(workdir, "apprentice/sample", 33.0, images=18)


def write_metrics(
  workdir: pathlib.Path, held: list[Cluster], *, experts: bool
) -> None:
  systems = {
    name: {
      metric: {"mean": mean, "stderr": error, "subjects": 3}
      for metric, mean, error in (
        ("identity", identity, 0.012),
        ("clip_i", identity + 0.05, 0.009),
        ("clip_t", 0.31, 0.004),
      )
    }
    | {"images": 18}
    for name, identity in (("apprentice", 0.71), ("base", 0.42), ("real", 0.86))
  }
  times = {
    "apprentice_seconds_per_image": 0.91,
    "base_seconds_per_image": 0.62,
  }
  if experts:
    systems["experts"] = dict(systems["real"], images=6)
    times["expert_seconds_to_finetune"] = 44.0
    times["expert_seconds_per_image"] = 1.5
  done(workdir, "apprentice/evaluate", 6.0, images=18)
  write_json(
    workdir / "apprentice/evaluate/metrics.json",
    {
      "systems": systems,
      "per_subject": {c.key: {} for c in held},
      "gap_closed": 0.659,
      "gap_closed_scenes": 0.834,
      "pictures": {
        "references": 15,
        "references_each": [4, 6],
        "demonstrations_each": [4, 4],
      },
      "copying": {
        "band": [0.5, 0.9],
        "above_band": {"apprentice": 0.03, "copy": 1.0},
      },
      "differences": {
        "base": {
          "identity": {"mean": 0.29, "low": 0.25, "high": 0.33, "subjects": 3}
        }
      },
      "by_skill": {"style": {"apprentice": {"identity": 0.6125}}},
      "by_kind": {
        "held_out": {"apprentice": {"identity": 0.5, "clip_t": 0.3145}}
      },
      "benchmark": {"kinds": {"a dog": "seen", "a cat": "held_out"}},
      "clip_t_drop": -0.003,
      "speedup": 50.0 if experts else None,
      "times": times,
    },
  )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run")
  write_run(workdir)
  report.run(quickstart.get_config(), workdir)
  return workdir / "report"


class Reader(html.parser.HTMLParser):
  """Collects tags and attributes, and sees that tags are closed in order."""

  VOID = frozenset(["meta", "img", "path", "rect", "link", "br"])

  def __init__(self):
    super().__init__()
    self.tags, self.sources, self.links, self.open = [], [], [], []

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.sources += [value for name, value in attrs if name == "src"]
    self.links += [v for n, v in attrs if n in ("href", "srcset", "action")]
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def read(folder) -> tuple[str, Reader]:
  source = (folder / "index.html").read_text(encoding="utf-8")
  reader = Reader()
  reader.feed(source)
  assert not reader.open
  return source, reader


def test_every_picture_is_a_file_beside_the_page(folder):
  _, reader = read(folder)
  assert len(reader.sources) > 60
  for source in reader.sources:
    with Image.open(folder / source) as image:
      assert image.size == (64, 64)
  files = {f"images/{path.name}" for path in (folder / "images").iterdir()}
  assert files == set(reader.sources)


def test_nothing_comes_from_elsewhere(folder):
  source, reader = read(folder)
  assert not reader.links
  assert "script" not in reader.tags
  assert not re.search(r"url\(|@import|https?://", source)


def test_texts_of_users_are_escaped(folder):
  source, _ = read(folder)
  assert NASTY not in source
  assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in source


def test_the_page_shows_what_was_asked_for(folder):
  source, _ = read(folder)
  for words in (
    "66%",  # the gap, from metrics.json
    "83%",
    "15 real pictures are references, 4 to 6 of a subject; the first of them, 4"
    " of a subject, are demonstrations.",
    "at 0.500 to 0.900 from the nearest demonstration. Above that band, as "
    "copies are: apprentice 3%, a demonstration, copied 100%.",
    "+0.290 <small>[+0.250, +0.330]</small>",
    "Identity by skill",
    "0.613",
    "CLIP-T by what a prompt was in training",
    "held out",
    "0.315",
    "Its prompts, by what the models&#x27; records say they were trained with: "
    "1 seen, 1 held out.",
    "SubjectWorld subjects of the test split",
    "+0.003",  # CLIP-T rose, so the drop is negative
    "50×",
    "0.710 <small>± 0.012</small>",
    "a teapot on the beach",
    "its expert",
    "best kept",
    "worst dropped",
    "threshold 0.02",
    "What the numbers do not say",
    "for 60 steps at 0.0001, 500 of them in the paper",
    "&quot;num_steps&quot;",
  ):
    assert words in source, words
  for name in report.STAGES.values():
    assert f">{name}</text>" in source, name


def test_images_of_a_set_stand_in_one_row(tmp_path):
  clusters = make_clusters(("dog", "teapot"), first=1)
  images = make_candidates(make_prompts(clusters)[:7], salt=1)
  # Two sets of three, of the second of which one image is kept, and one image
  # alone, whose measure is not a number.
  groups = [f"{n:012x}" for n in (1, 1, 1, 2, 2, 2)] + [None]
  images = [
    dataclasses.replace(image, group=group, number=2 - number % 3)
    for number, (image, group) in enumerate(zip(images, groups, strict=True))
  ]
  write_records(
    tmp_path / "experts/sample/wave-00000.array_record", images, kind=Candidate
  )
  values = (0.9, 0.8, 0.7, 0.75, 0.2, 0.3, float("nan"))
  kept = (True, True, False, False, False, False, False)
  write_lines(
    tmp_path / "experts/filter/scores.jsonl",
    [
      score(image, kept=is_kept, pair_identity=value)
      for image, value, is_kept in zip(images, values, kept, strict=True)
    ],
  )
  done(tmp_path, "experts/filter", 1.0, rule="pair_identity > 0.77")
  numbers = report_filter.read_filter(tmp_path)
  album = report_pictures.Album(tmp_path / "report")
  (source,) = report_filter.kept_and_dropped(
    quickstart.get_config(), tmp_path, album, numbers
  )
  rows = [row.split("</div>")[0] for row in source.split('<div class="row">')]
  assert [row.count("<figure>") for row in rows[1:]] == [3, 3]
  # In the order in which they were sampled, and what was dropped is said.
  assert re.findall(r"pair_identity [^<]*", rows[1]) == [
    "pair_identity +0.700, dropped",
    "pair_identity +0.800",
    "pair_identity +0.900",
  ]
  assert "worst kept" not in source and "best dropped" in source
  assert "stand in one row" in source and "Δ" not in source


def test_without_candidates_no_filter_is_blamed():
  """As where the shipped apprentice is evaluated: no expert was tuned."""
  metrics = {
    "per_subject": {},
    "systems": {},
    "filter": {"candidates": 0, "kept": 0, "rule": ""},
  }
  (source,) = report._notes(quickstart.get_config(), metrics)
  assert "dropped nothing" not in source
  assert "chose the training data" not in source
  metrics["filter"].update(candidates=2, kept=2, rule="all")
  (source,) = report._notes(quickstart.get_config(), metrics)
  assert "dropped nothing" in source and "chose the training data" in source


def test_metrics_json_has_the_numbers_and_the_config(folder):
  metrics = json.loads((folder / "metrics.json").read_text())
  assert metrics["gap_closed"] == 0.659
  assert metrics["filter"]["candidates"] == 72
  assert metrics["filter"]["keep_rate"] == metrics["filter"]["kept"] / 72
  assert metrics["stages"]["apprentice/train"]["seconds"] == 412.0
  assert metrics["filter"]["threshold"] == 0.02


def test_the_best_kept_is_the_best(folder):
  source, _ = read(folder)
  shown = [float(v) for v in re.findall(r"Δ ([+-]\d\.\d+)</i>", source)]
  assert len(shown) == 32
  kept, dropped = shown[:16], shown[16:]
  assert kept == sorted(kept, reverse=True)
  assert dropped == sorted(dropped, reverse=True)
  assert min(kept) >= 0.02 >= max(dropped)


def test_a_run_without_experts_on_the_benchmark(tmp_path):
  write_run(tmp_path, experts=False)
  report.run(quickstart.get_config(), tmp_path)
  source, _ = read(tmp_path / "report")
  assert "its expert" not in source
  assert "faster than" not in source


def test_a_second_report_replaces_the_first(tmp_path):
  write_run(tmp_path)
  config = quickstart.get_config()
  report.run(config, tmp_path)
  (tmp_path / "report" / "images" / "old.png").write_bytes(b"")
  one = (tmp_path / "report" / "index.html").read_bytes()
  report.run(config, tmp_path)
  assert (tmp_path / "report" / "index.html").read_bytes() == one
  assert not (tmp_path / "report" / "images" / "old.png").exists()


def test_without_scores_the_remedy_is_named(tmp_path):
  with pytest.raises(ValueError, match=r"run python -m apprentice\.evaluate"):
    report.run(quickstart.get_config(), tmp_path)


@pytest.mark.parametrize(
  ("low", "high", "expected"),
  [(0, 1, [0, 0.5, 1]), (0, 10, [0, 5, 10]), (-0.04, 0.06, [0, 0.05])],
)
def test_ticks_are_round_and_inside(low, high, expected):
  found = charts.ticks(low, high, num=3)
  assert found == pytest.approx(expected, abs=1e-9)


def test_histogram_parts_values_at_the_threshold():
  svg = charts.histogram(
    [0.0, 0.02, 0.0201, 0.05], threshold=0.02, x_label="x", title="t"
  )
  heights = {
    kind: [
      float(h)
      for k, h in re.findall(r'class="fill-(\w+)".*?height="([\d.]+)"', svg)
      if k == kind
    ]
    for kind in ("one", "two")
  }
  # Two values are not above the threshold (one of them on it), two are.
  assert sum(h > 0 for h in heights["two"]) == 2
  assert sum(h > 0 for h in heights["one"]) == 2


def test_charts_of_nothing_say_so():
  assert "Too few points" in charts.curve([(1, 2.0)], x_label="x", title="t")
  nothing = charts.histogram([], threshold=0, x_label="x", title="t")
  assert "No values" in nothing


@pytest.mark.parametrize("where", ["../escaped", "/{}/escaped"])
def test_a_run_of_others_writes_nowhere_else(tmp_path, where):
  workdir = tmp_path / "run"
  write_run(workdir)
  strange = where.format(str(tmp_path).strip("/"))
  path = workdir / "experts/filter/scores.jsonl"
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  rows[0]["candidate"] = strange
  path.write_text("\n".join(map(json.dumps, rows)))
  with pytest.raises(ValueError, match=r"scores\.jsonl, line 1, .* candidate"):
    report.run(quickstart.get_config(), workdir)
  assert [p.name for p in tmp_path.iterdir()] == ["run"]
  assert not (workdir / "report").exists()
