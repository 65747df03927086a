"""rollouts.jsonl: whose answers are told, what of them, and what a resumed run drops."""

import json

import jax
import numpy as np
import pytest

from llm_jax.parallel.mesh import make_mesh, shard_batch
from llm_jax.training import rollouts
from llm_jax.training.rollouts import Rollouts

LETTERS = '.abcdefghij'
decode = lambda ids: ''.join(LETTERS[i] for i in ids)
ids = lambda text: [LETTERS.index(letter) for letter in text]


def row(prompt, said, length=10, start=0):
  """One answer as the sampler leaves it; capitals in `said` are what a tool said."""
  whole = prompt + said
  place = slice(start, start + len(whole))
  fields = {name: np.zeros(length, np.int32) for name in ('tokens', 'segment')}
  fields['tokens'][place], fields['segment'][place] = ids(whole.lower()), 1
  fields['mask'] = np.zeros(length, np.float32)
  fields['mask'][start + len(prompt) : place.stop] = [letter.islower() for letter in said]
  return fields


def batch_of(**changes):
  """Three prompts with two answers each; the third row is padding."""
  groups = [
    [row('ab', 'cde', start=3), row('ab', 'c', start=3)],
    [row('abcde', 'fGHi'), row('abcde', 'fg')],
    [row('', ''), row('', '')],
  ]
  stack = lambda name: np.stack([[answer[name] for answer in group] for group in groups])
  batch = {name: stack(name) for name in ('tokens', 'mask', 'segment')}
  batch['prompt'] = np.zeros((3, 5), np.int32)
  return shard_batch(batch | changes, make_mesh(data=1))


def text_of(*golds, width=6):
  return np.stack([np.frombuffer(g.encode().ljust(width, b'\0'), np.uint8) for g in golds])


def hook(folder, batch, **changes):
  options = dict(last=lambda: batch, decode=decode, start_step=0, every=2)
  return Rollouts(folder, **options | changes)


def test_an_answer_is_a_line_with_what_is_known_of_it(tmp_path):
  batch = batch_of(
    reward=np.array([[1, 0.123456], [0.5, 7], [0, 0]], np.float32),
    valid=np.array([[1, 1], [1, 0], [0, 0]], np.float32),
    advantage=np.arange(60, dtype=np.float32).reshape(3, 2, 10),
    gold=text_of('5', 'grün', ''),
  )
  told = hook(tmp_path, batch)
  told(2, None, {})
  ab, abcde = dict(step=2, prompt='ab', gold='5'), dict(step=2, prompt='abcde', gold='grün')
  wanted = [
    ab | dict(answer='cde', length=3, reward=1.0, advantage=6.0),
    ab | dict(answer='c', length=1, reward=0.1235, advantage=15.0),
    # What a tool said is a part of the answer, and neither of its length nor of its advantage.
    abcde | dict(answer='fghi', length=2, reward=0.5, advantage=26.5),
    abcde | dict(answer='fg', length=2, reward=None, advantage=35.5),
  ]
  assert rollouts.read(tmp_path) == wanted
  assert 'grün' in (tmp_path / 'rollouts.jsonl').read_text()  # readable as it is


def test_what_is_not_known_is_left_out(tmp_path):
  (first, *_) = hook(tmp_path, batch_of()).records(4)
  assert first == dict(step=4, prompt='ab', answer='cde', length=3)


def test_only_so_many_prompts_and_no_empty_rows(tmp_path):
  batch = batch_of()
  answers = lambda count: [r['answer'] for r in hook(tmp_path, batch, count=count).records(1)]
  assert answers(1) == ['cde', 'c']
  assert answers(2) == answers(100) == ['cde', 'c', 'fghi', 'fg']


def test_it_speaks_at_its_interval_of_the_rollout_of_that_step(tmp_path):
  said = ['cde', 'c', 'd', 'e', 'fg', 'f']
  now = [0]
  one = lambda: batch_of(tokens=np.tile(row('ab', said[now[0] - 1])['tokens'], (3, 2, 1)),
                         segment=np.tile(row('ab', said[now[0] - 1])['segment'], (3, 2, 1)),
                         mask=np.tile(row('ab', said[now[0] - 1])['mask'], (3, 2, 1)))  # fmt: skip
  told = hook(tmp_path, None, last=one, every=3, count=1)
  for step in range(1, 7):
    now[0] = step
    told(step, None, {})
  found = [(r['step'], r['answer']) for r in rollouts.read(tmp_path)]
  assert found == [(3, 'd'), (3, 'd'), (6, 'f'), (6, 'f')]


@pytest.mark.parametrize('batch', [None, {'tokens': np.zeros((2, 4))}], ids=['none', 'no prompts'])
def test_without_a_rollout_nothing_is_written(tmp_path, batch):
  told = hook(tmp_path, batch)
  told(2, None, {})
  assert told.lines(2) == [] and not (tmp_path / 'rollouts.jsonl').exists()


def test_the_log_shows_a_small_table(tmp_path):
  batch = batch_of(
    reward=np.array([[1, 0.123456], [0, 0], [0, 0]], np.float32),
    valid=np.array([[1, 0], [1, 1], [0, 0]], np.float32),
  )
  assert hook(tmp_path, batch, count=1).lines(0) == [
    'asked: ab',
    ' reward  answer',
    '   1.00  cde',
    ' failed  c',
  ]
  assert not (tmp_path / 'rollouts.jsonl').exists()


def test_long_texts_are_cut_and_lines_folded_in_the_table(tmp_path):
  spaced = lambda ids: '\n'.join('ab ' * 40 for _ in ids)
  lines = hook(tmp_path, batch_of(), decode=spaced).lines(0)
  assert all('\n' not in line and len(line) <= 130 for line in lines)


def test_a_resumed_run_drops_what_the_killed_one_said_after_the_checkpoint(tmp_path):
  told = hook(tmp_path, batch_of(), count=1)
  for step in range(1, 9):
    told(step, None, {})
  path = tmp_path / 'rollouts.jsonl'
  whole = path.read_text()
  path.write_text(whole[:-20])  # cut off by the kill
  assert [r['step'] for r in rollouts.read(tmp_path)] == [2, 2, 4, 4, 6, 6, 8]
  told = hook(tmp_path, batch_of(), count=1, start_step=5)
  assert [r['step'] for r in rollouts.read(tmp_path)] == [2, 2, 4, 4]
  for step in range(6, 9):
    told(step, None, {})
  assert path.read_text() == whole


def test_devices_change_nothing_and_only_the_first_host_writes(tmp_path, monkeypatch):
  wide = {k: np.concatenate([v, v, v[:2]]) for k, v in jax.device_get(batch_of()).items()}
  told = [
    hook(tmp_path, shard_batch(wide, make_mesh(**axes))).records(1)
    for axes in (dict(data=1), dict(data=2, fsdp=2, tensor=2))
  ]
  assert told[0] == told[1] and len(told[0]) == 4
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  hook(tmp_path, batch_of())(2, None, {})
  assert list(tmp_path.iterdir()) == []


def test_every_line_is_json(tmp_path):
  hook(tmp_path, batch_of(gold=text_of('"\\\n', 'x', '')))(2, None, {})
  for line in (tmp_path / 'rollouts.jsonl').read_text().splitlines():
    assert json.loads(line)['gold'] in ('"\\\n', 'x')
