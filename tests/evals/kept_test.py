"""Answers are kept in a file: each is asked once, and whoever goes on gets the digits he would."""

import numpy as np
import pytest

from llm_jax.evals.kept import Kept, asked_once, key_of
from llm_jax.types import BadInput


class Asker:
  """Answers in batches of three that are made of all questions; counts what it is asked."""

  def __init__(self, stop=None):
    self.asked, self.stop = [], stop

  def __call__(self, numbers, known):
    for start in range(0, len(numbers), 3):
      batch = range(start, min(start + 3, len(numbers)))
      if all(place in known for place in batch):
        continue
      for place in batch:
        if self.stop is not None and len(self.asked) == self.stop:
          raise KeyboardInterrupt
        self.asked.append(numbers[place])
        yield place, [numbers[place], len(batch), batch[0]]  # as digits depend on the batch


def ask(path, questions, stop=None):
  asker = Asker(stop)
  return dict(asked_once(questions, asker, Kept(path), None)), asker.asked


@pytest.mark.parametrize('stop', range(8))
def test_whoever_is_stopped_anywhere_goes_on_to_the_same_answers(tmp_path, stop):
  questions = [[i, 'x'] for i in range(8)]
  wanted, asked = ask(tmp_path / 'whole.jsonl', questions)
  assert asked == [*range(8)]
  path = tmp_path / 'stopped.jsonl'
  with pytest.raises(KeyboardInterrupt):
    ask(path, questions, stop)
  found, asked = ask(path, questions)
  assert found == wanted and len(asked) <= 8 - stop // 3 * 3
  assert ask(path, questions) == (wanted, [])


def test_more_questions_ask_for_those_that_are_new_alone(tmp_path):
  path, few, more = tmp_path / 'kept.jsonl', [[i] for i in range(4)], [[i] for i in range(9)]
  first, _ = ask(path, few)
  found, asked = ask(path, more)
  assert asked == [4, 5, 6, 7, 8] and {i: found[i] for i in range(4)} == first
  with_a_kill = tmp_path / 'killed.jsonl'
  ask(with_a_kill, few)
  with pytest.raises(KeyboardInterrupt):
    ask(with_a_kill, more, stop=4)
  assert ask(with_a_kill, more)[0] == found


def test_a_line_that_a_kill_cut_short_is_dropped_and_a_damaged_one_named(tmp_path):
  path = tmp_path / 'kept.jsonl'
  Kept(path).put({key_of([i]): [float(i), True] for i in range(3)})
  whole = path.read_bytes()
  for end in range(len(whole) - 1, whole.rstrip().rfind(b'\n') + 1, -7):
    path.write_bytes(whole[:end])
    kept = Kept(path)
    assert (key_of([1]) in kept) and (key_of([2]) in kept) == (end == len(whole) - 1)
    kept.put({key_of([7]): 1})
    assert key_of([7]) in Kept(path)  # it stands on a line of its own
  path.write_bytes(whole.replace(b'1.0', b'1.5'))
  with pytest.raises(BadInput, match=r'kept\.jsonl, line 2, is damaged: .*; delete the file') as e:
    Kept(path)
  assert '\n' not in str(e.value)


def test_numbers_come_back_to_the_last_bit(tmp_path):
  values = np.random.default_rng(0).normal(size=20).tolist()
  Kept(tmp_path / 'kept.jsonl').put({'a': values})
  assert Kept(tmp_path / 'kept.jsonl')['a'] == values
