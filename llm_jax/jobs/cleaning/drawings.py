"""Drawings for the report of job `clean`, as SVG: how many pages are left, how numbers spread."""

import html
from collections.abc import Mapping, Sequence

from llm_jax.clean.page import Limit

WIDTH, HEIGHT = 560, 120
BINS = 56
_STYLE = 'font:11px system-ui,sans-serif'


def histogram(counts: Mapping[float, int], limits: Sequence[Limit], name: str) -> bytes:
  """How many pages have which value, with a line at each limit; what is dropped is red.

  The axis reaches over the values between the first and the last of a hundred pages, and over the
  limits; bars at its ends hold what lies beyond.
  """
  low, high = _range(counts, limits)
  width = (high - low) / BINS
  bars = [[0, 0] for _ in range(BINS)]  # kept and dropped by some limit
  for value, count in counts.items():
    at = min(max(int((value - low) / width), 0), BINS - 1)
    bars[at][any(limit.broken({limit.value: value}) for limit in limits)] += count
  top = max(sum(bar) for bar in bars)
  x = lambda value: 10 + (WIDTH - 20) * (value - low) / (high - low)
  out = []
  for i, (kept, dropped) in enumerate(bars):
    left, wide = x(low + i * width), (WIDTH - 20) / BINS - 1
    tall = [80 * count / top for count in (kept, dropped)]
    for y, size, color in (
      (90 - tall[0], tall[0], '#4a7fb5'),
      (90 - sum(tall), tall[1], '#c4504a'),
    ):
      if size:
        out.append(
          f'<rect x="{left:.1f}" y="{y:.2f}" width="{wide:.1f}" height="{size:.2f}" '
          f'fill="{color}"/>'
        )
  for limit in limits:
    for end in limit.ends:
      out.append(
        f'<line x1="{x(end):.1f}" x2="{x(end):.1f}" y1="4" y2="94" stroke="#000" '
        'stroke-dasharray="3 2"/>'
        f'<text x="{x(end):.1f}" y="104" text-anchor="middle" style="{_STYLE}">{end:g}</text>'
      )
  for value, anchor in ((low, 'start'), (high, 'end')):
    out.append(
      f'<text x="{x(value):.1f}" y="116" text-anchor="{anchor}" fill="#666" '
      f'style="{_STYLE}">{value:.3g}</text>'
    )
  return _svg(WIDTH, HEIGHT, out, name)


def _range(counts: Mapping[float, int], limits: Sequence[Limit]) -> tuple[float, float]:
  """The ends of the axis of a histogram."""
  total, seen, ends = sum(counts.values()), 0, []
  for value in sorted(counts):
    if seen <= total * 0.01 < seen + counts[value] or seen < total * 0.99 <= seen + counts[value]:
      ends.append(value)
    seen += counts[value]
  ends += [end for limit in limits for end in limit.ends]
  low, high = min(ends), max(ends)
  margin = (high - low) * 0.05 or abs(high) * 0.5 or 1
  return low - margin, high + margin


def waterfall(steps: Sequence[tuple[str, int]], name: str) -> bytes:
  """A bar for each step: what is left behind it of what came first."""
  most, out = max(1, steps[0][1]), []
  for i, (step, left) in enumerate(steps):
    before = steps[i - 1][1] if i else left
    y, scale = 4 + 22 * i, (WIDTH - 250) / most
    out.append(
      f'<text x="0" y="{y + 12}" style="{_STYLE}">{html.escape(step)}</text>'
      f'<rect x="120" y="{y}" width="{left * scale:.1f}" height="16" fill="#4a7fb5"/>'
      f'<rect x="{120 + left * scale:.1f}" y="{y}" width="{max(0, before - left) * scale:.1f}" '
      'height="16" fill="#c4504a"/>'
      f'<text x="{WIDTH - 4}" y="{y + 12}" text-anchor="end" style="{_STYLE}">'
      f'{left:,} ({left / most:.1%})</text>'
    )
  return _svg(WIDTH, 8 + 22 * len(steps), out, name)


def _svg(width: int, height: int, parts: Sequence[str], title: str) -> bytes:
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
    f'viewBox="0 0 {width} {height}"><title>{html.escape(title)}</title>{"".join(parts)}</svg>'
  ).encode()
