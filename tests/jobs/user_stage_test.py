"""A stage made of a user's own files: model, data, annotator, loss and reward, by their names."""

import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import best_of_n, plan
from llm_jax import artifact
from llm_jax.main import run
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.training import metrics, rollouts
from llm_jax.types import BadInput
from tests.configs_test import config_of
from tests.jobs.post_training_test import SHAPE, write_base

FILES = {
  'data': '''
"""Counting: a prompt asks for a number, and says how hard that is."""
import json
import numpy as np

WRITES = ('prompt', 'prompt_mask', 'gold', 'record')

class Rows:
  def __init__(self, tokenizer, size, columns):
    self.tokenizer, self.size, self.columns = tokenizer, size, columns

  def __len__(self):
    return self.size

  def __getitem__(self, i):
    if not 0 <= i < self.size:
      raise IndexError(i)
    ids = [self.tokenizer.bos_id, *self.tokenizer.encode(f'count {i % 7}')][-12:]
    row = {'prompt': np.zeros(12, np.int32), 'prompt_mask': np.zeros(12, np.int32)}
    row['prompt'][-len(ids):], row['prompt_mask'][-len(ids):] = ids, 1
    text = json.dumps({'prompt': f'count {i % 7}', 'level': i % 3})
    for name, data in (('gold', str(i % 7)), ('record', text)):
      row[name] = np.frombuffer(data.encode().ljust(48, b'\\0'), np.uint8)
    return row

def make(tokenizer, *, size: int = 16, split='train', columns=()):
  assert set(columns) == {'prompt', 'level'}, columns
  return Rows(tokenizer, size if split == 'train' else 4, columns)
''',
  'reward': '''
"""Short answers are good, the more so where it is hard."""

def reward(answer, gold, *, prompt, level, unit=4.0):
  assert prompt == f'count {gold}'
  return (1 + level) / (1 + len(answer) / unit)
''',
  'judge': '''
"""A judge that sees a whole batch, and has no opinion of empty answers."""

def rewards(answers, golds, *, level):
  assert len(answers) == len(golds) == len(level)
  return [None if not answer else 0.5 * l for answer, l in zip(answers, level)]
''',
  'advantage': '''
"""Rewards less their mean over the batch."""
import jax
import jax.numpy as jnp

READS = ('reward', 'mask')
WRITES = ('advantage', 'log/spread')

def make(model, tokenizer, *, scale: float = 1.0):
  @jax.jit
  def annotate(params, batch, rng):
    centred_BG = scale * (batch['reward'] - batch['reward'].mean())
    spread = jnp.broadcast_to(jnp.abs(centred_BG).max(), batch['reward'].shape[:1])
    advantage_BGL = centred_BG[..., None] * batch['mask']
    return {**batch, 'advantage': advantage_BGL, 'log/spread': spread}
  return annotate
''',
  'model': '''
"""The transformer, under a name of the user's."""
from llm_jax.models.transformer import make
''',
  'loss': '''
"""REINFORCE, without a word on what it reads."""
from llm_jax.losses.logprobs import score
from llm_jax.types import Mean

def loss_fn(params, batch, rng, *, model, weight: float = 1.0):
  logp_BGL = score(model, params, batch)
  loss = Mean.of(-weight * batch['advantage'] * logp_BGL, batch['mask'])
  return loss, {'surprise': Mean.of(-logp_BGL, batch['mask'])}
''',
}
NEW = 6


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """A folder with an untrained `base`, and the package `mine_whole` beside it."""
  import sys

  root = tmp_path_factory.mktemp('user_stage')
  folder = root / 'mine_whole'
  folder.mkdir()
  (folder / '__init__.py').write_text('')
  for name, source in FILES.items():
    (folder / f'{name}.py').write_text(source)
  texts = [f'count {i} level {j}' for i in range(9) for j in range(9)]
  write_base(
    root / 'base', Tokenizer.train(texts * 3, vocab_size=300), vocab_size=304, num_layers=1
  )
  sys.path.insert(0, str(root))
  yield root
  sys.path.remove(str(root))


def stage(root, workdir, **changes):
  c = config_of('grpo')
  c.workdir, c.init.params = str(root / workdir), str(root / 'base')
  c.model.update(SHAPE | dict(name='mine_whole.model', vocab_size=304, num_layers=1))
  c.data = ConfigDict(dict(name='mine_whole.data', size=16))
  c.annotate = ConfigDict(
    dict(
      steps=('sample', 'verify', 'mine_whole.advantage'),
      sample=dict(group=2, max_new=NEW, temperature=1.0),
      verify=dict(
        rewards=('mine_whole.reward', str(root / 'mine_whole' / 'judge.py')),
        options=dict(reward=dict(unit=8.0)),
      ),
      advantage=dict(scale=2.0),
    )
  )
  c.loss = ConfigDict(dict(name='mine_whole.loss', weight=0.5))
  c.total_steps, c.batch_size, c.accumulate = 3, 4, 1
  c.log_every, c.eval_every, c.checkpoint_every = 1, 2, 2
  c.optimizer.update(name='adamw', learning_rate=3e-3, warmup_steps=1)
  c.evals.validation.max_rows = 4
  c.mesh.fsdp = 1
  c.stop = ConfigDict(dict(surprise=50.0, spread=50.0))  # of the loss, and of the annotator
  c.update(changes)
  return c


