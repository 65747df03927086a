"""Variants over seeds: what is found, what is not, and that neither kills nor order change it."""

import json
import math
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import compare, pipeline
from experiments.reliability import stages
from llm_jax import artifact, run_folder
from llm_jax.files import read_json
from llm_jax.jobs import budget, results, train, variants, verdict
from llm_jax.main import read_config, run
from llm_jax.parallel.mesh import make_mesh
from llm_jax.training import metrics
from llm_jax.types import BadInput
from tests import processes
from tests.jobs import train_test
from tests.training.boards_test import events

compiled = train_test.compiled  # a fixture
ROOT = Path(__file__).parents[2]
RECIPE = ('tokenize', 'pretrain', 'sft', 'dpo')
FOCAL = str(ROOT / 'experiments' / 'focal' / 'loss.py')


def comparison(folder):
  """configs/compare.py with everything small: two losses, three seeds, nothing tuned."""
  c = compare.get_config('pretrain')
  c.base = train_test.tiny(folder, folder / 'text.jsonl')
  c.base.sample.prompts = ()
  c.workdir = str(folder / 'compare')
  c.variants.focal = ConfigDict(dict(loss=dict(name=FOCAL)))
  c.tune, c.budget.steps = None, 3
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
  rows = [line.split('|') for line in page.splitlines() if line.startswith('| focal |')]
  assert abs(float(rows[0][2].split()[0]) - said[1].mean.mean) <= 5e-4
  assert 'compare/focal/seed2' in page
  assert (done / 'compare' / 'report.html').is_file()


def test_what_is_finished_is_not_repeated_and_the_answer_has_the_same_bytes(done, compiled, capsys):
  before = {name: (done / 'compare' / name).read_bytes() for name in ('report.md', 'report.json')}
  run(comparison(done))
  assert not compiled
  printed = capsys.readouterr().out
  for table in ('validation/loss (3 seeds)', 'difference from base', 'device-seconds'):
    assert f' {table} |' in printed
  assert before == {name: (done / 'compare' / name).read_bytes() for name in before}


def test_seeds_are_added_to_those_that_are_there(config, capsys):
  config.seeds = 2
  run(config)
  capsys.readouterr()
  config.seeds = 3
  run(config)
  assert capsys.readouterr().out.count('\n== ') == 2
  assert len(facts(config.workdir)['runs']) == 6


def work(folder, workdir):
  """A comparison on the data in a folder."""
  c = comparison(folder)
  c.workdir = str(workdir)
  run(c)


def test_a_comparison_that_is_killed_ends_with_the_same_answer(done, tmp_path):
  folder = tmp_path / 'killed'
  process = processes.Process(work, done, folder)
  midway = folder / 'base' / 'seed1' / 'metrics.jsonl'  # of the third run of six
  until = time.monotonic() + 120
  while not midway.is_file() and time.monotonic() < until and process.poll() is None:
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert midway.is_file(), process.said()
  assert not (folder / 'report.json').exists()
  work(done, folder)
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
    (dict(shard='4/3'), "shard: '4/3'; choose one of n processes"),
    (dict(shard='0/3'), "shard: '0/3'; choose one of n processes"),
    (dict(shard='a'), "shard: 'a'; choose one of n processes"),
    (dict(budget=dict(steps=3, tokens=9)), 'budget: steps and tokens; choose one of them'),
    (dict(budget=dict(stepps=3)), "budget: unknown field 'stepps'"),
    (dict(evals=dict(validation=dict(name='perplexity'))), 'rename one'),
    (dict(evals=dict(text=dict(name='perplexity'))), "'data' is missing"),
    (dict(fewer=('validation/los',)), "fewer: 'validation/los' is not compared; did you mean"),
    (dict(grid=dict(total_steps=(50, 100))), "'total_steps=50' is the same config as 'base'"),
    (dict(variants={'a' * 300: dict(seed=3)}), 'names a folder; use 200 bytes or fewer'),
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


def test_metrics_may_be_written_with_commas_alone():
  read = 'validation/loss,validation/bits_per_byte'
  assert read_config(['x', '--config=compare', f'--config.read={read}']).read == (*read.split(','),)


