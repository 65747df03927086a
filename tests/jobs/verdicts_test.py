"""Whatever a judge does, each pair has its verdict or is an error, and nothing is asked twice."""

import json

import pytest

from llm_jax.evals.kept import Kept
from llm_jax.jobs import verdicts as asking
from llm_jax.judges.pair import Pair, Verdict
from llm_jax.types import BadInput

SHORTER = """
from llm_jax.judges.pair import Verdict

def make(*, only: str = ''):
  def judge(pairs):
    for pair in pairs:
      with open({log!r}, 'a') as file:
        file.write(pair.first + pair.second + '\\n')
      if 'stop' in pair.first + pair.second:
        raise RuntimeError('stopped')
      if 'mute' in pair.first:
        yield None
      elif 'again' in pair.first:
        yield Verdict(None, 'later', again=True)
      else:
        a, b = len(pair.first), len(pair.second)
        yield 0.5 if a == b else Verdict(float(a < b), 'shorter')
  return judge
"""


def pair(first, second):
  question = {'prompt': [{'role': 'user', 'content': 'Hi'}], 'answer': ''}
  return asking.pair(question, first, second)


@pytest.fixture
def ask(tmp_path):
  """Puts pairs to a judge of the user's; `ask.log` has what it was asked."""
  path, log = tmp_path / 'shorter.py', tmp_path / 'log'
  path.write_text(SHORTER.format(log=str(log)))

  def call(*pairs, **options):
    log.write_text('')
    group = {'name': str(path), **options}
    kept = Kept(tmp_path / 'verdicts.jsonl')
    progress = lambda title: lambda found, count: found
    found = asking.verdicts(group, pairs, kept, lambda path: None, progress)
    return [[one.points for one in orders] for orders in found]

  call.log, call.path, call.kept = log, path, tmp_path / 'verdicts.jsonl'
  return call


def test_both_orders_are_asked_and_equal_texts_are_not(ask):
  assert ask(pair('a', 'bb'), pair('c', ' c\n'), pair('dd', 'ee')) == [[1.0, 0.0], [], [0.5, 0.5]]
  assert ask.log.read_text().split() == ['abb', 'bba', 'ddee', 'eedd']


def test_thoughts_are_not_shown(ask):
  assert ask(pair('<think>long and long</think>a', 'bb')) == [[1.0, 0.0]]
  assert ask.log.read_text().split() == ['abb', 'bba']


def test_errors_are_of_the_pair_alone(ask, capsys):
  pairs = [pair('a', 'bb'), pair('stop', 'x'), pair('mute', 'y'), pair('ccc', 'd')]
  assert ask(*pairs) == [[1.0, 0.0], [None, None], [None, 1.0], [0.0, 1.0]]
  told = capsys.readouterr().err
  assert 'RuntimeError: stopped' in told and 'shorter.py:' in told


def test_what_was_judged_is_not_asked_again_and_what_failed_is(ask):
  pairs = [pair('a', 'bb'), pair('stop', 'x'), pair('again', 'z'), pair('mute', 'y')]
  first = ask(*pairs)
  assert ask(*pairs) == first
  assert {*ask.log.read_text().split()} == {'stopx', 'xstop', 'againz'}
  whole = ask.kept.read_bytes()
  ask.kept.write_bytes(whole[:-9])  # killed while it wrote the last verdict
  assert ask(*pairs) == first
  assert len(ask.kept.read_bytes().splitlines()) == len(whole.splitlines())


def test_another_option_or_another_text_of_the_judge_is_another_judge(ask):
  ask(pair('a', 'bb'))
  ask(pair('a', 'bb'), only='x')
  assert len(ask.log.read_text().split()) == 2
  ask.path.write_text(ask.path.read_text() + '\n# changed\n')
  ask(pair('a', 'bb'))
  assert len(ask.log.read_text().split()) == 2


def test_a_damaged_verdict_is_named(ask):
  ask(pair('a', 'bb'))
  ask.kept.write_text(ask.kept.read_text().replace('shorter', 'shortest', 1))
  with pytest.raises(BadInput, match=r'verdicts.jsonl, line 1, is damaged'):
    ask(pair('a', 'bb'))


@pytest.mark.parametrize('value', [2, 'A', -1, float('nan')])
def test_a_judge_who_says_something_else_is_an_error(value):
  (found,) = asking.judged(lambda pairs: [value] * len(pairs), [pair('a', 'b')])
  assert found.points is None and 'give 1, 0.5, 0 or None' in found.said


def test_lists_are_as_good_as_generators_and_raise_for_their_own_pair():
  def judge(pairs: list[Pair]):
    return [1 / len(one.first) and 1 for one in pairs]

  found = [*asking.judged(judge, [pair('a', 'b'), pair('', 'b'), pair('c', 'b')])]
  assert [one.points for one in found] == [1.0, None, 1.0] and 'ZeroDivision' in found[1].said
  assert [one.points for one in asking.judged(lambda pairs: [], [pair('a', 'b')])] == [None]


def test_bad_input_ends_it():
  def judge(pairs):
    yield 1
    raise BadInput('no key')

  found = asking.judged(judge, [pair('a', 'b')] * 3)
  assert next(found) == Verdict(1.0)
  with pytest.raises(BadInput, match='no key'):
    next(found)


def test_options_are_checked():
  with pytest.raises(BadInput, match="judge: unknown option 'margn'; did you mean 'margin'"):
    asking.judge_of({'name': 'program', 'margn': 1.0})
  with pytest.raises(BadInput, match="judges: no 'opena'; did you mean 'openai'"):
    asking.judge_of({'name': 'opena'})
  assert json.dumps(asking._identity(*asking.judge_of({'name': 'openai', 'model': 'm'})))
