"""What seeds say of a variant: means with intervals, paired differences, and a sentence."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from llm_jax.evals import seeds
from llm_jax.evals.differences import Difference, paired
from llm_jax.jobs import results

ALPHA = 0.05
NONE = '–'


class Verdict(NamedTuple):
  """A metric of a variant, and how it differs from that which all are compared with.

  Attributes:
    variant: its name.
    metric: its name.
    mean: over seeds with its interval, as a difference from 0.
    difference: paired by seed; None of the variant that the others are compared with.
    p: of no difference, corrected for the number of variants; nan where nothing can be said.
    plain_p: the same, uncorrected.
    alpha: of a single test, by which `needed` goes.
    better: whether the difference, if it is one, is an improvement.
    lost: seeds in which one of both left no value.
  """

  variant: str
  metric: str
  mean: Difference
  difference: Difference | None = None
  p: float = math.nan
  plain_p: float = math.nan
  alpha: float = ALPHA
  better: bool = False
  lost: Sequence[int] = ()

  @property
  def sure(self) -> bool:
    """Whether there is a difference that the seeds show."""
    return self.p < ALPHA

  @property
  def needed(self) -> int | None:
    """Seeds that a difference of this size would take; None where nobody can say."""
    return seeds.needed(self.difference, self.alpha) if self.difference else None


Values = Mapping[str, Mapping[int, float]]  # variant -> seed -> the value of a metric


def verdicts(metric: str, values: Values, fewer: bool) -> list[Verdict]:
  """One for each variant; the first is what the others are compared with.

  Args:
    metric: its name.
    values: of each variant by seed; a seed may be missing, or nan, where a run left none.
    fewer: whether less is better.
  """
  first, *others = values
  known = {
    name: {seed: x for seed, x in sorted(some.items()) if not math.isnan(x)}
    for name, some in values.items()
  }
  seeds_of = {seed for some in values.values() for seed in some}
  found = {name: _against(known[name], known[first]) for name in others}
  plain = [seeds.p_value(found[name]) for name in others]
  corrected = seeds.holm(plain)
  out = [Verdict(first, metric, _mean(known[first]), lost=sorted(seeds_of - known[first].keys()))]
  for name, p, plain_p in zip(others, corrected, plain, strict=True):
    one = found[name]
    out.append(
      Verdict(
        variant=name,
        metric=metric,
        mean=_mean(known[name]),
        difference=one,
        p=p,
        plain_p=plain_p,
        alpha=ALPHA / len(others),
        better=(one.mean < 0) == fewer,
        lost=sorted(seeds_of - (known[name].keys() & known[first].keys())),
      )
    )
  return out


def sentence(one: Verdict, against: str, corrected: bool) -> str:
  """What is to be known of a variant.

  >>> base, mine = {0: 1.00, 1: 1.10, 2: 1.05}, {0: 0.89, 1: 0.98, 2: 0.94}
  >>> found = verdicts('validation/loss', {'base': base, 'mine': mine}, fewer=True)
  >>> print(sentence(found[1], 'base', corrected=False))
  mine is better than base by 0.113 ± 0.014 nats (validation/loss, 3 seeds, p = 0.00086).

  Args:
    one: its verdict.
    against: what it is compared with.
    corrected: whether p is corrected for several variants.
  """
  found = one.difference
  if found is None:
    return ''
  where, unit = one.metric, results.unit(one.metric)
  lost = f' Of seed {", ".join(map(str, one.lost))} there is no value.' if one.lost else ''
  if found.n < 2:
    return f'{one.variant}: {found.n} seeds have a {where} of both, which says nothing.{lost}'
  if math.isnan(one.plain_p):
    return (
      f'{one.variant} differs from {against} by {number(found.mean)}{unit} ({where}) in each of '
      f'{found.n} seeds alike, so that no error can be told.{lost}'
    )
  half = found.high - found.mean
  apart = f'{number(abs(found.mean), half)} ± {number(half, half)}{unit}'
  p = f'p = {one.p:.2g}{" after correction" if corrected else ""}'
  if one.sure:
    which = 'better' if one.better else 'worse'
    return (
      f'{one.variant} is {which} than {against} by {apart} ({where}, {found.n} seeds, {p}).{lost}'
    )
  if not found.mean and not found.error:
    return f'{one.variant} has the same {where} as {against} in each of {found.n} seeds.{lost}'
  more = f'{one.needed:,}' if one.needed else f'more than {seeds.MOST:,}'
  seen = f'{number(found.mean, half, "+")} ± {number(half, half)}{unit}'
  return (
    f'{one.variant}: no difference from {against} that {found.n} seeds can show ({where}, {seen}, '
    f'{p}); {more} would be needed if it is as large as it looks.{lost}'
  )


def number(value: float, half: float = math.nan, sign: str = '') -> str:
  """A number with as many places as two digits of its uncertainty take, and at least three.

  >>> number(4.35672, 0.00123), number(4.35672), number(0.5, 0.1, '+')
  ('4.3567', '4.357', '+0.500')
  """
  if math.isnan(value):
    return NONE
  places = 3
  if half > 0 and math.isfinite(half):
    places = min(max(1 - math.floor(math.log10(half)), 3), 6)
  return f'{value:{sign}.{places}f}' if abs(value) < 1e6 else f'{value:{sign}.3e}'


def _mean(known: Mapping[int, float]) -> Difference:
  return paired([*known.values()], [0.0] * len(known))


def _against(mine: Mapping[int, float], theirs: Mapping[int, float]) -> Difference:
  both = [seed for seed in mine if seed in theirs]
  return paired([mine[seed] for seed in both], [theirs[seed] for seed in both])
