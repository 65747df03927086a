"""Variants over seeds: what is found, what is not, and that neither kills nor order change it."""

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import compare
from llm_jax.files import read_json
from llm_jax.jobs import verdict
from llm_jax.main import run
from llm_jax.training import metrics
from llm_jax.types import BadInput
from tests.jobs import train_test

compiled = train_test.compiled  # a fixture
ROOT = Path(__file__).parents[2]
FOCAL = str(ROOT / 'experiments' / 'focal' / 'loss.py')


def comparison(folder):
  """configs/compare.py with everything small: two losses, three seeds, nothing tuned."""
  c = compare.get_config('pretrain')
  c.base = train_test.tiny(folder, folder / 'text.jsonl')
  c.base.sample.prompts = ()
  c.workdir = str(folder / 'compare')
  c.variants.focal = ConfigDict(dict(loss=dict(name=FOCAL)))
  c.tune = None
  return c


@pytest.fixture(scope='module')
def done(tmp_path_factory):
  """A folder in which `comparison` has run. Not to be written to."""
  folder = tmp_path_factory.mktemp('compare')
  train_test.write_text(folder / 'text.jsonl')
  run(comparison(folder))
  return folder


@pytest.fixture
def config(done, tmp_path):
  """A new comparison on the data of `done`."""
  c = comparison(done)
  c.workdir = str(tmp_path / 'compare')
  return c


def facts(folder, without=('cost', 'checksum')):
  found = read_json(Path(folder) / 'report.json', '')
  return {name: value for name, value in found.items() if name not in without}


def test_the_answer_is_made_of_what_the_runs_have_measured(done):
  found = facts(done / 'compare')
  assert [(one['variant'], one['seed']) for one in found['runs']] == [
    (name, seed) for seed in range(3) for name in ('base', 'focal')
  ]
  values = {}
  for one in found['runs']:
    last = metrics.read(one['folder'])[-1]['validation/loss']
    assert one['values'] == {'validation/loss': last}
    values.setdefault(one['variant'], {})[one['seed']] = last
  said = verdict.verdicts('validation/loss', values, fewer=True)
  assert found['said'] == [verdict.sentence(said[1], 'base', corrected=False)]
  assert found['verdicts'][1]['difference']['mean'] == said[1].difference.mean
  page = (done / 'compare' / 'report.md').read_text()
  assert f'{said[1].mean.mean:.3f}' in page and 'compare/focal/seed2' in page
  assert (done / 'compare' / 'report.html').is_file()


def test_what_is_finished_is_not_repeated_and_the_answer_has_the_same_bytes(done, compiled):
  before = {name: (done / 'compare' / name).read_bytes() for name in ('report.md', 'report.json')}
  run(comparison(done))
  assert not compiled
  assert before == {name: (done / 'compare' / name).read_bytes() for name in before}


def test_seeds_are_added_to_those_that_are_there(config, capsys):
  config.seeds = 2
  run(config)
  capsys.readouterr()
  config.seeds = 3
  run(config)
  assert capsys.readouterr().out.count('\n== ') == 2
  assert len(facts(config.workdir)['runs']) == 6


CODE = """
import sys
from pathlib import Path
from llm_jax.main import run
from tests.jobs.compare_test import comparison
c = comparison(Path(sys.argv[1]))
c.workdir = sys.argv[2]
run(c)
"""


def test_a_comparison_that_is_killed_ends_with_the_same_answer(done, tmp_path):
  folder = tmp_path / 'killed'
  command = [sys.executable, '-c', CODE, str(done), str(folder)]
  with open(tmp_path / 'said.txt', 'wb') as said:
    process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)
  midway = folder / 'base' / 'seed1' / 'metrics.jsonl'  # of the third run of six
  until = time.monotonic() + 120
  while not midway.is_file() and time.monotonic() < until and process.poll() is None:
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert midway.is_file(), (tmp_path / 'said.txt').read_text()
  assert not (folder / 'report.json').exists()
  c = comparison(done)
  c.workdir = str(folder)
  run(c)
  alike = lambda text: text.replace(str(folder), str(done / 'compare'))
  assert json.loads(alike(json.dumps(facts(folder)))) == facts(done / 'compare')
  table = lambda place: (Path(place) / 'report.md').read_text().split('## What it cost')[0]
  assert table(folder) == table(done / 'compare')


