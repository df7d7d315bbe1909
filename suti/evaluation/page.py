# SPDX-License-Identifier: Apache-2.0
"""The pieces of a static page: figures, tables, texts.

One file without scripts, fonts or links to elsewhere: it works from a disk,
prints, and follows the reader's light or dark setting. Every text that comes
from outside is escaped here and nowhere else; charts, as inline SVG, are
`suti.evaluation.charts`. What the page is about, this file does not know:
`suti.evaluation.report` does.
"""

import html
from collections.abc import Iterable, Sequence

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf7; --card: #ffffff; --ink: #1d1c1a; --soft: #6b6860;
  --line: #e3dfd6; --one: #b4532a; --two: #2f6f8f; --three: #6b8f2f;
  --good: #3f7d3a; --bad: #b03a2e; --tint: #f3efe6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #161513; --card: #1f1e1b; --ink: #ece8df; --soft: #a09b90;
    --line: #35322c; --one: #e58a5c; --two: #6fb3d6; --three: #a9cc6a;
    --good: #82c17b; --bad: #e57b6e; --tint: #2a2823;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 3rem 1.5rem 5rem; max-width: 72rem;
  background: var(--paper); color: var(--ink);
  font: 16px/1.55 ui-sans-serif, system-ui, "Segoe UI", Helvetica, sans-serif;
}
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 {
  font-size: 1.3rem; margin: 3.2rem 0 .6rem; padding-top: 1.2rem;
  border-top: 1px solid var(--line);
}
h3 { font-size: 1.02rem; margin: 0 0 .5rem; }
h3 + svg { margin-top: .6rem; }
p { max-width: 46rem; margin: .4rem 0 .9rem; }
.lead, .soft { color: var(--soft); }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.6rem 0; }
.tile {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: .8rem 1.1rem; flex: 1 1 9.5rem;
}
.tile b { display: block; font-size: 1.55rem; line-height: 1.2; }
.tile span { color: var(--soft); font-size: .84rem; }
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 1.1rem 1.2rem; margin: 1rem 0; overflow-x: auto;
}
.row { display: flex; flex-wrap: wrap; gap: .7rem; margin: .4rem 0 .9rem; }
.row figure { margin: 0; width: 7.4rem; }
figure img, .grid img {
  display: block; width: 100%; aspect-ratio: 1; object-fit: cover;
  border-radius: 8px; background: var(--tint);
}
figcaption { font-size: .76rem; line-height: 1.35; margin-top: .3rem; }
figcaption i { font-style: normal; color: var(--soft); display: block; }
.grid { border-collapse: separate; border-spacing: .45rem; width: auto; }
.grid th {
  font-weight: 500; font-size: .78rem; line-height: 1.3; padding: 0;
  border: 0; text-align: left; vertical-align: bottom; color: var(--ink);
}
.grid tbody th {
  vertical-align: middle; width: 6.2rem; min-width: 6.2rem; white-space: normal;
}
.grid td { padding: 0; border: 0; width: 8rem; min-width: 6rem; }
.grid tr:hover td { background: none; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; }
th, td { padding: .45rem .4rem; border-bottom: 1px solid var(--line); }
th { text-align: left; font-weight: 600; }
thead th { color: var(--soft); font-weight: 500; font-size: .84rem; }
td { font-variant-numeric: tabular-nums; }
td.n, th.n { text-align: right; }
/* Intervals under their means: tables of many columns fit a page. */
td small {
  color: var(--soft); white-space: nowrap; display: block; font-size: .76rem;
}
tr.us th, tr.us td { background: var(--tint); }
.split { display: grid; gap: 1rem; grid-template-columns: 1fr 1fr; }
@media (max-width: 52rem) { .split { grid-template-columns: 1fr; } }
.tag {
  display: inline-block; border-radius: 99px; padding: 0 .6rem;
  font-size: .78rem; border: 1px solid currentColor;
}
.good { color: var(--good); } .bad { color: var(--bad); }
svg { display: block; width: 100%; max-width: 46rem; height: auto; }
svg.wide { max-width: none; }
svg text { fill: var(--soft); font-size: 11px; font-family: inherit; }
svg .axis { stroke: var(--line); } svg .mark { stroke: var(--ink); }
svg .one { stroke: var(--one); } svg .two { stroke: var(--two); }
svg .fill-one { fill: var(--one); } svg .fill-two { fill: var(--two); }
svg .fill-three { fill: var(--three); } svg .fill-soft { fill: var(--line); }
pre {
  background: var(--tint); border-radius: 8px; padding: 1rem; overflow: auto;
  font: .8rem/1.5 ui-monospace, Menlo, Consolas, monospace; margin: .6rem 0 0;
}
details summary { cursor: pointer; color: var(--soft); }
ul { max-width: 46rem; padding-left: 1.2rem; } li { margin: .35rem 0; }
"""


def text(value: object) -> str:
  """Any value as text that cannot become markup."""
  return html.escape(str(value), quote=True)


def document(title: str, body: Iterable[str]) -> str:
  """A whole page.

  Args:
    title: plain text.
    body: pieces of markup, in order.

  Returns: the page's source.
  """
  return (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
    + "\n".join(body)
    + "\n</body>\n</html>\n"
  )


def section(title: str, *pieces: str) -> str:
  """A heading and what stands below it."""
  return "\n".join([f"<h2>{text(title)}</h2>", *pieces])


def paragraph(sentence: str, *, kind: str = "") -> str:
  """A paragraph of plain text; `kind` "soft" is quieter."""
  attribute = f' class="{kind}"' if kind else ""
  return f"<p{attribute}>{text(sentence)}</p>"


def card(*pieces: str) -> str:
  """A framed block."""
  return f'<div class="card">{"".join(pieces)}</div>'


def tiles(rows: Iterable[tuple[str, str]]) -> str:
  """Large numbers in a row, each with what it is below."""
  cells = [
    f'<div class="tile"><b>{text(value)}</b><span>{text(label)}</span></div>'
    for value, label in rows
  ]
  return f'<div class="tiles">{"".join(cells)}</div>'


def image(path: str, alt: str) -> str:
  """A picture by its path relative to the page."""
  return f'<img src="{text(path)}" alt="{text(alt)}" loading="lazy">'


def figure(path: str, *, caption: str = "", note: str = "") -> str:
  """A picture with a caption and a quieter note below."""
  below = text(caption) + (f"<i>{text(note)}</i>" if note else "")
  return (
    f"<figure>{image(path, caption or note)}"
    f"<figcaption>{below}</figcaption></figure>"
  )


def picture_row(figures: Iterable[str]) -> str:
  """Figures side by side."""
  return f'<div class="row">{"".join(figures)}</div>'


def picture_grid(
  columns: Sequence[str],
  rows: Iterable[tuple[str, Sequence[str | None]]],
) -> str:
  """Pictures by prompt (columns) and by system (rows).

  Args:
    columns: their headings.
    rows: (heading, a picture's path or None for each column).

  Returns: markup.
  """
  head = "".join(f"<th>{text(column)}</th>" for column in columns)
  body = []
  for name, paths in rows:
    cells = [
      f"<td>{image(path, f'{name}: {column}') if path else ''}</td>"
      for path, column in zip(paths, columns, strict=True)
    ]
    body.append(f"<tr><th>{text(name)}</th>{''.join(cells)}</tr>")
  return (
    f'<table class="grid"><thead><tr><th></th>{head}</tr></thead>'
    f"<tbody>{''.join(body)}</tbody></table>"
  )


def table(
  columns: Sequence[str],
  rows: Iterable[Sequence[str]],
  *,
  mark: str = "",
) -> str:
  """A table of texts: the first column left, the others right.

  Args:
    columns: headings.
    rows: texts; a text "a ± b" or "a [b, c]" has its second half in small
      print.
    mark: the first text of the row to bring out.

  Returns: markup.
  """
  head = "".join(
    f'<th class="n">{text(c)}</th>' if i else f"<th>{text(c)}</th>"
    for i, c in enumerate(columns)
  )
  body = []
  for first, *others in rows:
    cells = "".join(f'<td class="n">{_number(other)}</td>' for other in others)
    kind = ' class="us"' if first == mark else ""
    body.append(f"<tr{kind}><th>{text(first)}</th>{cells}</tr>")
  return (
    f"<table><thead><tr>{head}</tr></thead>"
    f"<tbody>{''.join(body)}</tbody></table>"
  )


def _number(value: str) -> str:
  for sign in ("±", "["):
    mean, found, error = text(value).partition(f" {sign}")
    if found:
      return f"{mean} <small>{sign}{error}</small>"
  return text(value)


def listing(sentences: Iterable[str]) -> str:
  """A list of plain sentences."""
  return f"<ul>{''.join(f'<li>{text(s)}</li>' for s in sentences)}</ul>"


def folded(summary: str, content: str) -> str:
  """Plain text that opens on a click."""
  return (
    f"<details><summary>{text(summary)}</summary>"
    f"<pre>{text(content)}</pre></details>"
  )
