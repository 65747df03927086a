"""Rewards of programs: right ones by hand, and failures that cost only the answer they concern."""

import time

import jax
import numpy as np
import pytest

from llm_jax.annotate import verify
from llm_jax.parallel.mesh import make_mesh, shard_batch
from llm_jax.text.tokenizer import EOS, Tokenizer
from llm_jax.types import BadInput

LENGTH, BYTES = 40, 8
JUDGE = """
import time

asked = []

def reward(answer, gold, *, good=0.7, seconds=60):
  asked.append(answer)
  if 'hang' in answer:
    time.sleep(seconds)
  if 'raise' in answer:
    raise KeyError(answer)
  return {'nan': float('nan'), 'huge': 1e300, 'none': None}.get(answer, good)
"""


@pytest.fixture(scope='module')
def tokenizer():
  return Tokenizer.train(['The answer is 12. a cat sat'] * 20, vocab_size=290)


@pytest.fixture
def judge(tmp_path, monkeypatch):
  """The module `verify_user.judge` of somebody else's."""
  folder = tmp_path / 'verify_user'
  folder.mkdir()
  (folder / '__init__.py').write_text('')
  (folder / 'judge.py').write_text(JUDGE)
  monkeypatch.syspath_prepend(tmp_path)
  from verify_user import judge  # pyright: ignore[reportMissingImports]

  judge.asked.clear()
  return judge


def batch_of(tokenizer, answers, golds, *, left=2):
  """Answers [B][G] of texts, None for a filler; in a tuple, what tools said stands second."""
  shape = (len(answers), len(answers[0]), LENGTH)
  batch = {'tokens': np.zeros(shape, np.int32), 'mask': np.zeros(shape, np.float32)}
  batch['tokens'][..., left] = tokenizer.encode('a')[0]  # a prompt
  for place, text in ((p, answers[p[0]][p[1]]) for p in np.ndindex(shape[:2])):
    at = left + 1
    parts = () if text is None else (text,) if isinstance(text, str) else text
    for i, part in enumerate(parts):
      ids = tokenizer.encode(part) + [tokenizer.special(EOS)] * (i == len(parts) - 1)
      batch['tokens'][place][at : at + len(ids)] = ids
      batch['mask'][place][at : at + len(ids)] = i != 1
      at += len(ids)
  batch['gold'] = np.zeros((len(golds), BYTES), np.uint8)
  for row, gold in zip(batch['gold'], golds, strict=True):
    row[: len(gold)] = np.frombuffer(gold.encode(), np.uint8)
  return batch


def run(tokenizer, answers, golds, *, annotate=None, **options):
  mesh = make_mesh(data=1)
  annotate = annotate or verify.make(None, tokenizer, mesh=mesh, **options)
  batch = shard_batch(batch_of(tokenizer, answers, golds), mesh)
  return {k: np.asarray(v) for k, v in annotate({}, batch, jax.random.key(0)).items()}


SAID = [['The answer is 1.', 'The answer is 2.'], ['The answer is 12.', 'a cat']]


def test_every_answer_meets_the_gold_of_its_prompt(tokenizer):
  out = run(tokenizer, SAID, ['2', '12'])
  assert out['reward'].tolist() == [[0, 1], [1, 0]] and out['reward'].dtype == np.float32
  assert out['valid'].tolist() == [[1, 1], [1, 1]] and out['valid'].dtype == np.float32
  assert out['log/reward'].tolist() == [0.5] * 2 and out['log/reward_std'].tolist() == [0.5] * 2
  assert out['log/verify_failed'].tolist() == [0] * 2
  assert 'log/reward_exact_answer' not in out  # it is the reward


