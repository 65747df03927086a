"""A run that is killed, by whatever and wherever, ends as one that was left alone."""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import artifact, main, storage
from llm_jax.jobs import command
from llm_jax.parallel.mesh import make_mesh
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.training import metrics, rollouts
from tests import processes

pytestmark = pytest.mark.slow

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
STEPS, STAGE_STEPS, EVERY = 30, 15, 3
SHAPE = dict(
  name='transformer', vocab_size=290, dim=16, num_layers=1, num_heads=2, max_length=64,
  induction_heads=0,  # which have next to no gradient, so that Adam makes steps of rounding
)  # fmt: skip
JUDGE = SHAPE | dict(head='scalar')
AT_A_URL = ('dies', 'told', 'killed8')  # runs whose workdir is in a store, which is a disk here
TIMES = ('seconds_to_first_step', 'tokens_per_second', 'flops_per_second', 'mfu', 'data_wait')
# A run that is to be killed takes its time, and waits for a signal before its last two steps.
CONFIG = """
import os
import signal
import time

from configs import {stage}
from llm_jax import storage
from llm_jax.jobs import train
from llm_jax.training.loop import fit


def wait(step, state, metrics):
  time.sleep(0.03)
  if step == {steps} - 2:
    signal.alarm(300)
    signal.pause()


def slow_fit(*args, hooks, **options):
  return fit(*args, hooks=(*hooks, wait), **options)


def get_config():
  if 'TO_BE_KILLED' in os.environ:
    train.fit, storage.SECONDS = slow_fit, 0.2
  c = {stage}.get_config('tiny')
  c.model.update({shape!r})
  c.compute.scan_layers = True
  c.total_steps, c.batch_size, c.accumulate = {steps}, 8, 1
  c.log_every, c.eval_every, c.checkpoint_every = 1, {steps} // 3, {every}
  c.optimizer.update(name='adamw', learning_rate=3e-3, ema=0.9, warmup_steps=3)
  c.optimizer.embedding_rate = 1.0
  c.evals.validation.max_rows = 8
  c.sample.prompts = ()
  c.update({changes!r})
  return c
"""


def write_config(folder, stage, steps, changes, shape=SHAPE):
  """`folder/<stage>.py`: the stage's config with everything small, and with its own changes."""
  text = CONFIG.format(stage=stage, steps=steps, every=EVERY, shape=shape, changes=changes)
  (folder / f'{stage}.py').write_text(text)


def write_lines(path, records):
  path.write_text(''.join(json.dumps(record) + '\n' for record in records))
  return str(path)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('resume')
  draw = random.Random(0)
  texts = [' '.join(draw.choices(WORDS, k=draw.randint(3, 30))) for _ in range(150)]
  source = write_lines(folder / 'text.jsonl', [{'text': text} for text in texts])
  tokenize = dict(
    sources=dict(text=source), workdir=str(folder / 'tokens'), validation_fraction=0.2,
    tokenizer=dict(vocab_size=290), length=16,
  )  # fmt: skip
  write_config(folder, 'pretrain', STEPS, dict(tokenize=tokenize))
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('LLM_JAX_STORAGE', str(folder / 'host0'))  # as the first of several hosts has it
    storage.root.cache_clear()
    yield folder
  storage.forget()
  storage.root.cache_clear()
  for process in Process.started:  # a test that failed leaves its own behind
    process.send_signal(signal.SIGKILL)


@pytest.fixture(scope='module')
def stages(folder):
  """The same folder with an untrained `base` and `judge`, and configs of what starts from them.

  With 15 steps of 8 rows on at most 34, every row is met in several epochs.
  """
  say = lambda role, *words: [{'role': role, 'content': ' '.join(words)}]
  talks, pairs, questions = [], [], []
  for i in range(40):
    one, two = WORDS[i % 13], WORDS[(5 * i + 1) % 13]
    ask, good, bad = say('user', one, two), say('assistant', one), say('assistant', two, two)
    talks.append({'messages': ask + good})
    pairs.append({'prompt': ask, 'chosen': good, 'rejected': bad})
    questions.append({'prompt': f'{one} {two} {i}', 'answer': one})
  sources = {
    'sft': write_lines(folder / 'talks.jsonl', talks),
    'reward': write_lines(folder / 'pairs.jsonl', pairs),
    'dpo': str(folder / 'pairs.jsonl'),
  }
  for stage, path in sources.items():
    data = dict(sources=dict(builtin='', mine=path), length=64, validation_fraction=0.2)
    init = dict(params=str(folder / 'base'))
    write_config(folder, stage, STAGE_STEPS, dict(data=data, init=init))
  write_rollout_configs(folder, write_lines(folder / 'questions.jsonl', questions))
  tokenizer = Tokenizer.train([f'user assistant {" ".join(WORDS)}'] * 20, vocab_size=290)
  for name, shape in dict(base=SHAPE, judge=JUDGE).items():
    model = artifact.build(shape)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    made = artifact.Artifact(model, params, tokenizer, {'model': shape, 'data': {}})
    artifact.save(folder / name, made)
  return folder


