"""What TensorBoard and Weights & Biases are shown is what metrics.jsonl has."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.jobs import train
from llm_jax.main import run
from llm_jax.parallel.mesh import make_mesh
from llm_jax.training import boards, histograms
from llm_jax.training.step import TrainState
from llm_jax.types import BadInput
from tests.jobs import train_test

base, config, compiled = train_test.base, train_test.config, train_test.compiled  # fixtures


def events(folder):
  """(step, tag, value) of all files of events, in their order; a restart has the tag None."""
  pytest.importorskip('tensorboardX', reason='an optional extra')
  from tensorboardX.proto.event_pb2 import Event

  found = []
  for path in sorted((folder / 'tensorboard').glob('events.out.tfevents.*')):
    data = path.read_bytes()
    while data:  # length and its CRC, an event and its CRC
      size = int.from_bytes(data[:8], 'little')
      event, data = Event.FromString(data[12 : 12 + size]), data[16 + size :]
      found += [(event.step, value.tag, value) for value in event.summary.value]
      found += [(event.step, None, None)] if event.WhichOneof('what') == 'session_log' else []
  return found


def test_a_run_shows_numbers_samples_and_histograms(config, tmp_path):
  config.histograms, config.sample.prompts = True, ('the cat',)
  run(config)
  found = events(tmp_path / 'run')
  assert [v.simple_value for _, tag, v in found if tag == 'loss'] == pytest.approx(
    train_test.losses(config)
  )
  texts = [
    (step, v.tensor.string_val[0]) for step, tag, v in found if tag == 'samples/text_summary'
  ]
  assert [step for step, _ in texts] == [2, 4] and all(b'the cat' in text for _, text in texts)
  counts = {(step, tag): v.histo for step, tag, v in found if v.HasField('histo')}
  assert {step for step, _ in counts} == {2, 4}
  for name in ('params', 'gradients'):
    for layer in ('00', '01'):
      assert counts[4, f'{name}/blocks/attention/q/{layer}'].num == 16 * 16
    assert f'{name}/embedding/table' in {tag for _, tag in counts}


def test_a_histogram_counts_every_value_once():
  draw = np.random.default_rng(0)
  params = {'blocks': {'attention': {'q': draw.normal(size=(2, 8, 2, 4)).astype(np.float32)}}}
  params['embedding'] = {'table': np.full((4, 8), 3.0, np.float32)}
  params = jax.tree.map(jnp.asarray, params)
  state = TrainState(jnp.int32(1), params, optax.adamw(1e-3).init(params))
  with jax.set_mesh(make_mesh(data=1)):
    found = histograms.of_state(state)
  for layer in (0, 1):
    counts, edges = found[f'params/blocks/attention/q/0{layer}']
    wanted = np.histogram(params['blocks']['attention']['q'][layer], histograms.BINS)
    np.testing.assert_array_equal(counts, wanted[0])
    np.testing.assert_allclose(edges, wanted[1], rtol=1e-5)
  assert {counts.sum() for counts, _ in found.values()} == {64, 32}
  assert {name.partition('/')[0] for name in found} == {'params', 'gradients'}


def test_what_is_made_again_after_a_kill_is_shown_once(tmp_path):
  pytest.importorskip('tensorboardX', reason='an optional extra')
  for start in (0, 2):
    (board,) = boards.tensorboard(tmp_path, start)
    board.scalars(start + 1, {'loss': 1.0})
    board.close()
  steps = [(step, tag) for step, tag, _ in events(tmp_path)]
  assert (3, None) in steps and steps.index((3, None)) < steps.index((3, 'loss'))


def records(folder):
  """What the file of a run that Weights & Biases has kept here holds: a log of LevelDB."""
  from wandb.proto import wandb_internal_pb2

  (path,) = folder.glob('wandb/offline-run-*/run-*.wandb')
  data, at, whole, found = path.read_bytes(), 7, b'', []
  while at + 7 <= len(data):
    if 2**15 - at % 2**15 < 7:  # no room for a head in this block
      at += 2**15 - at % 2**15
      continue
    size, kind = int.from_bytes(data[at + 4 : at + 6], 'little'), data[at + 6]
    whole += data[at + 7 : at + 7 + size]
    at += 7 + size
    if kind in (1, 4):
      found.append(wandb_internal_pb2.Record.FromString(whole))
      whole = b''
  return found


def test_weights_and_biases_gets_the_numbers_without_a_network(config, tmp_path, capsys):
  pytest.importorskip('wandb', reason='an optional extra')
  config.wandb = dict(mode='offline', project='mine', group='both', title='one')
  config.sample.prompts, config.histograms = ('the cat',), True
  run(config)
  found = records(tmp_path / 'run')
  (about,) = [one.run for one in found if one.HasField('run')][:1]
  assert (about.project, about.run_group, about.display_name) == ('mine', 'both', 'one')
  items = [one.history.item for one in found if one.HasField('history')]
  rows = [{i.key or '/'.join(i.nested_key): json.loads(i.value_json) for i in row} for row in items]
  losses = [(row['step'], row['loss']) for row in rows if 'loss' in row]
  wanted = [(r['step'], r['loss']) for r in train_test.records(config) if 'loss' in r]
  assert losses == wanted
  assert any('samples/_type' in row for row in rows)
  assert any('params/blocks/attention/q/00/_type' in row for row in rows)
  assert 'wandb sync' in capsys.readouterr().out


@pytest.mark.parametrize(
  'changes, said',
  [
    (dict(wandb=dict(mode='ofline')), "wandb: mode 'ofline'; did you mean 'offline'?"),
    (dict(wandb=dict(projekt='a')), "wandb: unknown option 'projekt'; did you mean 'project'?"),
    (dict(wandb=dict()), "wandb: the package is missing; pip install 'llm_jax[log]'"),
    (dict(histograms=True), 'histograms: nothing is installed that shows them; pip install'),
  ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(config, compiled, monkeypatch, changes, said):
  monkeypatch.setattr(boards, '_has', lambda package: False)
  config.update(changes)
  with pytest.raises(BadInput) as error:
    train.check(config)
  assert str(error.value).startswith(said) and '\n' not in str(error.value) and not compiled