def test_several_rewards_are_weighed(tokenizer):
  options = dict(
    rewards=('exact_answer', 'length'),
    weights=(2.0, -0.5),
    options={'length': dict(limit=5, buffer=22, unit='characters')},
  )
  out = run(tokenizer, SAID, ['2', '12'], **options)
  short = np.array([[1 - 11 / 22, 1 - 11 / 22], [1 - 12 / 22, 1]])
  right = np.array([[0, 1], [1, 0]])
  np.testing.assert_allclose(out['reward'], 2 * right - 0.5 * short, rtol=1e-6)
  np.testing.assert_allclose(out['log/reward_exact_answer'], 0.5, rtol=1e-6)
  np.testing.assert_allclose(out['log/reward_length'], short.mean(), rtol=1e-6)
  np.testing.assert_allclose(out['log/reward_std'], (2 * right - 0.5 * short).std(), rtol=1e-5)


def test_what_tools_said_is_not_judged(tokenizer):
  out = run(tokenizer, [[('The answer', ' is 3. No', ' is 12.')]], ['12'])
  assert out['reward'].tolist() == [[1]]


@pytest.mark.parametrize('specials', [False, True])
def test_control_tokens_are_shown_to_whom_they_concern(tokenizer, judge, specials):
  run(tokenizer, [['a cat']], [''], rewards=['verify_user.judge'], specials=specials)
  assert judge.asked == ['a cat' + EOS * specials]


def test_thoughts_are_judged_by_nobody_who_does_not_ask(tokenizer, tmp_path):
  (tmp_path / 'thinks.py').write_text(
    'def reward(answer, gold, *, thinking, completion, weight=2.0):\n'
    "  return weight * (answer == gold and thinking == '3' and '</think>' in completion)\n"
  )
  start, end = tokenizer.special('<THINK_START>'), tokenizer.special('<THINK_END>')
  batch = batch_of(tokenizer, [['1', '2', '3', '4', '5']], ['4'])
  said = tokenizer.encode
  answers = [
    [start, *said('3'), end, *said('4')],
    [start, *said('4'), end, *said('3')],
    [*said('3'), end, *said('4')],  # the prompt had opened it
    [start, *said('4')],  # not closed, so there is no answer
    said('4'),  # as well, for here the prompt opens it
  ]
  batch['mask'][:] = 0
  for tokens, mask, ids in zip(batch['tokens'][0], batch['mask'][0], answers, strict=True):
    tokens[3 : 3 + len(ids)], mask[3 : 3 + len(ids)] = ids, 1
  batch['tokens'][0, -1, 2] = start
  mesh = make_mesh(data=1)
  names = ['same_text', 'math_equal', str(tmp_path / 'thinks.py')]
  annotate = verify.make(None, tokenizer, mesh=mesh, rewards=names, weights=(1, 10, 100))
  out = annotate({}, shard_batch(batch, mesh), jax.random.key(0))
  assert np.asarray(out['reward']).tolist() == [[211, 0, 211, 0, 0]]
  assert verify.COLUMNS(dict(rewards=names, options=None)) == ()


def test_a_module_of_the_user_with_options(tokenizer, judge):
  del judge
  options = {'judge': dict(good=-2.5)}
  out = run(tokenizer, [['a', 'cat']], [''], rewards=['verify_user.judge'], options=options)
  assert out['reward'].tolist() == [[-2.5, -2.5]]


def test_a_failure_concerns_one_answer(tokenizer, judge):
  said = [['a', 'hang'], ['nan', 'cat'], ['raise', 'huge'], ['none', 'sat']]
  annotate = verify.make(
    None, tokenizer, mesh=make_mesh(data=1), rewards=['verify_user.judge'], timeout=0.5, workers=2
  )
  start = time.monotonic()
  out = run(tokenizer, said, [''] * 4, annotate=annotate)
  assert time.monotonic() - start < 30
  good = np.array([[1, 0], [0, 1], [0, 0], [0, 1]])
  np.testing.assert_array_equal(out['valid'], good)
  np.testing.assert_array_equal(out['reward'], np.float32(0.7) * good)  # 0.7 as a float32 is
  np.testing.assert_array_equal(out['log/verify_failed'], np.float32(5 / 8))
  np.testing.assert_allclose(out['log/reward'], 0.7, rtol=1e-6)  # of those that are known
  np.testing.assert_allclose(out['log/reward_std'], 0, atol=1e-6)
  told = ' '.join(annotate.failures)
  assert all(x in told for x in ('gave up after 0.5 s', 'KeyError', 'not finite', 'no opinion'))
  # The run goes on, with as many workers as before.
  again = run(tokenizer, [['cat'] * 4], [''], annotate=annotate)
  assert again['valid'].all() and not again['log/verify_failed'].any()


