# SPDX-License-Identifier: Apache-2.0
"""Charts of a static page, as inline SVG in the page's own colours.

Their texts are escaped by `suti.evaluation.page`, whose style they follow.
"""

import math
from collections.abc import Mapping, Sequence

from suti.evaluation.page import paragraph, text
from suti.runtime.progress import span

_WIDTH, _HEIGHT = 560, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 12, 34


def ticks(low: float, high: float, *, num: int = 4) -> list[float]:
  """Round numbers within [low, high], about `num` of them."""
  if not high > low:
    return [low]
  rough = (high - low) / num
  size = 10.0 ** math.floor(math.log10(rough))
  step = next(size * m for m in (1, 2, 5, 10) if size * m >= rough)
  first = math.ceil(low / step - 1e-9)
  last = math.floor(high / step + 1e-9)
  return [round(i * step, 12) for i in range(first, last + 1)]


class _Axes:
  """Maps data to a chart's coordinates and draws its frame."""

  def __init__(
    self, x: tuple[float, float], y: tuple[float, float], *, labels: str
  ) -> None:
    self._x = x if x[1] > x[0] else (x[0], x[0] + 1)
    self._y = y if y[1] > y[0] else (y[0], y[0] + 1)
    self._labels = labels.split("|")

  def x(self, value: float) -> float:
    share = (value - self._x[0]) / (self._x[1] - self._x[0])
    return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

  def y(self, value: float) -> float:
    share = (value - self._y[0]) / (self._y[1] - self._y[0])
    return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)

  def draw(self, *marks: str) -> str:
    """The chart with its marks on top of the frame."""
    lines = []
    for value in ticks(*self._y):
      y = self.y(value)
      lines.append(
        f'<path class="axis" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>'
        f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{value:g}</text>'
      )
    for value in ticks(*self._x, num=6):
      lines.append(
        f'<text x="{self.x(value)}" y="{_HEIGHT - _BOTTOM + 15}" '
        f'text-anchor="middle">{value:g}</text>'
      )
    x_label, title = self._labels
    lines.append(
      f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" text-anchor="end">'
      f"{text(x_label)}</text>"
    )
    return (
      f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
      f'aria-label="{text(title)}">{"".join(lines)}{"".join(marks)}</svg>'
    )


