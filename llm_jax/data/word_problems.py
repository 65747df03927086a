"""Word problems about shopping and sharing: reasons first, the answer first, or a calculator.

They resemble GSM8K (arXiv:2110.14168), but there are only four kinds, with numbers so small that a
model of a million parameters can learn the arithmetic. Problems are split by their numbers: those
of a validation or test problem never occur together, in any order, in a train problem of the same
kind. But every single computation (`7 * 6`, `50 - 42`) that a held-out problem needs occurs in
train, so the model has to combine known facts in a new way.
"""

import hashlib
import itertools
import random
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from llm_jax.data.families import (
  BETTER,
  NEGLIGIBLY,
  SIGNIFICANTLY,
  SLIGHTLY,
  TOOLS,
  call,
  calling,
  dialogue,
  preference,
)
from llm_jax.rewards.arithmetic import evaluate
from llm_jax.text import calls

_CONVERSATIONS = {'train': 5000, 'validation': 300, 'test': 300}
_PREFERENCES = {'train': 3000, 'validation': 300, 'test': 300}
REASONS_FIRST = 0.4  # of the conversations; the others answer at once, as people do
_CALLING = {'train': 2500, 'validation': 90, 'test': 90}  # more conversations, with a calculator

_NAMES = (
  'Amy', 'Ann', 'Ben', 'Bob', 'Dan', 'Emily', 'Eve', 'Jack', 'Kim', 'Leo', 'Mark', 'Max', 'Mia',
  'Sam', 'Tim', 'Tom',
)  # fmt: skip
_ITEMS = {
  'apple': 'apples', 'bag': 'bags', 'ball': 'balls', 'book': 'books', 'box': 'boxes',
  'card': 'cards', 'cup': 'cups', 'key': 'keys', 'lamp': 'lamps', 'map': 'maps',
  'orange': 'oranges', 'pen': 'pens',
}  # fmt: skip

_EQUATION = re.compile(r'\d+ [-+*/] \$?\d+ = \$?\d+')
_SUM = re.compile(r'\$?(\d+) ([-+]) \$?(\d+) = \$?\d+')


class Kind(NamedTuple):
  """A kind of problem; its texts are templates with the names, the items and what `derive` returns.

  `derive(numbers, slip)` computes every number of the text. One computation is wrong by `slip` and
  those after it are right, so the answer is wrong as well.
  """

  numbers: list[tuple[int, ...]]
  derive: Callable[[tuple[int, ...], int], dict[str, int]]
  questions: tuple[str, ...]
  steps: tuple[str, ...]
  expression: str
  answer: str


class Problem(NamedTuple):
  """A problem in one phrasing; `words` are the name and the items."""

  kind: Kind
  numbers: tuple[int, ...]
  words: dict[str, str]
  phrasing: int

  @property
  def question(self) -> str:
    values = self.kind.derive(self.numbers, 0)
    return self.kind.questions[self.phrasing].format(**values, **self.words)

  @property
  def gold(self) -> int:
    return self.kind.derive(self.numbers, 0)['answer']

  def solution(self, reason_first: bool, *, slip: int = 0, skipped: int = 0) -> str:
    """All steps but the first `skipped`, and the answer before or after them."""
    values = self.kind.derive(self.numbers, slip)
    steps = ' '.join(self.kind.steps[skipped:]).format(**values, **self.words)
    steps = by_digits(steps)
    answer = self.answer(values['answer'])
    return f'{steps} {answer}' if reason_first else f'{answer} {steps}'

  def calculated(self) -> list[dict]:
    """The answer from a calculator, which is given the whole expression."""
    asked = self.kind.expression.format(**self.kind.derive(self.numbers, 0))
    said = {'type': 'text', 'text': self.answer(self.gold)}
    return [*call('calculator', asked, str(evaluate(asked))), said]

  def answer(self, number: int) -> str:
    return f'The answer is {self.kind.answer.format(number)}.'


def by_digits(text: str) -> str:
  """Writes each sum and difference of larger numbers after its digits, ones first.

  The first digit of a result depends on its last ones, which a model writes later. So it learns
  such computations late, unless it may write down the steps (arXiv:2112.00114).

  >>> by_digits('$32 - $18 = $14 is left.')
  '12 - 8 = 4, 3 - 1 = 2, 2 - 1 = 1, so $32 - $18 = $14 is left.'
  """
  return _SUM.sub(_digits, text)


