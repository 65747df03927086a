"""Option `profile`: a few steps are traced, and no part of their time is lost."""

import pytest

from llm_jax.files import read_json
from llm_jax.jobs import design
from llm_jax.main import run
from llm_jax.training import profile as traces
from llm_jax.types import BadInput
from tests.jobs import train_test

SLOW = """
import time

READS, WRITES = (), ()


def make(model, tokenizer):
  def annotate(params, batch, rng):
    time.sleep(0.2)
    return batch

  return annotate
"""
base, config, compiled = train_test.base, train_test.config, train_test.compiled  # fixtures


def test_the_page_divides_the_time_of_a_step_among_the_parts_of_the_model(config, tmp_path, capsys):
  (tmp_path / 'slow.py').write_text(SLOW)
  config.annotate.steps = (str(tmp_path / 'slow.py'),)
  config.profile, config.total_steps, config.eval_every = 2, 6, 6
  run(config)
  folder = tmp_path / 'run' / 'profile'
  found = read_json(folder / 'report.json', '')
  assert (found['first'], found['last']) == (3, 4)
  assert sum(found['parts'].values()) == pytest.approx(found['seconds'], rel=0.02, abs=5e-3)
  parts = {'attention', 'MLP', 'embedding', 'head and loss', 'optimizer', 'rest', 'idle'}
  assert parts <= found['parts'].keys()
  # Two times 0.2 s, but for what the device is at meanwhile, which counts as the device's.
  assert 0.3 <= found['parts']['slow'] < found['seconds']
  assert '| optimizer |' in (folder / 'report.md').read_text()
  assert [*folder.glob('plugins/profile/*/*.xplane.pb')]
  assert 'profile: a step takes' in capsys.readouterr().out
  assert len(train_test.losses(config)) == 6


def test_a_trace_changes_no_bit_of_a_run(config, tmp_path):
  folders = [tmp_path / 'plain', tmp_path / 'traced']
  for folder, profile in zip(folders, (None, 1), strict=True):
    config.workdir = str(folder)
    with config.ignore_type():
      config.profile = profile
    run(config)
  train_test.assert_equal(*map(train_test.params_of, folders))


@pytest.mark.parametrize(
  'steps, said',
  [
    (3, 'profile: 3 steps would be traced by step 5, and config.total_steps is 4; choose fewer'),
    (0, 'config: profile 0; choose a whole number from 1 upwards'),
    ('all', "config: profile 'all'; choose a whole number from 1 upwards"),
  ],
)
def test_what_cannot_be_traced_is_refused_in_one_line(config, compiled, steps, said):
  config.profile = steps
  with pytest.raises(BadInput) as error:
    run(config)
  assert str(error.value).startswith(said) and '\n' not in str(error.value) and not compiled


def test_runs_side_by_side_are_each_told_by_their_own_program(config, tmp_path, monkeypatch):
  texts, part_of = [], traces._part_of
  monkeypatch.setattr(traces, '_part_of', lambda text: (texts.append(text), part_of(text))[1])
  config.profile, config.total_steps, config.eval_every = 1, 4, 4
  with design.shared():
    for layers in (1, 2, 1):
      config.workdir, config.model.num_layers = str(tmp_path / f'run{len(texts)}'), layers
      run(config)
  assert [text.count('HloModule jit_train_step') for text in texts] == [1, 1, 1]
  assert texts[0] == texts[2] != texts[1]