def curve(
  points: Sequence[tuple[float, float]], *, x_label: str, title: str
) -> str:
  """A line over its own moving mean: what was measured, and where it goes.

  Args:
    points: (x, y), x rising.
    x_label: what x is.
    title: what the chart shows, for those who hear the page.

  Returns: an SVG, or a sentence where there is nothing to draw.
  """
  points = [(x, y) for x, y in points if math.isfinite(y)]
  if len(points) < 2:
    return paragraph("Too few points for a curve.", kind="soft")
  xs, ys = zip(*points, strict=True)
  span = max(1, len(ys) // 12)
  means = [
    sum(ys[max(0, i - span) : i + span + 1])
    / len(ys[max(0, i - span) : i + span + 1])
    for i in range(len(ys))
  ]
  ordered = sorted(ys)
  # One spike at the start must not press the rest flat.
  top = max(ordered[int(0.98 * (len(ys) - 1))], max(means))
  margin = 0.06 * (top - ordered[0])
  axes = _Axes(
    (xs[0], xs[-1]),
    (ordered[0] - margin, top + margin),
    labels=f"{x_label}|{title}",
  )

  def line(values: Sequence[float], kind: str, style: str) -> str:
    path = " ".join(
      f"{axes.x(x)},{axes.y(min(y, top + margin))}"
      for x, y in zip(xs, values, strict=True)
    )
    return f'<polyline class="{kind}" points="{path}" fill="none" {style}/>'

  return axes.draw(
    line(ys, "one", 'stroke-width="1" opacity=".35"'),
    line(means, "one", 'stroke-width="2.2" stroke-linejoin="round"'),
  )


def intervals(
  points: Sequence[tuple[float, float, float | None, float | None]],
  *,
  x_label: str,
  title: str,
) -> str:
  """A line through means, with the interval of each.

  Args:
    points: (x, mean, low, high), x rising; low and high may be None.
    x_label: what x is.
    title: what the chart shows, for those who hear the page.
  """
  lows = [low if low is not None else y for _, y, low, _ in points]
  highs = [high if high is not None else y for _, y, _, high in points]
  margin = 0.08 * (max(highs) - min(lows)) or 0.05
  width = points[-1][0] - points[0][0]
  axes = _Axes(
    (points[0][0] - 0.03 * width, points[-1][0] + 0.03 * width),
    (min(lows) - margin, max(highs) + margin),
    labels=f"{x_label}|{title}",
  )
  marks = []
  for (x, y, _, _), low, high in zip(points, lows, highs, strict=True):
    at = axes.x(x)
    marks.append(
      f'<path class="one" d="M{at} {axes.y(low)}V{axes.y(high)}" '
      'stroke-width="1.5" opacity=".6"/>'
      f'<circle class="fill-one" cx="{at}" cy="{axes.y(y)}" r="4"/>'
    )
  path = " ".join(f"{axes.x(x)},{axes.y(y)}" for x, y, _, _ in points)
  return axes.draw(
    f'<polyline class="one" points="{path}" fill="none" stroke-width="1.5"/>',
    *marks,
  )


def histogram(
  values: Sequence[float], *, threshold: float, x_label: str, title: str
) -> str:
  """How values are spread, with a threshold that parts them.

  Args:
    values: finite numbers.
    threshold: where the line stands; bars right of it are brought out.
    x_label: what the values are.
    title: what the chart shows, for those who hear the page.

  Returns: an SVG, or a sentence where there is nothing to draw.
  """
  values = [value for value in values if math.isfinite(value)]
  if not values:
    return paragraph("No values.", kind="soft")
  low, high = min(values), max(values)
  # A threshold that lets all pass may lie far away: then it is not drawn.
  if low - 0.5 * (high - low) <= threshold <= high + 0.5 * (high - low):
    low, high = min(low, threshold), max(high, threshold)
  width = (high - low or 0.01) / 24
  # Edges fall on the threshold, so that no bar is of both kinds.
  first = math.floor((low - threshold) / width - 1e-9)
  last = math.ceil((high - threshold) / width + 1e-9)
  counts = [0] * (last - first)
  for value in values:
    place = math.ceil((value - threshold) / width - 1e-9) - 1 - first
    counts[min(max(place, 0), len(counts) - 1)] += 1
  x_low, x_high = threshold + first * width, threshold + last * width
  # Room on top for the threshold's name.
  top = 1.15 * max(counts)
  axes = _Axes((x_low, x_high), (0, top), labels=f"{x_label}|{title}")
  bars = []
  for place, count in enumerate(counts):
    left = axes.x(threshold + (first + place) * width)
    right = axes.x(threshold + (first + place + 1) * width)
    kind = "fill-one" if first + place >= 0 else "fill-two"
    y = axes.y(count)
    bars.append(
      f'<rect class="{kind}" x="{left + 0.5:.1f}" y="{y}" '
      f'width="{max(right - left - 1, 0.5):.1f}" '
      f'height="{axes.y(0) - y:.1f}" opacity=".85"/>'
    )
  line = ""
  if x_low <= threshold <= x_high:
    x = axes.x(threshold)
    near_end = x > 0.7 * _WIDTH
    line = (
      f'<path class="mark" d="M{x} {_TOP}V{axes.y(0)}" '
      f'stroke-dasharray="4 3"/><text x="{x + (-6 if near_end else 6)}" '
      f'y="{_TOP + 9}" text-anchor="{"end" if near_end else "start"}">'
      f"threshold {threshold:g}</text>"
    )
  return axes.draw(*bars, line)


def bars(rows: Mapping[str, float]) -> str:
  """Times as bars, the longest over the whole width.

  Args:
    rows: name -> seconds.

  Returns: an SVG.
  """
  longest = max(rows.values(), default=0) or 1
  height, left, right = 24, 190, 90
  marks = []
  for i, (name, seconds) in enumerate(rows.items()):
    y = 6 + i * height
    width = max((_WIDTH * 1.5 - left - right) * seconds / longest, 1)
    marks.append(
      f'<text x="{left - 10}" y="{y + 13}" text-anchor="end">{text(name)}'
      f'</text><rect class="fill-two" x="{left}" y="{y + 2}" rx="3" '
      f'width="{width:.1f}" height="15"/>'
      f'<text x="{left + width + 8:.1f}" y="{y + 13}">{span(seconds)}</text>'
    )
  size = f"{_WIDTH * 1.5:g} {10 + height * len(rows)}"
  return (
    f'<svg class="wide" viewBox="0 0 {size}" role="img" '
    f'aria-label="Time of each stage">{"".join(marks)}</svg>'
  )