@pytest.mark.parametrize(
  'changes, said',
  [
    (dict(seeds=1), 'seeds: one run of each is an anecdote'),
    (dict(variants=dict(focal=dict())), "'focal' is the same config as 'base'"),
    (dict(variants=dict(a=dict(loss=dict(z_los=1)))), "a: loss: unknown option 'z_los'; did you"),
    (dict(variants=dict(a=dict(los=dict(z_loss=1)))), "variants.a: unknown field 'los.z_loss'"),
    (dict(variants={}), 'there is nothing to compare'),
    (dict(variants=dict(a=3)), "variants: 'a' is 3; give fields that it changes"),
    (dict(variants={'a/b': dict(seed=3)}), "'a/b' names a folder"),
    (dict(against='focl'), "against: no variant 'focl'; did you mean 'focal'?"),
    (dict(read=('validation/los',)), "nobody; did you mean 'validation/loss'?"),
    (dict(read=('valid/loss',)), "nobody; did you mean 'validation/loss'?"),
    (dict(read=()), 'read: nothing is compared'),
    (dict(tune=dict(optimizer=dict(rate=(1, 2)))), "tune: 'optimizer.rate' is no number"),
    (dict(tune=dict(optimizer=dict(learning_rate=(0, 1)))), 'choose factors above 0'),
    (dict(grid=dict(loss=dict(z_loss=0.1))), 'grid: loss.z_loss 0.1; give the values it takes'),
  ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_compiled(
  config, compiled, changes, said
):
  for name, value in changes.items():
    with config.ignore_type():
      config[name] = ConfigDict(value) if isinstance(value, dict) else value
  with pytest.raises(BadInput) as error:
    run(config)
  assert said in str(error.value) and '\n' not in str(error.value)
  assert not compiled and not Path(config.workdir).exists()


def test_losses_of_different_kinds_are_not_compared_with_each_other(config, compiled):
  config.base.evals.validation = ConfigDict(dict(name='held_out', max_rows=8))
  with pytest.raises(BadInput, match="'validation/loss' is the loss that a run is trained with"):
    run(config)
  assert not compiled


def tables(effect, count, others=1, seeds=5):
  """Values of a base and of variants that differ from it by `effect` spreads."""
  for trial in range(count):
    draw = np.random.default_rng(trial)
    start = draw.normal(size=seeds)
    of = lambda mean, start=start, draw=draw: dict(
      enumerate(start + mean + draw.normal(size=seeds))
    )
    yield {'base': of(0.0), **{f'v{i}': of(effect) for i in range(others)}}


def found(values):
  return [one for one in verdict.verdicts('validation/loss', values, fewer=True) if one.sure]


@pytest.mark.parametrize('others', [1, 4])
def test_where_there_is_no_difference_none_is_found_more_often_than_alpha(others):
  rate = np.mean([bool(found(values)) for values in tables(0.0, 1000, others)])
  assert rate < verdict.ALPHA + 0.02
  if others == 1:
    assert rate > verdict.ALPHA - 0.02


def test_a_difference_that_is_there_is_found_and_has_its_sign():
  for effect, better in ((-20.0, True), (20.0, False)):
    for values in tables(effect, 20, others=3):
      assert [one.variant for one in found(values)] == ['v0', 'v1', 'v2']
      assert all(one.better == better for one in found(values))


def test_neither_order_of_seeds_nor_of_variants_changes_a_verdict():
  (values,) = tables(1.0, 1, others=3)
  first = verdict.verdicts('m', values, fewer=False)
  turned = {name: dict(reversed(values[name].items())) for name in ('base', 'v2', 'v1', 'v0')}
  second = verdict.verdicts('m', turned, fewer=False)
  assert sorted(map(repr, first)) == sorted(map(repr, second))


def test_a_seed_without_a_value_is_left_out_on_both_sides_and_said():
  (values,) = tables(-20.0, 1)
  values['v0'][1] = math.nan
  del values['base'][2]
  one = verdict.verdicts('m', values, fewer=True)[1]
  assert one.difference.n == 3 and one.lost == [1, 2]
  assert verdict.sentence(one, 'base', False).endswith('Of seed 1, 2 there is no value.')