@pytest.fixture(scope='module')
def trained(root):
  c = stage(root, 'whole')
  run(c)
  return c


def losses(c):
  return [r['loss'] for r in metrics.read(Path(c.workdir)) if 'loss' in r]


def test_it_trains_and_is_evaluated(trained):
  records = metrics.read(Path(trained.workdir))
  assert len(losses(trained)) == 3 and np.isfinite(losses(trained)).all()
  first = next(r for r in records if 'loss' in r)
  assert {'surprise', 'spread', 'reward', 'reward_reward', 'reward_judge', 'length'} <= set(first)
  assert first['reward'] == pytest.approx(first['reward_reward'] + first['reward_judge'], rel=1e-5)
  assert any('validation/surprise' in r for r in records)
  said = rollouts.read(trained.workdir)
  assert {r['gold'] for r in said} <= {str(i) for i in range(7)}
  assert artifact.describe(trained.workdir)['step'] == 3


def test_it_resumes_where_it_was_killed(root, trained):
  half = stage(root, 'resumed', total_steps=3)
  import llm_jax.jobs.train as job
  from llm_jax.training.loop import Interrupted

  fit, raised = job.fit, []

  def stop_after_two(*args, hooks, **options):
    def stop(step, state, measured):
      if step == 2:
        raised.append(step)
        raise Interrupted('killed')

    return fit(*args, hooks=(*hooks, stop), **options)

  job.fit = stop_after_two
  try:
    with pytest.raises(Interrupted):
      run(half)
  finally:
    job.fit = fit
  run(half)
  assert raised == [2] and losses(half) == losses(trained)


def test_it_is_planned(root, tmp_path):
  c = plan.get_config('tiny')
  c.train = stage(root, 'planned')
  c.hardware, c.compile, c.output = 'h100:8', False, str(tmp_path / 'plan.json')
  c.length, c.train.batch_size = 18, 64
  run(c)
  assert json.loads(Path(c.output).read_text())['parameters'] > 0


def test_its_model_is_asked_for_the_best_of_n(root, trained):
  c = best_of_n.get_config()
  c.artifact, c.workdir = trained.workdir, str(root / 'best')
  c.data = trained.data
  c.annotate = ConfigDict(
    dict(
      steps=('sample', 'verify'),
      sample=dict(group=3, max_new=NEW),
      verify=dict(rewards=('mine_whole.reward',)),
    )
  )
  c.batch_size, c.max_prompts, c.mesh.fsdp = 4, 8, 1
  with pytest.raises(BadInput, match=r"whole' names 'mine_whole.model'.* add --config.trust="):
    run(c)
  c.trust = ('mine_whole.model',)
  run(c)
  lines = [json.loads(s) for s in (root / 'best' / 'answers.jsonl').read_text().splitlines()]
  assert len(lines) == 8 and all(len(line['candidates']) == 3 for line in lines)


def test_it_is_reported_on(root, trained):
  rollouts = dict(name='rollout', max_rows=4, batch_size=4)
  rollouts['data'] = dict(name='mine_whole.data', size=4)
  rollouts['annotate'] = dict(
    steps=('sample', 'verify'),
    sample=dict(group=2, max_new=NEW),
    verify=dict(rewards=('mine_whole.reward',)),
  )
  c = ConfigDict(dict(job='pipeline', workdir=str(root), stages=('whole',), seed=0, stale='keep'))
  c.only, c.start, c.mesh, c.whole = 'report', '', dict(data=1, fsdp=1, tensor=1), trained
  c.report = dict(evals=dict(rollouts=rollouts), columns=(('rollouts/reward', 'mine'),))
  run(c)
  found = json.loads((root / 'report.json').read_text())['stages']['whole']
  assert found['loss'] == 'mine_whole.loss' and found['steps'] == 3
  reward = found['metrics']['rollouts/reward']
  assert f'| mine | {reward:.3f} |' in (root / 'report.md').read_text() and reward > 0


def test_a_first_step_that_fails_leaves_nothing_in_the_way(root):
  c = stage(root, 'failing')
  (root / 'mine_whole' / 'explodes.py').write_text(
    'def make(model, tokenizer):\n'
    '  def annotate(params, batch, rng):\n'
    "    raise RuntimeError('a mistake of the user')\n"
    '  return annotate\n'
  )
  c.annotate.steps = (*c.annotate.steps, 'mine_whole.explodes')
  with pytest.raises(RuntimeError, match='a mistake of the user'):
    run(c)
  run(stage(root, 'failing', total_steps=2))  # another config, in the same folder
  assert len(losses(c)) == 2