def write_rollout_configs(folder, questions):
  """GRPO, and PPO whose rollouts serve two steps and whose penalty is steered."""
  data = dict(sources=dict(builtin='', mine=questions), length=40, validation_fraction=0.2)
  length = dict(limit=5, buffer=10, unit='characters')
  grpo = dict(
    sample=dict(max_new=8, group=2), verify=dict(rewards=('length',), options=dict(length=length))
  )
  changes = dict(data=data, annotate=grpo, init=dict(params=str(folder / 'base')))
  write_config(folder, 'grpo', STAGE_STEPS, changes)
  ppo = dict(sample=dict(max_new=8), kl_reward=dict(horizon=50.0))
  init = dict(policy=str(folder / 'base'), critic=str(folder / 'judge'))
  rollout = dict(rollout=dict(minibatches=2), checkpoint_every=4)
  changes = dict(data=data, annotate=ppo, init=init, **rollout)
  write_config(folder, 'ppo', STAGE_STEPS, changes, dict(policy=SHAPE, critic=JUDGE))


class Run:
  """`llm_jax.main` on a stage's config and so many devices."""

  def __init__(self, folder, name, devices, stage='pretrain', options=()):
    self.workdir = folder / name
    self.address = self.workdir
    if name in AT_A_URL:
      place = f'local://{folder}'
      self.address, tokens = f'{place}/{name}', f'{place}/tokens-there'
      options = (
        *(f'--config.tokenize.workdir={tokens}', f'--config.data.path={tokens}'),
        *(f'--config.tokenize.sources.text={place}/text.jsonl', *options),
      )
    self.words = [
      *('llm_jax.main', f'--config={folder / f"{stage}.py"}'),
      *(f'--config.workdir={self.address}', f'--config.mesh.fsdp={devices}', *options),
    ]

  def finished(self):
    """Itself and what it said: run to its end in this process, which has JAX and its programs."""
    said = io.StringIO()
    storage.forget()  # as another process would have
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
      main.run(command.read_config(self.words))
    return self, said.getvalue()

  def records(self):
    return metrics.read(self.workdir) if (self.workdir / 'metrics.jsonl').exists() else []

  def losses(self):
    """Training and validation losses with their steps."""
    return [(r['step'], k, r[k]) for r in self.records() for k in ('loss', 'validation/loss')
            if k in r]  # fmt: skip

  def numbers(self):
    """All that was logged, but how long it took."""
    return [{k: v for k, v in r.items() if k not in TIMES} for r in self.records()]

  def params(self):
    return jax.device_get(artifact.load(self.workdir, make_mesh(data=1)).params)


class Process(Run):
  """A process of its own, which can be killed."""

  started = ()

  def __init__(self, folder, name, devices, stage='pretrain', options=(), **environ):
    super().__init__(folder, name, devices, stage, options)
    self.process = processes.command(self.words[1:], **environ)
    Process.started += (self.process,)

  def wait(self):
    """Its exit status and what it said."""
    return self.process.wait()

  def wait_for(self, step):
    """Returns once the step is in metrics.jsonl and some checkpoint is whole."""
    stop = time.monotonic() + 200
    while time.monotonic() < stop:
      whole = list(self.workdir.glob('checkpoints/*/manifest.json'))
      if whole and any(r['step'] >= step for r in self.records()):
        return
      assert self.process.poll() is None, f'ended before step {step}: {self.wait()[1]}'
      time.sleep(0.01)
    pytest.fail(f'step {step} did not come')

  def kill(self, step, number=signal.SIGKILL):
    self.wait_for(step)
    self.process.send_signal(number)
    return self.wait()


def random_step(first, last):
  step = random.Random(time.time_ns()).randint(first, last)
  print(f'stopped at step {step}')
  return step


def assert_same(run, other, steps=STEPS):
  """Every number that was logged and every published parameter, bit by bit."""
  assert run.numbers() == other.numbers()
  assert len(run.losses()) == steps + 3  # evaluated at each third
  jax.tree.map(np.testing.assert_array_equal, run.params(), other.params())


@pytest.fixture(scope='module')
def alone(folder):
  """A run that nobody disturbed, on one device."""
  return Run(folder, 'alone', 1).finished()[0]