def test_losses_of_different_kinds_are_not_compared_with_each_other(config, compiled):
  config.base.evals.validation = ConfigDict(dict(name='held_out', max_rows=8))
  with pytest.raises(BadInput, match="'validation/loss' is the loss that a run is trained with"):
    run(config)
  assert not compiled


@pytest.mark.parametrize(
  'base, changes, metric, instead',
  [
    (
      'pretrain',
      {'tokenize.tokenizer.vocab_size': 512, 'model.vocab_size': 512},
      'validation/loss',
      'validation/bits_per_byte',
    ),
    ('pretrain', {'tokenize.sources.text': 'mine.txt'}, 'validation/loss', ''),
    ('grpo', {'annotate.verify.rewards': ('length',)}, 'validation/reward', 'validation/kl'),
    ('ppo', {'annotate.reward_model.path': 'runs/other'}, 'validation/reward', ''),
    ('dpo', {'loss.beta': 0.5}, 'validation/loss', 'validation/accuracy'),
  ],
)
def test_a_metric_that_means_something_else_is_not_compared(base, changes, metric, instead):
  c = compare.get_config(base)
  first, same, other = (
    variants.run_of(c, name, made, 0)
    for name, made in (('base', {}), ('same', {'optimizer.learning_rate': 1e-3}), ('b', changes))
  )
  results.check_comparable((metric, instead), same, first)
  results.check_comparable((instead,), other, first)
  with pytest.raises(BadInput, match=f"read: '{metric}' is .* of 'b' is another than that of 'ba"):
    results.check_comparable((metric,), other, first)


@pytest.mark.parametrize(
  'metric', ['validation/repetition', 'a/b/truncated', 'validation/nll', 'x/missing_eos']
)
def test_less_is_better_of_what_goes_wrong(metric):
  assert results.fewer(metric) and not results.fewer(f'{metric}/exact_answer')
  assert results.fewer('a/length', ('length',)) and results.fewer('a/length', ('a/length',))


def test_a_single_factor_holds_for_all_runs_and_values_are_tried_once():
  c = compare.get_config('pretrain')
  rate, warmup = c.base.optimizer.learning_rate, c.base.optimizer.warmup_steps

  def tuned(**factors):
    c.tune = ConfigDict(dict(optimizer=factors))
    return variants.settings(c, {})

  assert tuned(learning_rate=(2,)) == [{'optimizer.learning_rate': 2 * rate}]
  assert tuned(learning_rate=(1,)) == tuned() == [{}]
  found = [one['optimizer.warmup_steps'] for one in tuned(warmup_steps=(0.001, 1, 1.0001))]
  assert found == [0, warmup]


LOSS = """
import jax.numpy as jnp
from llm_jax.losses import cross_entropy
def loss_fn(params, batch, rng, *, model, bad=0.0):
  mean, found = cross_entropy.loss_fn(params, batch, rng, model=model)
  return mean.replace(total=jnp.where(bad > 0, jnp.nan, mean.total)), found
"""


def test_a_run_without_a_good_update_has_failed_until_its_config_changes(config, tmp_path):
  (tmp_path / 'mine.py').write_text(LOSS)
  mine = ConfigDict(dict(loss=dict(name=str(tmp_path / 'mine.py'), bad=1.0)))
  config.variants, config.seeds = ConfigDict(dict(mine=mine)), 2
  run(config)
  failed = [one['failed'] for one in facts(config.workdir)['runs'] if one['variant'] == 'mine']
  assert len(failed) == 2 and all('no loss of this run is finite' in one for one in failed)
  assert facts(config.workdir)['verdicts'][1]['difference']['mean'] is None
  config.variants.mine.loss.bad = 0.0
  with pytest.raises(BadInput, match=r'another run, which has loss\.bad = 1\.0, not 0\.0'):
    run(config)


def test_a_run_that_stops_before_its_first_checkpoint_has_failed_and_the_others_go_on(config):
  config.seeds = 2
  config.variants.focal.stop = ConfigDict(dict(loss=1e-3))
  run(config)
  found = facts(config.workdir)['runs']
  failed = {one['variant']: one['failed'] for one in found}
  assert not failed['base'] and 'no checkpoint from before' in failed['focal']


