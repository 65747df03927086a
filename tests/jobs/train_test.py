"""The job end to end on a tiny text, and everything a user can get wrong, told before compiling."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import pretrain
from configs import sample as sample_config
from llm_jax import artifact
from llm_jax.files import read_json
from llm_jax.jobs import start, train
from llm_jax.main import run
from llm_jax.parallel.mesh import make_mesh
from llm_jax.training import metrics
from llm_jax.training.loop import Interrupted, fit
from llm_jax.training.metrics import Diverged
from llm_jax.types import BadInput
from tests import processes
from tests.lock_test import HOLD

WORDS = [
  'the',
  'cat',
  'sat',
  'on',
  'a',
  'mat',
  'while',
  'many',
  'dogs',
  'ran',
  'home',
  'at',
  'noon',
]


def write_text(path, count=150):
  draw = np.random.default_rng(0)
  texts = [' '.join(draw.choice(WORDS, draw.integers(3, 30))) for _ in range(count)]
  path.write_text(''.join(json.dumps({'text': text}) + '\n' for text in texts))
  return path


def tiny(folder, source):
  """configs/pretrain.py with everything made small; it still tokenizes first."""
  c = pretrain.get_config('tiny')
  c.workdir = str(folder / 'run')
  c.tokenize.workdir = str(folder / 'tokens')
  c.tokenize.sources = ConfigDict(dict(text=str(source)))
  c.tokenize.validation_fraction = 0.2
  c.tokenize.tokenizer.vocab_size = 290
  c.tokenize.length = 16
  c.model.update(vocab_size=290, dim=16, num_layers=2, num_heads=2, max_length=32)
  c.compute.scan_layers = True
  c.total_steps, c.batch_size, c.accumulate = 4, 8, 1
  c.log_every, c.eval_every, c.checkpoint_every = 1, 2, 2
  c.optimizer.update(name='adamw', learning_rate=3e-3, warmup_steps=1)
  c.evals.validation.max_rows = 8
  c.sample.prompts, c.sample.max_new = ('the cat',), 4
  c.mesh.fsdp = 1
  return c


@pytest.fixture(scope='module')
def base(tmp_path_factory):
  """A folder in which `tiny` has run: tokens/ and run/. Not to be written to."""
  folder = tmp_path_factory.mktemp(str(base))
  run(tiny(folder, write_text(folder / 'text.jsonl')))
  return folder


@pytest.fixture
def config(base, tmp_path):
  """A new run on the data of `base`."""
  c = tiny(base, base / 'text.jsonl')
  c.workdir = str(tmp_path / 'run')
  c.sample.prompts = ()
  return c


def records(c):
  return metrics.read(c.workdir)


def losses(c):
  return [r['loss'] for r in records(c) if 'loss' in r]


def params_of(folder):
  return jax.device_get(artifact.load(folder, make_mesh(data=1)).params)


def assert_equal(first, second):
  jax.tree.map(np.testing.assert_array_equal, first, second)


def test_what_a_run_leaves(base):
  folder = base / 'run'
  about = artifact.describe(folder)
  assert (about['step'], about['stage'], about['parent']) == (4, 'pretrain', None)
  assert about['config']['optimizer']['learning_rate'] == 3e-3
  assert 'tokenize' not in about['config']  # a config of its own, in its own folder
  told = read_json(folder / 'config.json', '')
  assert told == about['config'] | {'compute': {'scan_layers': True}}
  assert {p.name for p in folder.iterdir()} >= {
    'params', 'artifact.json', 'tokenizer', 'metrics.jsonl', 'config.json', 'loss.png',
  }  # fmt: skip
  assert artifact.load(folder, make_mesh(fsdp=8)).model.shape.dim == 16


def test_what_a_run_records(base):
  found = metrics.read(base / 'run')
  assert [r['step'] for r in found if 'loss' in r] == [1, 2, 3, 4]
  assert [r['step'] for r in found if 'validation/loss' in r] == [2, 4]
  first, later = found[0], found[1]
  common = {'step', 'loss', 'grad_norm', 'skipped', 'learning_rate', 'total_tokens', 'total_flops'}
  assert set(first) == common | {'seconds_to_first_step'}
  speed = {'tokens_per_second', 'flops_per_second', 'data_wait'}
  assert set(later) == common | speed
  assert later['total_tokens'] == 2 * first['total_tokens'] > 0
  assert later['tokens_per_second'] > 0
  (held, *_) = [r for r in found if 'validation/loss' in r]
  assert set(held) == {'step', 'validation/loss', 'validation/bits_per_byte'}
  assert 4 < first['loss'] < 7  # about ln 290
  assert found[-2]['loss'] < first['loss'] or found[-1]['validation/loss'] < first['loss']


def test_a_benchmark_is_asked_while_a_model_trains(config, tmp_path):
  quiz = [{'context': f'the {word}', 'choices': ['cat', 'dogs'], 'gold': 0} for word in WORDS[:5]]
  lines = [json.dumps(one) for one in ({'task': {'chance': 0.5}}, *quiz)]
  (tmp_path / 'quiz.jsonl').write_text('\n'.join(lines))
  config.evals.quiz = dict(name='task', task=str(tmp_path / 'quiz.jsonl'), path='', every=4)
  run(config)
  (asked,) = (r for r in records(config) if 'quiz/acc' in r)
  assert asked['step'] == 4 and asked['quiz/questions'] == 5 and 0 <= asked['quiz/acc'] <= 1
  config.evals.exam = dict(name='task', task='arc_easy', path=str(tmp_path))
  config.workdir = str(tmp_path / 'other')
  with pytest.raises(BadInput, match=r'^evals\.exam: arc_easy: no file of its split'):
    run(config)
  assert not (tmp_path / 'other').exists()


def test_a_finished_run_returns_at_once(base, monkeypatch, capsys):
  monkeypatch.setattr(train, '_train', None)
  c = tiny(base, base / 'text.jsonl')
  run(c)
  told = capsys.readouterr().out
  assert f'{c.workdir} is finished' in told and f'--config.artifact={c.workdir}' in told
  c.seed = 1
  with pytest.raises(BadInput, match='seed = 0, not 1'):
    run(c)


def test_samples_are_shown_while_it_trains(config, capsys):
  config.sample.prompts = ('the cat', 'a mat')
  run(config)
  told = capsys.readouterr().out
  shown = [line for line in told.splitlines() if line.startswith('  | ')]
  assert shown[0].startswith('  | the cat')
  assert sum(line.startswith('  | a mat') for line in shown) >= 2  # one at each evaluation
  assert 'pretrain: 0.0' in told and 'pretrain finished in 0:' in told


def test_the_sample_job_prints_prompts_with_their_continuations(base, capsys):
  c = sample_config.get_config()
  c.artifact, c.prompts, c.sample.max_new = str(base / 'run'), ('the cat', 'noon'), 4
  run(c)
  first = capsys.readouterr().out
  assert first.startswith('the cat') and '\nnoon' in first
  c.mesh = ConfigDict(dict(fsdp=1))
  run(c)
  assert capsys.readouterr().out == first  # on one device as on eight
  c.prompts = ()
  with pytest.raises(BadInput, match='no prompts'):
    run(c)
  c.prompts, c.artifact = ('a',), str(base / 'nowhere')
  with pytest.raises(BadInput, match=r'no folder .*nowhere'):
    run(c)


def test_devices_and_accumulation_change_nothing(base, config):
  config.accumulate = 2
  config.mesh = ConfigDict(dict(data=2, fsdp=2, tensor=2))
  run(config)
  alone = tiny(base, base / 'text.jsonl')
  np.testing.assert_allclose(losses(config), losses(alone), rtol=1e-5)


# What else a config can ask for


def test_a_loss_of_the_user(config, tmp_path, monkeypatch):
  folder = tmp_path / 'my_train_test'
  folder.mkdir()
  (folder / 'focal.py').write_text(
    'import jax.numpy as jnp\n'
    'from llm_jax.losses.logprobs import score\n'
    'from llm_jax.types import Mean\n'
    'def loss_fn(params, batch, rng, *, model, gamma=2.0):\n'
    '  logp = score(model, params, batch)\n'
    "  plain = Mean.of(-logp, batch['mask'])\n"
    "  return Mean.of(-(1 - jnp.exp(logp)) ** gamma * logp, batch['mask']), {'plain': plain}\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  config.loss = ConfigDict(dict(name='my_train_test.focal', gamma=4.0))
  config.total_steps = 2
  run(config)
  first = records(config)[0]
  assert 0 < first['loss'] < first['plain']


def test_masked_language_model(config):
  config.model.causal = False
  config.annotate.steps = ('mask_tokens',)
  config.annotate.mask_tokens = ConfigDict(dict(fraction=0.3))
  config.sample.prompts = ('the cat',)  # passed over: such a model cannot continue
  run(config)
  found = [r['validation/bits_per_byte'] for r in records(config) if 'validation/loss' in r]
  assert len(found) == 2 and all(np.isfinite(found))
  c = sample_config.get_config()
  c.artifact = config.workdir
  with pytest.raises(BadInput, match='masked language model'):
    run(c)


def test_a_run_starts_from_an_artifact(base, config):
  config.init.params = str(base / 'run')
  config.optimizer.learning_rate = 0.0
  config.total_steps = 1
  run(config)
  assert_equal(params_of(config.workdir), params_of(base / 'run'))
  assert artifact.describe(config.workdir)['parent'] == str(base / 'run')


def test_a_run_from_an_artifact_on_more_devices_and_with_a_fresh_head(base, config):
  config.init.params = str(base / 'run')
  config.init.fresh = ('head',)
  config.model.head = 'untied'
  config.mesh = ConfigDict(dict(data=2, fsdp=2, tensor=2))
  config.optimizer.learning_rate, config.total_steps = 0.0, 1
  run(config)
  made, donor = params_of(config.workdir), params_of(base / 'run')
  assert made.pop('head')['kernel'].std() > 0.1
  assert_equal(made, donor)


def test_evaluations_have_keys_steps_and_rows_of_their_own(config, tmp_path):
  questions = [{'question': f'{i}?', 'answer': 'x'} for i in range(3)]
  (tmp_path / 'asked.jsonl').write_text(''.join(json.dumps(q) + '\n' for q in questions))
  sources, data = dict(mine=str(tmp_path / 'asked.jsonl')), dict(path=config.data.path)
  config.evals.update(
    validation=ConfigDict(dict(name='')),
    asked=dict(name='answers', every=3, sources=sources, scores=('same_text',), max_new=2),
    text=dict(name='perplexity', data=dict(name='packed', split='train', **data), max_rows=4),
  )
  config.model.max_length = 64
  run(config)
  found = [(r['step'], key) for r in records(config) for key in r if '/' in key]
  assert found == [
    (2, 'text/loss'), (2, 'text/bits_per_byte'), (3, 'asked/mine/same_text'),
    (4, 'asked/mine/same_text'), (4, 'text/loss'), (4, 'text/bits_per_byte'),
  ]  # fmt: skip


def test_publish_best_takes_the_checkpoint_with_the_lowest_validation_loss(config):
  # A rate so high that validation gets worse after the first evaluation.
  config.publish, config.total_steps, config.eval_every = 'best', 6, 1
  config.checkpoint_every, config.max_to_keep = 1, 1
  config.optimizer.update(learning_rate=0.7, schedule='constant')
  run(config)
  held = {r['step']: r['validation/loss'] for r in records(config) if 'validation/loss' in r}
  best = min(held, key=held.get)
  assert best != 6  # else this test shows nothing
  assert artifact.describe(config.workdir)['step'] == best


def test_the_average_is_what_is_evaluated_and_published(config, tmp_path):
  config.optimizer.update(ema=0.999999, learning_rate=0.01)  # it stays about where it began
  config.model.induction_heads = 0  # whose biases are so large that roundings exceed 1e-6
  run(config)
  held = [r['validation/loss'] for r in records(config) if 'validation/loss' in r]
  assert held[0] == pytest.approx(held[1], abs=1e-5) and len(set(losses(config))) == 4
  model = artifact.build(config.model)
  fresh = jax.jit(lambda: model.init(jax.random.key(config.seed), jnp.zeros((1, 1), jnp.int32)))()
  same = functools.partial(np.testing.assert_allclose, atol=1e-6)
  jax.tree.map(same, params_of(config.workdir), jax.device_get(fresh))


def test_a_run_whose_updates_are_all_skipped_stops(config, tmp_path, monkeypatch):
  folder = tmp_path / 'my_nan_test'
  folder.mkdir()
  (folder / 'loss.py').write_text(
    'from llm_jax.losses import cross_entropy\n'
    'from llm_jax.types import Mean\n'
    'def loss_fn(params, batch, rng, *, model):\n'
    '  loss, _ = cross_entropy.loss_fn(params, batch, rng, model=model)\n'
    "  return Mean(loss.total * float('nan'), loss.count), {}\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  config.loss.name = 'my_nan_test.loss'
  config.total_steps, config.eval_every, config.checkpoint_every = 50, 50, 50
  with pytest.raises(Diverged, match='10 updates in a row'):
    run(config)
  assert not (Path(config.workdir) / artifact.FILE).exists()


@pytest.mark.parametrize(
  ('number', 'last'), [(signal.SIGTERM, 3), (signal.SIGINT, 2), (signal.SIGTERM, 4)]
)
def test_a_signal_saves_the_step_and_the_same_config_goes_on(
  base, config, monkeypatch, number, last
):
  """At 2 and 4 an evaluation is due, which is left to the run that goes on."""

  def fit_and_interrupt(*args, hooks, **options):
    ask = lambda step, state, metrics: step == last and os.kill(os.getpid(), number)
    return fit(*args, hooks=(ask, *hooks), **options)

  config.checkpoint_every = 100
  monkeypatch.setattr(train, 'fit', fit_and_interrupt)
  before = signal.getsignal(number)
  with pytest.raises(Interrupted, match=rf'{number.name}: saved step {last} in .*command again'):
    run(config)
  assert signal.getsignal(number) == before
  assert [r['step'] for r in records(config) if 'loss' in r] == [1, 2, 3, 4][:last]
  assert not any(r['step'] == last for r in records(config) if 'validation/loss' in r)
  monkeypatch.setattr(train, 'fit', fit)
  run(config)
  assert losses(config) == losses(whole := tiny(base, base / 'text.jsonl'))
  held = lambda c: [(r['step'], r['validation/loss']) for r in records(c) if 'validation/loss' in r]
  assert held(config) == held(whole)
  assert_equal(params_of(config.workdir), params_of(base / 'run'))


def test_a_second_process_is_refused(config):
  with subprocess.Popen(
    [sys.executable, '-c', HOLD, config.workdir],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
  ) as other:  # fmt: skip
    assert other.stdout.readline() == 'held\n'
    with pytest.raises(BadInput, match=f'process {other.pid} on .* is at work there'):
      run(config)
    other.kill()
  run(config)


@pytest.mark.parametrize('lost', [('loss', 'validation/loss'), ('loss',)])
def test_without_any_finite_loss_nothing_is_published(lost, base, config, monkeypatch, tmp_path):
  write = metrics.Log.write
  lose = lambda record: {k: np.nan if k in lost else v for k, v in record.items()}
  monkeypatch.setattr(metrics.Log, 'write', lambda log, record: write(log, lose(record)))
  for _ in range(2):  # the same command again says the same
    with pytest.raises(Diverged, match='no loss of this run is finite, so nothing is published'):
      run(config)
    assert not {'artifact.json', 'params'} & {p.name for p in (tmp_path / 'run').iterdir()}


# What a user can get wrong


@pytest.fixture
def compiled(monkeypatch):
  """The names of what was compiled or run on a device for training."""
  calls = []
  for module, name in ((train, 'compile_step'), (start, 'make_state'), (start, 'start_state')):
    monkeypatch.setattr(module, name, lambda *args, name=name, **kwargs: calls.append(name))
  return calls


def refused(c, compiled, *parts):
  """`run(c)` says all of `parts` in one line, before compiling, and leaves no workdir behind."""
  there = Path(c.workdir).exists()
  with pytest.raises(BadInput) as error:
    run(c)
  message = str(error.value)
  assert '\n' not in message
  for part in parts:
    assert part in message
  assert compiled == []
  assert Path(c.workdir).exists() == there


@pytest.mark.parametrize(
  'changes, parts',
  [
    (dict(totl_steps=3), ["unknown field 'totl_steps'", "did you mean 'total_steps'"]),
    (dict(total_steps=0), ['total_steps 0']),
    (dict(batch_size=0), ['batch_size 0']),
    (dict(checkpoint_every=0), ['checkpoint_every 0']),
    (dict(max_to_keep=0), ['max_to_keep 0']),
    (dict(batch_size=6, mesh=dict(data=2, fsdp=2)), ['batch_size 6', '1 * 4', 'use 4 or 8']),
    (dict(batch_size=2, mesh=dict(fsdp=8)), ['batch_size 2', 'use 8']),
    (dict(batch_size=6, accumulate=4), ['batch_size 6', '4 * 1', 'use 4 or 8']),
    (dict(mesh=dict(data=16)), ['needs 16 devices', 'there are 8']),
    (dict(mesh=dict(fdsp=2)), ["'fdsp'"]),
    (dict(model=dict(max_length=8)), ['data.length 16', 'max_length 8']),
    (dict(model=dict(vocab_size=280)), ['vocab_size 280', "tokenizer's 290"]),
    (dict(model=dict(dimm=8)), ["'dimm'", "did you mean 'dim'"]),
    (dict(model=dict(name='transfomer')), ["did you mean 'transformer'"]),
    (dict(model=dict(num_kv_heads=3)), ['num_heads 2', 'num_kv_heads 3']),
    (dict(loss=dict(z_los=1e-4)), ["loss: unknown option 'z_los'", "did you mean 'z_loss'"]),
    (dict(loss=dict(name='cross_entrpy')), ["did you mean 'cross_entropy'"]),
    (dict(loss=dict(name='logprobs')), ['loss', 'logprobs']),  # in the folder, and no loss
    (dict(loss=dict(name='nowhere.loss')), ["no module 'nowhere.loss'"]),
    (dict(data=dict(name='paked')), ["did you mean 'packed'"]),
    (dict(data=dict(lenght=16)), ["did you mean 'length'"]),
    (dict(data=dict(length=32)), ['data.length 32', '16 tokens']),
    (dict(optimizer=dict(name='adam')), ["did you mean 'adamw'"]),
    (dict(optimizer=dict(schedule='cosin')), ["did you mean 'cosine'"]),
    (dict(optimizer=dict(learnig_rate=1.0)), ["did you mean 'learning_rate'"]),
    (dict(annotate=dict(steps=('mask_tokens',))), ['model.causal=False']),
    (dict(annotate=dict(steps=('mask_token',))), ["did you mean 'mask_tokens'"]),
    (dict(annotate=dict(mask_tokens=dict(fraction=0.2))), ['annotate', 'mask_tokens']),
    (dict(evals=dict(validation=dict(max_row=3))), ["did you mean 'max_rows'"]),
    (dict(sample=dict(prompts=('a',), max_new=100)), ['max_new 100', '32 positions']),
    (dict(sample=dict(prompts=('a',), temprature=1.0)), ["did you mean 'temperature'"]),
    (dict(init=dict(params='runs/nowhere')), ["no folder 'runs/nowhere'"]),
    (dict(publish='bets'), ["'bets'", 'best']),
  ],
  ids=lambda value: json.dumps(value) if isinstance(value, dict) else '',
)
def test_options_that_cannot_work(config, compiled, changes, parts):
  for name, value in changes.items():
    if isinstance(value, dict):
      config[name].update(ConfigDict(value))
    else:
      config[name] = value
  refused(config, compiled, *parts)


def test_a_missing_group_name_is_named(config, compiled):
  del config.loss['name']
  refused(config, compiled, 'loss')


def text_config(tmp_path, text):
  path = tmp_path / 'text.jsonl'
  if text is not None:
    path.write_text(text)
  return tiny(tmp_path, path)


@pytest.mark.parametrize(
  'text, parts',
  [
    (None, ['text.jsonl', 'no such file']),
    ('', ['text.jsonl', 'empty']),
    ('{"text": "one"}\n{"txt": "two"}\n', ['text.jsonl, line 2', "'text'"]),
    ('{"text": "one"}\n{"text": 2}\n', ['text.jsonl, line 2', 'not a string']),
    ('{"text": "one"}\nnot json\n', ['text.jsonl, line 2', 'not JSON']),
    ('{"text": "one"}\n', ['vocab_size 290', 'more than this text can fill']),
  ],
)
def test_text_that_cannot_be_read(tmp_path, compiled, text, parts):
  refused(text_config(tmp_path, text), compiled, *parts)


def test_text_can_be_corrected_in_place(base, tmp_path):
  c = text_config(tmp_path, '{"txt": "one"}\n')
  with pytest.raises(BadInput, match='line 1'):
    run(c)
  shutil.copy(base / 'text.jsonl', tmp_path)
  c.total_steps = 1
  c.sample.prompts = ()
  run(c)


def test_no_validation_text(base, tmp_path, compiled):
  c = tiny(tmp_path, base / 'text.jsonl')
  c.tokenize.validation_fraction = 0.0
  refused(c, compiled, 'validation')


def test_data_that_was_not_tokenized(config, compiled, tmp_path):
  config.requires = ()
  del config['tokenize']
  config.data.path = str(tmp_path / 'nowhere')
  refused(config, compiled, 'nowhere', 'configs/tokenize.py')


def test_the_workdir_of_another_run(base, config, compiled):
  config.workdir = str(base / 'run')
  config.sample.prompts = ('the cat',)
  config.optimizer.learning_rate = 1.0
  refused(config, compiled, 'another run', 'optimizer.learning_rate = 0.003, not 1.0')


def test_an_unfinished_artifact(base, config, compiled, tmp_path):
  shutil.copytree(base / 'run', tmp_path / 'half')
  (tmp_path / 'half' / artifact.FILE).unlink()
  config.init.params = str(tmp_path / 'half')
  refused(config, compiled, 'half', 'unfinished', 'resumes')


def test_an_artifact_that_does_not_fit(base, config, compiled):
  config.init.params = str(base / 'run')
  config.model.hidden_dim = 32
  refused(config, compiled, 'config.model has hidden_dim 32 and not the 64 of', str(base))


def test_an_artifact_of_another_tokenizer(base, config, compiled, tmp_path):
  other = tiny(tmp_path, base / 'text.jsonl')
  other.tokenize.tokenizer.vocab_size = 288
  run(other.tokenize)
  config.requires = ()
  del config['tokenize']
  config.data.path = other.tokenize.workdir
  config.init.params = str(base / 'run')
  refused(config, compiled, 'tokenizer')


@pytest.mark.slow
@pytest.mark.parametrize(
  'option, parts',
  [
    ('--config.totl_steps=3', ['totl_steps', 'total_steps']),
    ('--config.total_steps=many', ['total_steps', 'many']),
    ('--config.batch_size=6', ['error: batch_size 6']),
    ('--config.loss.name=cross_entrpy', ["did you mean 'cross_entropy'"]),
    ('total_steps=3', ['what is', 'total_steps=3']),
  ],
)
def test_the_command_line_answers_without_a_traceback(base, tmp_path, option, parts):
  c = tiny(base, base / 'text.jsonl')
  words = [
    *('--config=configs/pretrain.py:tiny', f'--config.workdir={tmp_path / "run"}'),
    *(f'--config.tokenize.workdir={c.tokenize.workdir}', '--config.tokenize.length=16'),
    f'--config.tokenize.sources.text={base / "text.jsonl"}',
    *('--config.tokenize.validation_fraction=0.2', '--config.tokenize.tokenizer.vocab_size=290'),
    *('--config.mesh.fsdp=4', option),
  ]
  process = processes.command(words, COLUMNS='200')
  status, said = process.wait()
  assert status != 0 and 'Traceback' not in said
  for part in parts:
    assert part in process.errors()
  assert not (tmp_path / 'run').exists()
