"""Does a model that reasons first answer better, and does its answer come from its reasons?

python -m experiments.thinking.compare ARTIFACT [ARTIFACT ...]

The artifacts are chat models of the tiny size after SFT, one a seed. All conditions ask the same
held-out word problems greedily; they differ in what stands before the answer.
"""

import sys
from collections.abc import Sequence

import jax
import numpy as np

import llm_jax
from llm_jax.data import word_problems
from llm_jax.data.word_problems import Problem
from llm_jax.rewards.exact_answer import final_answer
from llm_jax.sampling import pick
from llm_jax.sampling.generate import left_pad
from llm_jax.sampling.sampler import Sampler
from llm_jax.text import chat
from llm_jax.text.templates import Piece

STATES = 'The answer is'
MAX_NEW = 72


class Asker:
  """Continues what a model is made to have said.

  Args:
    path: of the artifact.
    problems: that are asked.
  """

  def __init__(self, path: str, problems: Sequence[Problem]) -> None:
    self._loaded = llm_jax.load(path)
    self._problems = problems
    self._samplers: dict[tuple[bool, int], Sampler] = {}

  def goes_on(self, said: Sequence[str], *, max_new: int = MAX_NEW, free: bool = True) -> list[str]:
    """What was made to be said, and what the model adds; with `free=False` not the answer at once.

    Args:
      said: the begin of each answer; '' for none.
      max_new: most tokens that are added.
      free: whether the first new token may be the first of STATES.
    """
    tokenizer, template = self._loaded.tokenizer, self._loaded.template
    rows = []
    for problem, text in zip(self._problems, said, strict=True):
      user = [{'role': 'user', 'content': problem.question}]
      pieces = chat.pieces(user, template=template, answer=True)
      rows.append(chat.encode(tokenizer, [*pieces, *([Piece(text)] if text else [])])[0])
    if (free, max_new) not in self._samplers:
      allowed_V = np.ones(tokenizer.vocab_size, bool)
      allowed_V[tokenizer.encode(STATES)[0]] = free
      choose = pick.make(temperature=0.0, allowed_V=allowed_V)
      stop = chat.stop_ids(tokenizer, template)
      self._samplers[free, max_new] = Sampler(
        self._loaded.model, tokenizer, max_new=max_new, stop=stop, pick=choose
      )
    out = self._samplers[free, max_new](
      self._loaded.params, *left_pad(rows, multiple=64), jax.random.key(0)
    )
    tokens_BL, mask_BL = (np.asarray(out[name]) for name in ('tokens', 'mask'))
    added = [t[m > 0].tolist() for t, m in zip(tokens_BL, mask_BL, strict=True)]
    last = [row[-1] for row in rows]
    return [
      text + tokenizer.decode(ids, after=after)
      for text, ids, after in zip(said, added, last, strict=True)
    ]

  def position(self, texts: Sequence[str]) -> float:
    """How many tokens stand before the stated number, on average."""
    heads = [text.partition(STATES)[0] + STATES for text in texts if STATES in text]
    return float(np.mean([len(self._loaded.tokenizer.encode(head)) for head in heads]))


def steps(text: str) -> list[str]:
  """The sentences of an answer before it states a number.

  >>> steps('2 * $3 = $6. $9 - $6 = $3. The answer is $3.')
  ['2 * $3 = $6.', '$9 - $6 = $3.']
  """
  head = text.partition(STATES)[0].strip()
  return [f'{part}.' for part in head.removesuffix('.').split('. ') if part]


def stated(sentences: Sequence[str]) -> str:
  return ' '.join([*sentences, STATES])


def measure(path: str, problems: Sequence[Problem]) -> dict[str, tuple[float, float]]:
  """Condition -> (share of right answers, tokens before the answer)."""
  asker = Asker(path, problems)
  gold = [str(problem.gold) for problem in problems]
  found: dict[str, tuple[float, float]] = {}

  def note(name: str, texts: Sequence[str], wanted: Sequence[str] = gold) -> None:
    right = [final_answer(text) == want for text, want in zip(texts, wanted, strict=True)]
    found[name] = float(np.mean(right)), asker.position(texts)

  nothing = [''] * len(problems)
  note('as it likes', asker.goes_on(nothing))
  note('answer first', asker.goes_on([STATES] * len(problems)))
  begun = asker.goes_on(nothing, max_new=1, free=False)
  reasoned = asker.goes_on(begun)
  note('reasons first', reasoned)
  own = [steps(text) for text in reasoned]
  cut = lambda keep: [stated(keep(one)) for one in own]
  note('reasons first, the last step cut', asker.goes_on(cut(lambda one: one[:-1])))
  note('reasons first, the last two steps cut', asker.goes_on(cut(lambda one: one[:-2])))
  note('reasons first, emptied', asker.goes_on(cut(lambda one: [])))
  solved = [steps(problem.solution(reason_first=True)) for problem in problems]
  note('right reasons given', asker.goes_on([*map(stated, solved)]))
  note('right reasons given, the last step cut', asker.goes_on([stated(s[:-1]) for s in solved]))
  slipped = [problem.solution(reason_first=True, slip=1) for problem in problems]
  given = asker.goes_on([stated(steps(text)) for text in slipped])
  note('one step wrong by one, given: right', given)
  note('one step wrong by one, given: as the steps say', given, [_number(t) for t in slipped])
  others = _others(problems)
  given = asker.goes_on([stated(steps(p.solution(reason_first=True))) for p in others])
  note("another problem's reasons, given: right", given)
  note("another problem's reasons, given: as they say", given, [str(p.gold) for p in others])
  return found


def _number(text: str) -> str:
  return final_answer(text) or ''


def _others(problems: Sequence[Problem]) -> list[Problem]:
  """For each problem the next one of its kind with another answer."""
  found = []
  for i, one in enumerate(problems):
    turn = [*problems[i + 1 :], *problems[:i]]
    found.append(next(o for o in turn if o.kind is one.kind and o.gold != one.gold))
  return found


def table(runs: Sequence[dict[str, tuple[float, float]]]) -> str:
  """Means over seeds, and the lowest and the highest."""
  lines = ['| what stands before the answer | tokens | right | lowest to highest |']
  lines.append('| --- | ---: | ---: | --- |')
  for name in runs[0]:
    right = [run[name][0] for run in runs]
    tokens = np.mean([run[name][1] for run in runs])
    spread = f'{min(right):.3f} to {max(right):.3f}'
    lines.append(f'| {name} | {tokens:.0f} | {np.mean(right):.3f} | {spread} |')
  return '\n'.join(lines)


def main(*paths: str) -> None:
  """Prints the table."""
  problems = word_problems.problems('test')
  print(table([measure(path, problems) for path in paths]))


if __name__ == '__main__':
  main(*sys.argv[1:])