def test_a_comparison_that_was_begun_alone_goes_on_in_shards(tmp_path):
  c = compare.get_config('dpo')
  of = lambda: variants.run_of(c, 'base', {}, 0).config
  alone = train.plain(of())
  c.shard = '1/2'
  run_folder.claim(tmp_path, alone)
  assert run_folder.holds(tmp_path, train.plain(of()))
  with pytest.raises(BadInput, match=r'loss\.beta'):
    run_folder.holds(tmp_path, alone | {'loss': {**alone['loss'], 'beta': 9.0}})


def test_the_rate_of_each_variant_is_tuned_with_a_seed_that_is_not_compared(config, capsys):
  config.seeds = 2
  config.tune = ConfigDict(dict(optimizer=dict(learning_rate=(0.01, 1))))
  config.budget = ConfigDict(dict(tokens=8 * 16 * 3 + 1))
  rows = dict(name='packed', path=config.base.data.path)
  config.evals.text = ConfigDict(dict(name='perplexity', data=rows, max_rows=8))
  config.read = ('validation/loss', 'text/bits_per_byte')
  run(config)
  assert capsys.readouterr().out.count('asking') == 4  # what is tuned, by its first metric alone
  found = facts(config.workdir)
  for name in ('base', 'focal'):
    tried = found['tuned'][name]['tried']
    best = min(tried, key=lambda one: one['validation/loss'])
    assert found['tuned'][name]['setting'] == best['setting'] == {'optimizer.learning_rate': 3e-3}
    folders = [one['folder'] for one in found['runs'] if one['variant'] == name]
    assert [Path(one).parts[-2:] for one in folders] == [
      ('learning_rate=0.003', 'seed0'),
      ('learning_rate=0.003', 'seed1'),
    ]
  assert len([*Path(config.workdir).glob('*/*/seed1000/artifact.json')]) == 4
  found = read_json(Path(config.workdir) / 'report.json', '')
  assert {(one['steps'], one['tokens']) for one in found['cost']} == {(3, 384)}
  assert all(one['device_seconds'] > 0 for one in found['cost'])
  page = (Path(config.workdir) / 'report.md').read_text()
  assert 'at the edge' in page and 'not corrected for the number of metrics' in page
  capsys.readouterr()
  run(config)
  assert '\n== ' not in capsys.readouterr().out


def test_finished_models_are_put_to_evaluations_of_the_comparison(config, capsys):
  config.seeds, config.variants = 2, ConfigDict(dict(z=dict(loss=dict(z_loss=0.1))))
  rows = dict(name='packed', path=config.base.data.path)
  config.evals.text = ConfigDict(dict(name='perplexity', data=rows, max_rows=8))
  config.read = ('text/bits_per_byte', 'validation/loss')
  run(config)
  found = facts(config.workdir)
  for one in found['runs']:
    last = metrics.read(one['folder'])[-1]
    assert one['values']['text/bits_per_byte'] == pytest.approx(last['validation/bits_per_byte'])
  capsys.readouterr()
  run(config)
  assert 'asking' not in capsys.readouterr().out


def of_pipeline(folder, count):
  c = compare.get_config('pipeline:gpt')
  c.base = stages.small(pipeline.build('x', RECIPE), folder, 'x', steps=2)
  c.base.stages = RECIPE[:count]
  c.workdir, c.seeds, c.read = str(folder / 'compare'), 2, compare.metrics(c.base)
  return c


def test_runs_of_pipelines_share_the_stages_that_are_the_same(tmp_path):
  c = of_pipeline(tmp_path, 4)
  changes = {'base': {}, 'z': {'sft.loss.z_loss': 0.1}, 'ipo': {'dpo.loss.kind': 'ipo'}}
  runs = [variants.run_of(c, name, changes[name], seed) for name in changes for seed in (0, 1)]
  made = lambda name: {one.stages[name].workdir for one in runs}
  assert [len(made(name)) for name in RECIPE] == [1, 2, 4, 6]
  for one in runs:
    assert one.stages['dpo'].init.params == one.stages['sft'].workdir
    assert one.stages['pretrain'].data.path == one.stages['tokenize'].workdir
    assert one.model == one.stages['dpo'].workdir