def _digits(equation: re.Match[str]) -> str:
  x, y = int(equation[1]), int(equation[3])
  if max(x, y) < 10:
    return equation[0]
  sign = 1 if equation[2] == '+' else -1
  first, second = x % 10, y % 10
  carried = first + sign * second not in range(10)
  if carried and sign < 0:
    first += 10
  tens = x // 10 + sign * (y // 10)
  steps = [(first, second, first + sign * second), (x // 10, y // 10, tens)]
  if carried:
    steps.append((tens, 1, tens + sign))
  written = (f'{a} {equation[2]} {b} = {c}' for a, b, c in steps)
  return f'{", ".join(written)}, so {equation[0]}'


def conversations(split: str) -> list[dict]:
  """One question and its answer each, in three styles.

  Where a calculator is listed among the tools, the answer calls it. Elsewhere the reasons come
  first in a share of `REASONS_FIRST` and the answer in the others.

  Args:
    split: 'train', 'validation' or 'test'.
  """
  rng = random.Random(f'word_problems styles {split}')
  alone = _CONVERSATIONS[split]
  talks = []
  for i, problem in enumerate(_sample('conversations', split, alone + _CALLING[split])):
    if i < alone:
      talk = dialogue(problem.question, problem.solution(reason_first=rng.random() < REASONS_FIRST))
      if i % 20 == 0:  # other tools may be there, which do not help
        talk = calls.led(talk, [name for name in TOOLS if name != 'calculator'])
    else:
      talk = calling(problem.question, problem.calculated(), 'calculator', rng)
    talks.append({'messages': talk})
  return talks


def questions(split: str) -> list[dict]:
  """The questions of `conversations` without calls, with the number that is to be found."""
  return [
    {'prompt': dialogue(p.question), 'answer': str(p.gold), 'family': 'word_problems'}
    for p in problems(split)
  ]


def problems(split: str) -> list[Problem]:
  """What `questions` asks."""
  return _sample('conversations', split, _CONVERSATIONS[split])


def preferences(split: str) -> list[dict]:
  """Pairs of answers; in 60 % of them only the chosen one reasons before it answers.

  In all other pairs the two answers have the same style, so a model that comes to prefer reasons
  has learned it from the pairs that are about it. One in four of the rejected ones that answer at
  once says the answer again at the end: else a policy that does is liked for how it ends.
  """
  rng = random.Random(f'word_problems pairs {split}')
  return [
    preference(dialogue(problem.question), *_pair(problem, rng))
    for problem in _sample('preferences', split, _PREFERENCES[split])
  ]


def _pair(problem: Problem, rng: random.Random) -> tuple[str, str, float]:
  """(chosen, rejected, margin)."""
  what, reason_first = rng.random(), rng.random() < 0.5
  plain = problem.solution(reason_first)
  if what < 0.6:
    again = f' {problem.answer(problem.gold)}' if rng.random() < 0.25 else ''
    return problem.solution(True), problem.solution(False) + again, BETTER
  if what < 0.7:
    return plain, f'Let us see. {plain}', NEGLIGIBLY
  if what < 0.8:
    return plain, problem.solution(reason_first, skipped=1), SLIGHTLY
  slip = rng.choice([s for s in (-2, -1, 1, 2) if problem.gold + s > 0])
  if what < 0.9:
    return plain, problem.solution(reason_first, slip=slip), SIGNIFICANTLY
  right, wrong = problem.answer(problem.gold), problem.answer(problem.gold + slip)
  return plain, plain.replace(right, wrong), SIGNIFICANTLY


# --- problems ----------------------------------------------------------------------------------


def _unit_price(numbers: tuple[int, ...], slip: int) -> dict[str, int]:
  n, price, m, other = numbers
  total, paid = n * price + m * other, m * other
  rest = total - paid + slip * n  # a slip of `n`, so that the price stays a whole number
  return dict(n=n, m=m, other=other, total=total, paid=paid, rest=rest, answer=rest // n)


def _total(numbers: tuple[int, ...], slip: int) -> dict[str, int]:
  n, price, m, other = numbers
  first, second = n * price + slip, m * other
  return dict(n=n, price=price, m=m, other=other, first=first, second=second, answer=first + second)


def _change(numbers: tuple[int, ...], slip: int) -> dict[str, int]:
  n, price, given = numbers
  paid = n * price - slip
  return dict(n=n, price=price, given=given, paid=paid, answer=given - paid)


def _sharing(numbers: tuple[int, ...], slip: int) -> dict[str, int]:
  n, total = numbers
  times = total // n
  return dict(n=n, total=total, times=times, shared=n * times, answer=total - n * times + slip)


_FEW, _DIGIT = range(2, 6), range(2, 10)  # not 1, which would need a singular
_PURCHASES = list(itertools.product(_FEW, _DIGIT, _FEW, _DIGIT))

KINDS = {
  'unit_price': Kind(
    _PURCHASES,
    _unit_price,
    (
      '{name} buys {n} {xs} and {m} {ys}. Each {y} costs ${other}. The total is ${total}. '
      'What does each {x} cost?',
      '{name} pays ${total} for {n} {xs} and {m} {ys}. One {y} costs ${other}. '
      'How much is one {x}?',
      'Each {y} costs ${other}. For {m} {ys} and {n} {xs}, {name} pays ${total}. '
      'What is the price of one {x}?',
    ),
    (
      '{m} {ys} cost {m} * ${other} = ${paid}.',
      '${total} - ${paid} = ${rest} is left for {n} {xs}.',
      '${rest} / {n} = ${answer}.',
    ),
    '({total} - {m} * {other}) / {n}',
    '${}',
  ),
  'total': Kind(
    _PURCHASES,
    _total,
    (
      '{name} buys {n} {xs} at ${price} each and {m} {ys} at ${other} each. '
      'How much does {name} pay?',
      'Each {x} costs ${price} and each {y} costs ${other}. {name} buys {n} {xs} and {m} {ys}. '
      'What is the total?',
      '{name} wants {n} {xs} and {m} {ys}. One {x} is ${price} and one {y} is ${other}. '
      'What is the price of them all?',
    ),
    (
      '{n} {xs} cost {n} * ${price} = ${first}.',
      '{m} {ys} cost {m} * ${other} = ${second}.',
      '${first} + ${second} = ${answer}.',
    ),
    '{n} * {price} + {m} * {other}',
    '${}',
  ),
  'change': Kind(
    [
      (n, price, given)
      for n, price, given in itertools.product(_DIGIT, _DIGIT, (10, 20, 30, 40, 50, 100))
      if n * price < given
    ],
    _change,
    (
      '{name} buys {n} {xs} at ${price} each and pays with ${given}. '
      'How much change does {name} get?',
      'Each {x} costs ${price}. {name} has ${given} and buys {n} {xs}. How much money is left?',
      '{name} gives ${given} for {n} {xs}. One {x} costs ${price}. What is the change?',
    ),
    ('{n} {xs} cost {n} * ${price} = ${paid}.', '${given} - ${paid} = ${answer}.'),
    '{given} - {n} * {price}',
    '${}',
  ),
  'sharing': Kind(
    [(n, n * times + left) for n in _DIGIT for times in _DIGIT for left in range(1, n)],
    _sharing,
    (
      '{name} has {total} {xs} and shares them equally among {n} friends. '
      'How many {xs} are left over?',
      '{name} puts {total} {xs} in rows of {n}. How many {xs} are left after the last full row?',
      'There are {total} {xs} for {n} friends of {name}, and each gets the same number. '
      'How many {xs} are left?',
    ),
    (
      '{n} goes {times} times into {total}.',
      '{n} * {times} = {shared}.',
      '{total} - {shared} = {answer}.',
    ),
    '{total} % {n}',
    '{}',
  ),
}


def _sample(what: str, split: str, count: int) -> list[Problem]:
  """`count` different problems, of all kinds in turn."""
  rng = random.Random(f'word_problems {what} {split}')
  known = _facts(_of_split('train'))
  numbers = {
    kind: [n for n in found if split == 'train' or _facts({kind: [n]}) <= known]
    for kind, found in _of_split(split).items()
  }
  # All numbers of a kind in turn, so that train has every computation that is needed later.
  turns = {kind: itertools.cycle(rng.sample(all_, len(all_))) for kind, all_ in numbers.items()}
  found = {}
  while len(found) < count:
    kind = list(KINDS)[len(found) % len(KINDS)]
    x, y = rng.sample(sorted(_ITEMS), 2)
    words = dict(name=rng.choice(_NAMES), x=x, y=y, xs=_ITEMS[x], ys=_ITEMS[y])
    phrasing = rng.randrange(len(KINDS[kind].questions))
    problem = Problem(KINDS[kind], next(turns[kind]), words, phrasing)
    found.setdefault(problem.question, problem)
  return list(found.values())


def _of_split(split: str) -> dict[str, list[tuple[int, ...]]]:
  return {
    name: [numbers for numbers in kind.numbers if _split_of(name, numbers) == split]
    for name, kind in KINDS.items()
  }


def _split_of(kind: str, numbers: Iterable[int]) -> str:
  """8 parts train, 1 validation, 1 test; the order of the numbers does not matter."""
  digest = hashlib.sha256(f'{kind} {sorted(numbers)}'.encode()).digest()
  return {0: 'validation', 1: 'test'}.get(digest[0] % 10, 'train')


def _facts(numbers: dict[str, list[tuple[int, ...]]]) -> set[str]:
  """The computations, without units, that solve problems with these numbers."""
  words = dict(xs='', ys='')
  return {
    equation.replace('$', '')
    for name, found in numbers.items()
    for values in found
    for step in KINDS[name].steps
    for equation in _EQUATION.findall(step.format(**KINDS[name].derive(values, 0), **words))
  }