@pytest.fixture(scope='module')
def asked(folder, alone):
  """A run that was asked to stop, went on from there, and was then killed."""
  run = Process(folder, 'run', 1, TO_BE_KILLED='yes')
  status, said = run.kill(random_step(EVERY + 1, STEPS // 2), signal.SIGTERM)
  assert status == os.EX_TEMPFAIL and 'Traceback' not in said
  last = said.splitlines()[-1]
  assert 'SIGTERM' in last and 'give the same command again' in last
  saved = int(last.split('saved step ')[1].split()[0])
  assert max(r['step'] for r in run.records()) == saved  # nothing that was done is lost
  run = Process(folder, 'run', 1, TO_BE_KILLED='yes')
  status, said = run.kill(random_step(max(saved, STEPS // 2) + EVERY, STEPS - 4))
  assert status == -signal.SIGKILL and f'from step {saved}' in said
  assert not (run.workdir / artifact.FILE).exists()
  shutil.copytree(run.workdir, folder / 'killed')
  return folder / 'killed'


def go_on(folder, killed, devices):
  """The killed run, put back as it was, to its end."""
  shutil.rmtree(folder / 'run')
  shutil.copytree(killed, folder / 'run')
  return Run(folder, 'run', devices).finished()


def test_stopped_killed_and_its_newest_checkpoint_damaged_it_ends_with_the_same_bits(
  folder, alone, asked
):
  killed = shutil.copytree(asked, folder / 'damaged')
  newest = max(path.parent for path in killed.glob('checkpoints/*/manifest.json'))
  path = max((newest / 'state').rglob('*'), key=lambda p: p.stat().st_size if p.is_file() else 0)
  path.write_bytes(path.read_bytes()[:-1])
  run, said = go_on(folder, killed, 1)
  assert f'{newest.name} is passed over: damaged' in said
  start = int(said.split('from step ')[1].split()[0])
  assert 0 < start < int(newest.name)
  assert_same(run, alone)


def test_resumed_on_eight_devices_it_ends_with_the_same_losses(folder, alone, asked):
  run, said = go_on(folder, asked, 8)
  start = int(said.split('from step ')[1].split()[0])
  ours, theirs = run.losses(), alone.losses()
  assert [x[:2] for x in ours] == [x[:2] for x in theirs]
  before = [x for x in ours if x[0] <= start]
  assert before == [x for x in theirs if x[0] <= start]  # as the first process wrote them
  ratio = np.array([x[2] for x in ours]) / np.array([x[2] for x in theirs])
  far = jax.tree.map(lambda a, b: np.abs(a - b).max(), run.params(), alone.params())
  furthest = max(jax.tree.leaves(far))
  print(
    f'resumed from step {start}: losses differ by {np.abs(ratio - 1).max():.1e}, '
    f'{(ratio == 1).mean():.0%} not at all; parameters by {furthest:.1e}'
  )
  np.testing.assert_allclose(ratio, 1, rtol=1e-5)
  assert furthest < 1e-4


def test_killed_on_eight_devices_it_ends_with_the_same_bits(folder):
  status, _ = Process(folder, 'killed8', 8, TO_BE_KILLED='yes').kill(
    random_step(EVERY + 1, STEPS - 4)
  )
  assert status == -signal.SIGKILL
  whole, _ = Run(folder, 'alone8', 8).finished()
  run, said = Run(folder, 'killed8', 8).finished()
  assert 'resuming' in said
  assert_same(run, whole)


@pytest.mark.parametrize('stage', ['dpo', 'grpo', 'ppo'])
def test_a_later_stage_that_was_killed_ends_with_the_same_bits(stages, stage):
  run = Process(stages, f'{stage}-killed', 1, stage, TO_BE_KILLED='yes')
  status, _ = run.kill(random_step(EVERY + 1, STAGE_STEPS - 4))
  assert status == -signal.SIGKILL and not (run.workdir / artifact.FILE).exists()
  known = references(run)
  run, said = Run(stages, f'{stage}-killed', 1, stage).finished()
  assert 'resuming' in said
  whole, _ = Run(stages, f'{stage}-alone', 1, stage).finished()
  assert_same(run, whole, STAGE_STEPS)
  assert (known > 0) == (stage == 'dpo')
  assert known <= references(run) == references(whole)
  if stage in ('grpo', 'ppo'):
    assert rollouts.read(run.workdir) == rollouts.read(whole.workdir) != []
    assert all('reward' in r for r in run.records() if 'loss' in r)
  if stage == 'ppo':
    steered = [r['kl_coefficient'] for r in run.records() if 'loss' in r]
    assert steered[0] == steered[1] and len(set(steered)) == (STAGE_STEPS + 1) // 2


def references(run):
  """How many bytes of log-probabilities of the reference a run has kept."""
  return sum(file.stat().st_size for file in (run.workdir / 'reference').glob('*'))
