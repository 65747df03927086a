"""A program as the judge: rewards of this package, and of somebody's own."""

import pytest

from llm_jax import options
from llm_jax.judges import program
from llm_jax.judges.pair import Pair
from llm_jax.types import BadInput


def pair(first, second, gold='7', **columns):
  prompt = [{'role': 'user', 'content': 'What is 3 + 4?'}]
  return Pair({'prompt': prompt, 'answer': gold, **columns}, first, second, (first, second))


RIGHT, WRONG = 'The answer is 7.', 'The answer is 8.'


def points(judge, *pairs):
  return [one.points for one in judge(pairs)]


def test_the_answer_with_more_reward_wins():
  judge = program.make()
  pairs = [pair(RIGHT, WRONG), pair(WRONG, RIGHT), pair(RIGHT, f'So: {RIGHT}'), pair('8', 'no')]
  assert points(judge, *pairs) == [1.0, 0.0, 0.5, 0.5]
  thought = f'<think>{WRONG}</think>{RIGHT}'
  assert points(judge, pair(thought, WRONG)) == [1.0]


def test_what_it_raises_on_is_no_verdict():
  first, second = program.make()([pair(RIGHT, WRONG, gold='seven'), pair(RIGHT, WRONG)])
  assert first.points is None and first.again and 'is no number' in first.said
  assert second.points == 1.0


OWN = """
def reward(answer, gold, *, level, thinking, scale=1.0):
  return None if level == 0 else scale * level * len(answer) + 100 * len(thinking)
"""
MANY = """
def rewards(answers, golds, *, level):
  return [len(a) if g == '7' and n else float('nan') for a, g, n in zip(answers, golds, level)]
"""


def test_files_of_the_users_ask_for_columns(tmp_path):
  (tmp_path / 'own.py').write_text(OWN)
  (tmp_path / 'many.py').write_text(MANY)
  own = program.make(reward=str(tmp_path / 'own.py'), options={'scale': -1.0})
  ab = ('aaa', 'b')
  found = points(own, *(pair(*ab, level=level) for level in (1, -1, 0)))
  assert found == [0.0, 1.0, None]
  assert points(own, pair('aaa', '<think>b</think>b', level=-1)) == [0.0]
  many = program.make(reward=str(tmp_path / 'many.py'), margin=1.0)
  found = points(many, pair(*ab, level=1), pair('aa', 'b', level=1), pair(*ab, gold='8', level=1))
  assert found == [1.0, 0.5, None]


def test_an_option_that_the_reward_does_not_have():
  with pytest.raises(BadInput, match=r"judge\.options of length: unknown option 'lon'"):
    program.check(reward='length', options={'lon': 3}, margin=0.0)
  program.check(**options.resolve(program.make, {}))


def test_verdicts_depend_on_the_text_of_the_program(tmp_path):
  (tmp_path / 'changes.py').write_text(OWN)
  given = dict(reward=str(tmp_path / 'changes.py'), options=None, margin=0.0)
  before = program.depends(**given)
  assert program.depends(**given) == before != program.depends(**given | {'margin': 1.0})
  (tmp_path / 'changes.py').write_text(OWN + '\n# more\n')
  assert program.depends(**given) != before
