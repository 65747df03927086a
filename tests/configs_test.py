"""Every config builds at every size it names, says only what its job knows, and trains."""

import importlib
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import sizes
from llm_jax import artifact
from llm_jax.find import find
from llm_jax.jobs import tokenize as tokenize_job
from llm_jax.jobs import train
from llm_jax.jobs.chain import chain, check_fields
from llm_jax.losses.logprobs import BLOCK_ELEMENTS
from llm_jax.main import read_config, run
from llm_jax.options import check
from llm_jax.training import metrics, optimizer

ROOT = Path(__file__).parents[1]
MODULES = {
  path.stem: importlib.import_module(f'configs.{path.stem}')
  for path in sorted((ROOT / 'configs').glob('*.py'))
}
# A config can be run by its size alone; the other files are what configs are made of. Recipes of
# pipelines are in jobs/pipeline_test.py.
CONFIGS = [
  name
  for name, module in MODULES.items()
  if hasattr(module, 'get_config')
  and all(
    p.name == 'size' and p.default is not p.empty
    for p in inspect.signature(module.get_config).parameters.values()
  )
]
SIZED = [(name, size) for name in CONFIGS for size in sizes.SIZES] + [('pretrain', 'story')]


def config_of(name, size='tiny'):
  return MODULES[name].get_config(size)


TRAINING = [name for name in CONFIGS if config_of(name).job == 'train']
# The others start from what a stage left: post_training_test.py and reinforcement_test.py in
# tests/jobs run each of them.
FROM_SCRATCH = ['pretrain']


def all_configs(c):
  """A config and those it requires."""
  return [c, *(inner for name in c.get('requires', ()) for inner in all_configs(c[name]))]


def test_there_are_configs_and_the_first_one_is_pretrain():
  assert {'pretrain', 'tokenize', 'sample'} <= set(CONFIGS)
  assert 'pretrain' in TRAINING and 'base' not in CONFIGS


@pytest.mark.parametrize('name', CONFIGS)
def test_the_default_size_is_the_smallest_and_an_unknown_one_is_refused(name):
  assert MODULES[name].get_config() == config_of(name, sizes.SIZES[0])
  # Those take what they name from a folder.
  if name not in ('sample', 'evaluate', 'best_of_n', 'chat', 'convert'):
    with pytest.raises(ValueError, match=r"no size '9z'; choose from: tiny, 15m"):
      config_of(name, '9z')


@pytest.mark.parametrize('name, size', SIZED)
def test_it_builds_and_names_a_job(name, size):
  for c in all_configs(config_of(name, size)):
    assert hasattr(find('jobs', c.job), 'main')
    assert json.loads(c.to_json_best_effort())
    for folder in ('workdir', 'artifact'):
      if folder in c:
        assert f'{c[folder]}/'.startswith(f'runs/{size}/')


@pytest.mark.parametrize('name, size', SIZED)
def test_groups_are_keywords_of_their_functions_and_stay_small(name, size):
  for c in all_configs(config_of(name, size)):
    for key, group in c.items():
      # A model's shape has as many fields as it takes, and a required job is a whole config.
      if isinstance(group, ConfigDict) and key != 'model' and 'job' not in group:
        assert len(group) < 10, f'{key} has {len(group)} keys'
    if c.job == 'tokenize':
      options = {k: v for k, v in c.to_dict().items() if k not in ('job', 'requires')}
      check(tokenize_job.tokenize, options, where='tokenize')
    if c.job == 'train':
      check(train.Fields, train.plain(c), where='config')
      check_fields(chain(c))
      check(optimizer.make, c.optimizer.to_dict(), where='optimizer', supplied=('total_steps',))


