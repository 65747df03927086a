"""Rules on scores: what counts as an end, each rule by hand, their order, and what they leave."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.annotate import score_rules
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput

FIXTURES = Path(__file__).parents[1] / 'fixtures'
EOS, NEW = 2, 8
PLAIN = SimpleNamespace(stop_ids=(EOS,))


def batch_of(lengths, ends, reward, width=NEW + 2):
  """Answers after a prompt of two tokens, the last of which is EOS where `ends`."""
  lengths, ends = np.broadcast_arrays(lengths, np.asarray(ends, bool))
  step = np.arange(width) - 2
  mask = (step >= 0) & (step < lengths[..., None])
  tokens = np.where(mask | (step < 0), 5, 0)
  tokens[..., 1] = EOS  # a prompt may hold one as well
  tokens[(step == lengths[..., None] - 1) & ends[..., None]] = EOS
  batch = {'tokens': tokens.astype(np.int32), 'mask': mask.astype(np.float32)}
  batch['reward'] = np.broadcast_to(np.asarray(reward, np.float32), lengths.shape)
  return {k: jnp.asarray(v) for k, v in batch.items()}


def run(batch, tokenizer=PLAIN, template=None, **options):
  annotate = score_rules.make(None, tokenizer, template=template, max_new=NEW, **options)
  return {k: np.asarray(v) for k, v in annotate({}, batch, jax.random.key(0)).items()}


def rollout():
  """Two groups of three: lengths, whether they end, and scores."""
  return batch_of([[3, 8, 6], [8, 8, 7]], [[1, 0, 1], [1, 0, 1]], [[0.7, 2, -1], [0.1, 0.5, 3]])


def test_without_a_rule_nothing_changes():
  batch = rollout()
  out = run(batch)
  np.testing.assert_array_equal(out['reward'], batch['reward'])
  np.testing.assert_array_equal(out['mask'], batch['mask'])
  np.testing.assert_allclose(out['log/missing_eos'], [1 / 3] * 2, rtol=1e-6)


def test_an_answer_that_does_not_end():
  scored = run(rollout(), missing_eos_score=-1.0)['reward']
  np.testing.assert_array_equal(scored, np.float32([[0.7, -1, -1], [0.1, -1, 3]]))
  less = run(rollout(), missing_eos_penalty=1.5)['reward']
  np.testing.assert_array_equal(less, np.float32([[0.7, 0.5, -1], [0.1, -1, 3]]))


def test_the_end_of_a_turn_is_an_end():
  tokenizer = Tokenizer.train(['a cat sat'] * 9, vocab_size=280, specials=['<|im_end|>'])
  batch = rollout()
  turn = tokenizer.special('<|im_end|>')
  batch['tokens'] = jnp.where(batch['tokens'] == EOS, turn, 99)
  out = run(batch, tokenizer, 'chatml', missing_eos_score=-9.0)
  np.testing.assert_array_equal(out['reward'] == -9, [[0, 1, 0], [0, 1, 0]])
  assert run(batch, tokenizer)['log/missing_eos'][0] == 1


def test_the_overlong_penalty_grows_inside_the_buffer():
  lengths = np.arange(1, NEW + 1)
  for buffer, weight in ((4, 1.0), (1, 2.0), (8, 0.5)):
    out = run(batch_of(lengths[None], 1, 0.7), overlong_buffer=buffer, overlong_weight=weight)
    over = np.maximum(lengths - (NEW - buffer), 0)
    wanted = 0.7 - weight * np.minimum(over, buffer) / buffer
    np.testing.assert_allclose(out['reward'][0], wanted, atol=1e-6)
    np.testing.assert_allclose(out['log/overlong'], (over > 0).mean(), rtol=1e-6)


def test_truncated_answers_do_not_train():
  """The lengths that TRL 1.16 leaves of a rollout with two answers that end."""
  theirs = json.loads((FIXTURES / 'rl_advantages.json').read_text())['adv_rollout']
  ends = np.zeros(8)
  ends[[3, 5]] = 1
  out = run(batch_of([[8, 8, 8, 2, 8, 6, 8, 8]], ends[None], 1.0), mask_truncated=True)
  np.testing.assert_array_equal(out['mask'][0].sum(-1), theirs['mask_trunc_lens'])
  np.testing.assert_array_equal(out['reward'][0], ends)


def test_clip_and_whiten_by_hand():
  reward = np.asarray(rollout()['reward'])
  clipped = np.clip(reward, -0.8, 0.8)
  np.testing.assert_array_equal(run(rollout(), clip=0.8)['reward'], clipped)
  group = (reward - reward.mean(1, keepdims=True)) / reward.std(1, ddof=1, keepdims=True)
  np.testing.assert_allclose(run(rollout(), whiten='group')['reward'], group, atol=1e-5)
  whole = (clipped - clipped.mean()) / clipped.std()
  out = run(rollout(), whiten='rollout', whiten_ddof=0, clip=0.8)
  np.testing.assert_allclose(out['reward'], whole, atol=1e-5)


def test_rules_in_the_order_of_the_arguments():
  out = run(rollout(), missing_eos_penalty=10.0, overlong_buffer=4, clip=1.5)
  # 2 - 10 - 1 and 0.5 - 10 - 1 are cut, 0.1 - 1 is not, 3 - 3/4 is.
  wanted = [[0.7, -1.5, -1.5], [-0.9, -1.5, 1.5]]
  np.testing.assert_allclose(out['reward'], wanted, atol=1e-6)
  masked = run(rollout(), mask_truncated=True, whiten='rollout')['reward']
  kept = np.array([[1, 0, 1], [1, 0, 1]], bool)
  assert not masked[~kept].any()
  assert masked[kept].mean() == pytest.approx(0, abs=1e-6)
  assert masked[kept].std(ddof=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
  'options',
  [
    {'missing_eos_score': -1.0, 'overlong_buffer': 3, 'whiten': 'group'},
    {'mask_truncated': True, 'clip': 1.0, 'whiten': 'rollout'},
  ],
)
def test_padding_fillers_and_unknown_scores_change_nothing(options):
  plain = run(rollout(), **options)
  more = {k: np.asarray(v) for k, v in rollout().items()}
  grow = lambda x: np.pad(x, ((0, 0), (0, 0), (3, 2))) if x.ndim == 3 else x
  more = {k: np.concatenate([grow(v), grow(v)]) for k, v in more.items()}
  more = {k: np.concatenate([v, v[:, :1]], 1) for k, v in more.items()}
  more['valid'] = np.ones((4, 4), np.float32)
  more['valid'][:, 3] = 0
  more['reward'][:, 3] = more['reward'][2:] = np.nan
  more['mask'][2:] = 0
  out = run({k: jnp.asarray(v) for k, v in more.items()}, **options)
  np.testing.assert_allclose(out['reward'][:2, :3], plain['reward'], atol=1e-5)
  assert not out['reward'][2:].any() and not out['reward'][:, 3].any()
  for name in (k for k in plain if k.startswith('log/')):
    np.testing.assert_allclose(out[name], plain[name][0], rtol=1e-6)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (
      {'missing_eos_score': -1.0, 'missing_eos_penalty': 1.0},
      'missing_eos_penalty is not used beside missing_eos_score; remove it',
    ),
    (
      {'mask_truncated': True, 'missing_eos_score': -1.0},
      'missing_eos_score is not used with mask_truncated',
    ),
    ({'overlong_weight': 1.0}, 'overlong_weight is not used without overlong_buffer'),
    ({'overlong_buffer': 9}, r'overlong_buffer 9; choose 1\.\.8, up to max_new'),
    ({'whiten_ddof': 0}, "whiten_ddof is not used with whiten 'none'"),
    ({'whiten': 'batch'}, "whiten 'batch'; choose from: none, group, rollout"),
    ({'clip': -1.0}, r'clip -1\.0; choose a number above 0'),
  ],
)
def test_bad_input(options, message):
  with pytest.raises(BadInput, match=message):
    run(rollout(), **options)