def test_fillers_are_not_asked_and_count_nowhere(tokenizer, judge):
  said = [['a', None], [None, None], ['raise', 'cat']]
  out = run(tokenizer, said, [''] * 3, rewards=['verify_user.judge'])
  assert sorted(judge.asked) == ['a', 'cat', 'raise']
  assert out['valid'].tolist() == [[1, 0], [0, 0], [0, 1]]
  np.testing.assert_array_equal(out['log/verify_failed'], np.float32(1 / 3))
  np.testing.assert_allclose(out['log/reward'], 0.7, rtol=1e-6)


def test_many_workers_agree_with_one(tokenizer):
  draw = np.random.default_rng(0)
  said = [[f'The answer is {n}.' for n in draw.integers(0, 4, 8)] for _ in range(8)]
  golds = [str(i % 4) for i in range(8)]
  many = run(tokenizer, said, golds, workers=32)
  one = run(tokenizer, said, golds, workers=1)
  np.testing.assert_array_equal(many['reward'], one['reward'])
  assert 0 < many['reward'].mean() < 1 and many['valid'].all()


def test_options_that_no_answer_can_meet_are_told_at_once(tokenizer):
  options = dict(rewards=['format'], options={'format': dict(tags=('a', 'a'))})
  with pytest.raises(BadInput, match=r'no answer could be judged: format: tags'):
    run(tokenizer, [['a', 'cat']], [''], **options)


def test_a_gold_answer_that_is_none_later_stops_nothing(tokenizer):
  annotate = verify.make(None, tokenizer, mesh=make_mesh(data=1), rewards=['countdown'])
  run(tokenizer, [['3 * 8']], ['24; 3 8'], annotate=annotate)
  out = run(tokenizer, [['3 * 8']], ['24'], annotate=annotate)
  assert not out['valid'].any()
  assert 'not of the form' in annotate.failures[-1]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(rewards=()), 'name at least one, each once'),
    (dict(rewards=('length', 'length')), 'name at least one, each once'),
    (dict(rewards=('lenght',)), "no 'lenght'; did you mean 'length'"),
    (dict(rewards=('no.such',)), "no module 'no.such' can be imported"),
    (dict(weights=(1, 2)), '2 weights for 1 rewards; give one each'),
    (dict(options={'length': {}}), "options for 'length', which is not among rewards"),
    (dict(rewards=('length',), options={'length': {'limt': 3}}), "did you mean 'limit'"),
    (dict(timeout=0), 'timeout 0; choose a number above 0'),
    (dict(workers=0), 'workers 0; choose a whole number from 1'),
  ],
)
def test_bad_input(tokenizer, options, message):
  with pytest.raises(BadInput, match=message):
    verify.make(None, tokenizer, mesh=make_mesh(data=1), **options)


@pytest.mark.parametrize('field', ['gold', 'tokens'])
def test_a_batch_that_lacks_a_field_is_refused(tokenizer, field):
  annotate = verify.make(None, tokenizer, mesh=make_mesh(data=1))
  batch = batch_of(tokenizer, SAID, ['2', '12'])
  del batch[field]
  with pytest.raises(BadInput, match=f'annotate.verify: the batch has no {field}'):
    annotate({}, batch, jax.random.key(0))