def test_a_pipeline_is_compared_by_a_metric_of_a_stage(tmp_path, capsys):
  stages.write_corpus(tmp_path)
  c = of_pipeline(tmp_path, 2)
  assert c.read == ('pretrain/validation/loss',) and not c.tune
  c.variants.z = ConfigDict(dict(pretrain=dict(loss=dict(z_loss=0.1))))
  run(c)
  found = read_json(tmp_path / 'compare' / 'report.json', '')
  assert {one['steps'] for one in found['cost']} == {2}
  assert len(found['runs']) == 4 and found['changes']['z'] == {'pretrain.loss.z_loss': 0.1}
  shown = {(step, tag) for step, tag, _ in events(tmp_path / 'compare' / 'z' / 'seed1')}
  assert {(1, 'pretrain/loss'), (2, 'pretrain/validation/loss')} <= shown
  capsys.readouterr()
  run(c)
  assert '\n== ' not in capsys.readouterr().out


def test_the_answer_is_shown_by_tensorboard_and_each_run_below_it(done):
  ((_, tag, value),) = events(done / 'compare')
  assert tag == 'focal against base/text_summary' and b'| variant |' in value.tensor.string_val[0]
  assert any(tag == 'loss' for _, tag, _ in events(done / 'compare' / 'focal' / 'seed2'))


def test_runs_are_a_group_of_weights_and_biases(tmp_path):
  c = comparison(tmp_path)
  c.base.wandb = ConfigDict(dict(project='mine'))
  one = variants.run_of(c, 'focal', {}, 3).config.wandb
  assert one.to_dict() == {'project': 'mine', 'group': 'compare', 'title': 'focal, seed 3'}
  c = of_pipeline(tmp_path, 2)
  plain = variants.run_of(c, 'base', {}, 0).stages['pretrain']
  c.base.pretrain.wandb = ConfigDict(dict(group='theirs'))
  shown = variants.run_of(c, 'base', {}, 0).stages['pretrain']
  assert shown.wandb.to_dict() == {'group': 'theirs', 'title': 'pretrain'}
  assert shown.workdir == plain.workdir  # being shown changes nothing of a stage


def test_runs_share_a_cache_unless_they_are_made_by_several_processes():
  c = compare.get_config('dpo')
  caches = lambda: {
    variants.run_of(c, 'base', {}, seed).config.annotate.reference.cache for seed in (0, 1)
  }
  assert caches() == {'runs/tiny/dpo_compare/reference'}
  c.shard = '1/2'
  assert caches() == {f'runs/tiny/dpo_compare/base/seed{seed}/reference' for seed in (0, 1)}


def test_shards_divide_the_runs_and_the_last_one_has_the_answer(done, config, capsys):
  folders = lambda: sorted(str(p.parent) for p in Path(config.workdir).glob('*/*/artifact.json'))
  config.shard = '2/2'
  run(config)
  told = capsys.readouterr().out
  assert '3 runs of other shards are left' in told
  assert len(folders()) == 3 and not (Path(config.workdir) / 'report.json').exists()
  config.shard = '1/2'
  run(config)
  assert len(folders()) == 6
  alike = lambda text: text.replace(config.workdir, str(done / 'compare'))
  assert json.loads(alike(json.dumps(facts(config.workdir)))) == facts(done / 'compare')


def test_budgets_are_equal_in_what_they_count(config):
  made = budget.Budget
  with jax.set_mesh(make_mesh(data=1)):
    of = lambda one: budget.steps(one, config.base, seconds=0.5)
    flops = artifact.build(config.base.model.to_dict()).flops_per_token(16) * 8 * 16
    assert of(made()) == 0 and of(made(steps=7)) == 7 and of(made(seconds=4.0)) == 8
    assert of(made(tokens=8 * 16 * 5 + 3)) == 5
    assert of(made(flops=3 * flops)) == 3 and of(made(flops=2.9 * flops)) == 2
    with pytest.raises(BadInput, match='budget: tokens are not enough for a single update'):
      of(made(tokens=3))


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