@pytest.mark.parametrize('name, size', [(n, s) for n, s in SIZED if n in TRAINING])
def test_the_numbers_of_a_training_config_go_together(name, size):
  c = config_of(name, size)
  model = artifact.build(c.model)
  assert c.batch_size % c.accumulate == 0
  assert c.total_steps >= c.eval_every
  assert c.total_steps > 2 * c.optimizer.warmup_steps
  # A resumed run should not lose more than a few percent of its work.
  assert c.checkpoint_every * 4 <= c.total_steps
  if 'tokenize' in c.requires:
    assert c.tokenize.tokenizer.vocab_size <= model.shape.vocab_size
    assert c.tokenize.length <= model.shape.max_length
    assert c.data.path == c.tokenize.workdir
    c.tokenize.workdir = 'elsewhere'
    assert c.data.path == 'elsewhere'  # the data follows the job that makes it
  assert model.shape.vocab_size <= BLOCK_ELEMENTS  # a block of logits is one column at least


def artifacts(group):
  """Every folder of a config that could be that of an artifact."""
  values = group.values() if isinstance(group, ConfigDict) else [group]
  inner = [folder for value in values if value is not group for folder in artifacts(value)]
  return [*inner, *(value for value in values if isinstance(value, str) and '/' in value)]


@pytest.mark.parametrize('name', TRAINING)
@pytest.mark.parametrize('loss', ['experiments.focal.loss', 'experiments/focal/loss.py'])
def test_the_loss_is_swapped_by_one_flag(name, loss, monkeypatch):
  monkeypatch.chdir(ROOT)
  words = [f'--config={name}', f'--config.loss.name={loss}', '--config.mesh.fsdp=1']
  c = read_config(['main', *words])
  train.check(c, coming=artifacts(config_of(name)))
  assert c.loss.to_dict() == {'name': loss}


def test_one_flag_names_the_text_of_the_story_and_another_its_folder():
  words = ['--config.text=my.txt', '--config.workdir=runs/mine', '--config.model.vocab_size=999']
  c = read_config(['main', '--config=configs/pretrain.py:story', *words])
  assert c.tokenize.sources.text == 'my.txt' and c.tokenize.tokenizer.vocab_size == 999
  assert c.data.path == c.tokenize.workdir == 'runs/mine/tokenize'


@pytest.mark.parametrize('size', sizes.SIZES)
def test_a_size_is_what_its_name_says(size):
  millions = artifact.build(sizes.model(size)).num_params() / 1e6
  named = {'tiny': 1.8} | {
    s: float(s[:-1]) * {'m': 1, 'b': 1000}[s[-1]] for s in sizes.SIZES if s != 'tiny'
  }
  assert millions == pytest.approx(named[size], rel=0.15)


def write_text(folder):
  words = ['the', 'cat', 'sat', 'on', 'a', 'mat', 'while', 'many', 'dogs', 'ran', 'home', 'at']
  draw = np.random.default_rng(0)
  path = folder / 'text.jsonl'
  texts = [' '.join(draw.choice(words, draw.integers(3, 30))) for _ in range(150)]
  path.write_text(''.join(json.dumps({'text': text}) + '\n' for text in texts))
  return path


def shrink(c, folder):
  """The same config with small numbers, below `folder`; what it requires is shrunk as well."""
  c.workdir = str(folder / Path(c.workdir).name)
  if c.job == 'tokenize':
    c.sources = ConfigDict({name: str(folder / 'text.jsonl') for name in c.sources})
    c.tokenizer.vocab_size, c.length, c.validation_fraction = 290, 16, 0.2
  if c.job == 'train':
    c.model.update(vocab_size=290, dim=16, num_layers=1, num_heads=2, max_length=64)
    c.total_steps = c.checkpoint_every = c.eval_every = 2
    c.batch_size = 4 * c.accumulate
    c.log_every = 1
    c.mesh.fsdp = 4
    c.sample.max_new = 4
    c.evals.validation.max_rows = 4
  for name in c.get('requires', ()):
    shrink(c[name], folder)


@pytest.mark.parametrize('name', FROM_SCRATCH)
def test_two_small_steps(name, tmp_path):
  write_text(tmp_path)
  c = config_of(name)
  shrink(c, tmp_path)
  run(c)
  found = metrics.read(c.workdir)
  losses = [r['loss'] for r in found if 'loss' in r]
  assert len(losses) == 2 and np.isfinite(losses).all()
  assert artifact.describe(c.workdir)['step'] == 2
