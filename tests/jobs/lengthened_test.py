"""A run that is given more steps ends with the bits of one that had them from the start."""

from pathlib import Path

import pytest
from ml_collections import ConfigDict

from llm_jax import artifact, run_folder
from llm_jax.jobs import lengthened, train
from llm_jax.main import run
from llm_jax.types import BadInput
from tests.jobs import train_test
from tests.jobs.train_test import assert_equal, params_of

base, config = train_test.base, train_test.config

SCHEDULES = ('cosine', 'linear', 'wsd', 'constant')


def of_length(c, steps, workdir, **optimizer):
  c = ConfigDict(c)
  c.total_steps, c.workdir = steps, str(workdir)
  with c.unlocked():
    c.optimizer.update(optimizer)
  return c


@pytest.mark.parametrize(
  'steps, options',
  [
    ((4, 6), dict(schedule='constant')),
    # Its fall begins at step 3 of 4, so that the first two steps are those of any length.
    ((4, 8), dict(schedule='wsd', decay_fraction=0.25)),
  ],
)
def test_the_bits_are_those_of_a_run_of_that_length(
  steps,
  options,
  config,
  tmp_path,
  monkeypatch,
):
  short, long = steps
  of = lambda steps, name: of_length(config, steps, tmp_path / name, **options)
  if options['schedule'] == 'wsd':  # is stopped before its fall
    with monkeypatch.context() as patch:
      fit = train.fit
      patch.setattr(train, 'fit', lambda *args, **more: fit(*args, **more | {'total_steps': 2}))
      run(of(short, 'first'))
    (tmp_path / 'first' / artifact.FILE).unlink()
  else:
    run(of(short, 'first'))
  for name in ('first', 'whole'):
    run(of(long, name))
  assert_equal(params_of(tmp_path / 'first'), params_of(tmp_path / 'whole'))
  about = artifact.describe(tmp_path / 'first')
  assert about['step'] == about['config']['total_steps'] == long
  assert lengthened.is_finished(of(long, 'first')) and not lengthened.is_finished(of(99, 'first'))


@pytest.mark.parametrize('schedule', SCHEDULES)
@pytest.mark.parametrize('asked', [2, 6, 40])
def test_what_was_made_decides(schedule, asked, config, tmp_path):
  """The learning rates of the steps that were made; here the checkpoints are empty."""
  options = dict(schedule=schedule, warmup_steps=1)
  was = of_length(config, 20, tmp_path / 'run', **options)
  run_folder.claim(was.workdir, {'total_steps': 20})
  step = Path(was.workdir, 'checkpoints', '00000004')
  step.mkdir(parents=True)
  (step / 'manifest.json').write_text('{}')
  now = of_length(config, asked, was.workdir, **options)
  lengthened.check(was)
  if asked < 4:
    with pytest.raises(BadInput, match='begun with 20 steps and has made 4; choose 4 or more'):
      lengthened.check(now)
  elif schedule in ('cosine', 'linear'):
    with pytest.raises(BadInput, match=f"schedule '{schedule}', which are others from step 2 on"):
      lengthened.check(now)
  else:
    lengthened.check(now)
