"""Win rates as a table in Markdown."""

from collections.abc import Sequence

from llm_jax.evals.win_rates import Standings, Versus

NONE = '–'
_PAIRS = ('model', 'against', 'win rate', 'at equal length', 'longer by', 'won, tied, lost', 'n',
          'flips', 'errors')  # fmt: skip


def table(found: Standings) -> str:
  """The numbers, each with its 95 % interval.

  A win rate is bold where its interval does not hold one half. `longer by` is in characters,
  `flips` the share of pairs that the two orders decided differently.
  """
  blocks = [_markdown(_PAIRS, [_versus(one) for one in found.pairs], left=2)]
  if (ratings := found.ratings) is None:
    blocks.append(f'No ratings: {found.refused}')
  else:
    rows = []
    for name in sorted(found.rates, key=lambda name: -ratings.elo[name]):
      low, high = found.elo[name]
      rate = _interval(*found.rates[name][:1], *found.rates[name][2:4])
      rows.append([name, f'{ratings.elo[name]:.0f} [{low:.0f}, {high:.0f}]', rate])
    blocks.append(_markdown(('model', 'Elo', 'win rate against all'), rows, left=1))
  if same := sum(one.same for one in found.pairs):
    blocks.append(f'{same} of the ties are pairs whose answers have the same text.')
  if found.first.n:
    share = _interval(found.first.share, found.first.low, found.first.high)
    blocks.append(f'What was shown first won {share} of {found.first.n} decisions.')
  return '\n\n'.join(blocks)


def _versus(one: Versus) -> list[str]:
  rate, even = one.rate, one.controlled
  shown = _interval(rate.mean, rate.low, rate.high)
  return [
    one.a,
    one.b,
    f'**{shown}**' if rate.low > 0.5 or rate.high < 0.5 else shown,
    _interval(even.controlled, even.low, even.high),
    f'{even.length_difference:+.0f}' if rate.n else NONE,
    f'{one.won}, {one.tied}, {one.lost}',
    str(rate.n),
    f'{one.flip_rate:.2f}' if one.ordered else NONE,
    str(one.errors),
  ]


def _interval(mean: float, low: float, high: float) -> str:
  return NONE if mean != mean else f'{mean:.3f} [{low:.3f}, {high:.3f}]'


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
  safe = lambda text: ' '.join(text.split()).replace('|', '\\|')
  rule = ['---' if i < left else '---:' for i in range(len(header))]
  lines = [header, rule, *([safe(cell) for cell in row] for row in rows)]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)
