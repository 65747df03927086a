"""Every stage that learns from its own answers, from an untrained model and with small numbers."""

import functools
import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from llm_jax import artifact
from llm_jax.main import run
from llm_jax.parallel.mesh import make_mesh
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.training import metrics, rollouts
from llm_jax.training.loop import Interrupted
from tests.configs_test import TRAINING, config_of
from tests.jobs.post_training_test import NUMBERS, SHAPE, write_base

GROUPED = ('grpo', 'dr_grpo', 'dapo', 'gspo', 'cispo', 'rloo')
STAGES = (*GROUPED, 'reinforce_plus_plus', 'ppo', 'rejection', 'on_policy_distill')
# As many rows as the tokenizer has words: the sampler and the trainer see the same distribution.
SMALL = {k: v for k, v in SHAPE.items() if k != 'name'} | dict(vocab_size=310, num_layers=1)
STEPS, NEW = 3, 8

# What each stage has to say of itself beside its loss.
ANSWERS = {'length', 'eos_rate', 'truncated', 'repetition', 'entropy', 'response_length'}
ANSWERS |= {'trained_tokens', 'grad_norm'}
JUDGED = ANSWERS | {'reward', 'reward_std'}
ADVANTAGES = {'advantage_mean', 'advantage_std', 'advantage_max'}
POLICY = ADVANTAGES | {'ratio_max', 'policy_kl', 'mismatch'}
CLIPPED = POLICY | {'clip_low', 'clip_high'}
PENALISED = {'answer_kl', 'answer_kl_k3', 'kl_coefficient', 'kl', 'kl_k3', 'return_mean'}
SAID = {
  **{name: JUDGED | CLIPPED | {'verify_failed', 'zero_variance'} for name in GROUPED},
  'cispo': JUDGED | POLICY | {'verify_failed', 'zero_variance', 'clip_high'},
  'reinforce_plus_plus': JUDGED | CLIPPED | PENALISED | {'verify_failed'},
  'ppo': JUDGED | CLIPPED | PENALISED
  | {'explained_variance', 'value_mean', 'value', 'value_loss', 'value_clip_fraction'}
  | {'policy_loss'},
  'rejection': JUDGED | {'verify_failed', 'kept', 'best_reward', 'best_gain'},
  'on_policy_distill': ANSWERS | {'teacher_kept', 'cross_entropy'},
}  # fmt: skip
SAID['dapo'] |= {'acceptance', 'missing_eos', 'overlong'}


def test_every_config_that_samples_is_run_here():
  sampling = {name for name in TRAINING if 'sample' in config_of(name).annotate.steps}
  assert sampling == {*STAGES}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """A folder with questions, an untrained `base`, a smaller `student` and a `judge`."""
  root = tmp_path_factory.mktemp('reinforcement')
  asked = [f'{a} and {b}, item {i}' for i in range(2) for a in NUMBERS for b in NUMBERS]
  records = [{'prompt': text, 'answer': text.split()[0]} for text in asked]
  (root / 'questions.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in records))
  tokenizer = Tokenizer.train(['user assistant', *asked] * 4, vocab_size=310)
  for name, changes in dict(base={}, student=dict(dim=8), judge=dict(head='scalar')).items():
    write_base(root / name, tokenizer, **SMALL | changes)
  return root


def stage(root, workdir, name):
  """A stage's config on the questions, with everything made small."""
  c = config_of(name)
  c.workdir = str(workdir)
  if name == 'ppo':
    c.init.policy, c.init.critic = str(root / 'base'), str(root / 'judge')
    c.model.policy.update(SMALL)
    c.model.critic.update(SMALL)
    c.annotate.reward_model.path = str(root / 'judge')
    c.annotate.kl_reward.horizon = 20.0
  else:
    c.init.params = str(root / 'base')
    c.model.update(SMALL)
  if name == 'on_policy_distill':
    c.model.dim, c.init.params = 8, str(root / 'student')
    c.annotate.teacher.update(path=str(root / 'base'), top_k=16)
  if 'verify' in c.annotate.steps:
    # Any answer is worth something, so that groups differ; short ones are worth 1.
    c.annotate.verify.rewards = ('length',)
    c.annotate.verify.options = ConfigDict(dict(length=dict(limit=5, buffer=10, unit='characters')))
  if name == 'rejection':
    c.annotate.keep_best.minimum = 0.5  # which most groups reach
  if 'score_rules' in c.annotate.steps:
    c.annotate.score_rules.overlong_buffer = NEW // 2
  c.annotate.sample.max_new = NEW
  if 'group' in c.annotate.sample and name != 'reinforce_plus_plus':
    c.annotate.sample.group = 4
  c.data.sources = ConfigDict({'mine': str(root / 'questions.jsonl')})
  c.data.length, c.data.validation_fraction = 40, 0.2
  c.total_steps, c.batch_size, c.accumulate = STEPS, 4, 1
  c.log_every, c.eval_every, c.checkpoint_every = 1, STEPS, STEPS
  if name == 'ppo':
    c.total_steps = c.eval_every = c.checkpoint_every = 4
  c.optimizer.update(name='adamw', learning_rate=3e-3, warmup_steps=1)
  c.evals.validation.max_rows = 6
  c.mesh.fsdp = 1
  c.stop = ConfigDict()
  return c


def records(c):
  return [r for r in metrics.read(c.workdir) if 'loss' in r]


def params_of(path):
  return jax.device_get(artifact.load(path, make_mesh(data=1)).params)


@pytest.fixture(scope='module')
def finished(root):
  """Name -> the config of a stage that has run."""

  @functools.cache
  def of(name):
    c = stage(root, root / 'runs' / name, name)
    run(c)
    return c

  return of


@pytest.mark.parametrize('name', STAGES)
def test_a_stage_runs_and_says_what_it_must(finished, name):
  c = finished(name)
  found = records(c)
  assert len(found) == c.total_steps
  for record in found:
    assert SAID[name] <= set(record), SAID[name] - set(record)
    assert np.isfinite([record[k] for k in ('loss', *SAID[name])]).all(), record
  (validation,) = [r for r in metrics.read(c.workdir) if 'validation/loss' in r]
  assert SAID[name] - {'grad_norm', 'acceptance'} <= {
    k.removeprefix('validation/') for k in validation
  }
  first = found[0]
  if 'ratio_max' in SAID[name]:  # the first update is made where the answers come from
    assert abs(first['ratio_max'] - 1) < 1e-4 and abs(first['policy_kl']) < 1e-5
    assert first['mismatch'] < 1e-4
  if 'answer_kl' in SAID[name]:
    assert abs(first['answer_kl']) < 1e-5 < found[-1]['answer_kl_k3']
  if 'verify' in c.annotate.steps:
    assert first['verify_failed'] == 0 and 0 < first['reward'] < 1 and first['reward_std'] > 0
  if name == 'rejection':
    assert first['kept'] > 0.5 and first['best_reward'] > first['reward']
  said = rollouts.read(c.workdir)
  assert {r['step'] for r in said} == {r['step'] for r in found}
  assert all(r['prompt'] and r['length'] <= NEW for r in said)

  source = c.init.get('params', c.init.get('policy'))
  about = artifact.describe(c.workdir)
  assert about['parent'] == source and about['step'] == c.total_steps
  before, after = params_of(source), params_of(c.workdir)
  moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), before, after)  # the same tree
  assert any(jax.tree.leaves(moved))


def test_ppo_publishes_only_the_policy_and_uses_a_rollout_twice(finished):
  c = finished('ppo')
  about, found = artifact.describe(c.workdir), records(c)
  assert about['model']['name'] == 'transformer' and 'critic' not in about['model']
  assert c.rollout.minibatches == 2
  for one, two in (found[:2], found[2:]):
    same = ('reward', 'answer_kl', 'kl_coefficient', 'length', 'advantage_std')
    assert [one[k] for k in same] == [two[k] for k in same]
    assert two['ratio_max'] > one['ratio_max'] > 0
  # Far below its target: 8 answers of a horizon of 20 make it 0.2 * 8 / 20 smaller.
  first = c.annotate.kl_reward.coefficient
  np.testing.assert_allclose(found[2]['kl_coefficient'], first * (1 - 0.2 * 8 / 20), rtol=1e-5)


def test_a_run_stops_where_answers_loop_and_publishes_nothing(root, tmp_path):
  c = stage(root, tmp_path / 'run', 'grpo')
  c.annotate.sample.temperature = 0.01  # an untrained model repeats itself
  c.stop.repetition = 0.1
  with pytest.raises(Interrupted) as error:
    run(c)
  message = str(error.value)
  assert 'repetition' in message and 'of steps 1 to 1 exceeds config.stop.repetition 0.1' in message
  assert 'no checkpoint from before' in message
  assert not (tmp_path / 'run' / artifact.FILE).exists()


def test_a_run_that_stops_publishes_the_checkpoint_from_before(root, tmp_path, capsys):
  c = stage(root, tmp_path / 'run', 'reinforce_plus_plus')
  c.checkpoint_every = 1
  c.stop.answer_kl_k3 = 1e-6  # 0 at the first step, where the policy is its reference
  run(c)
  assert [r['step'] for r in records(c)][:2] == [1, 2]
  said = capsys.readouterr().out
  assert 'answer_kl_k3' in said and 'publishing step 1, the last checkpoint from before' in said
  assert artifact.describe(c.workdir)['step'] == 1
  told = [r for r in metrics.read(c.workdir) if 'validation/reward' in r]
  assert told[-1]['step'] == 1  # what is published is evaluated, whenever that was due
