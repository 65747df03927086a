"""A batch is a function of the step: every epoch whole, any step first, in a thread or not."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.parallel.mesh import make_mesh, shard_batch
from llm_jax.training import batches
from llm_jax.training.batches import Batches, Timed, make_read, read_ahead, shuffled
from llm_jax.types import BadInput


@pytest.mark.parametrize('size', [1, 2, 3, 7, 64, 1000])
def test_shuffled_is_a_permutation(size):
  for seed in range(5):
    assert sorted(shuffled(np.arange(size), size, seed)) == list(range(size))


def test_shuffled_depends_on_the_seed_and_is_computed_where_asked():
  whole = [shuffled(np.arange(1000), 1000, seed) for seed in range(6)]
  assert len({tuple(order) for order in whole}) == 6
  for order in whole:
    assert (order == np.arange(1000)).sum() < 20  # about one stays in place by chance
    assert (np.diff(order) == 1).sum() < 20  # and about one pair of neighbours stays together
  index = np.array([999, 0, 17, 17])
  np.testing.assert_array_equal(shuffled(index, 1000, 3), whole[3][index])
  np.testing.assert_array_equal(index, [999, 0, 17, 17])


def test_shuffled_of_a_size_no_list_could_hold():
  size = 10**15 + 7
  out = shuffled(np.arange(1000), size, 0)
  assert len(set(out.tolist())) == 1000
  assert 0 <= out.min() < size / 100 and size * 0.99 < out.max() < size


def rows_of(count, length=3):
  return [
    {'tokens': np.full(length, i, np.int32), 'mask': np.full(length, i / 2, np.float32)}
    for i in range(count)
  ]


def reader(count=7, batch_size=2, seed=0, **axes):
  return make_read(
    rows_of(count), make_mesh(**axes or dict(data=1)), batch_size=batch_size, seed=seed
  )


def order(read, steps):
  return np.concatenate([np.asarray(read(step)['tokens'])[:, 0] for step in steps]).tolist()


@pytest.mark.parametrize('count, batch_size', [(7, 2), (8, 4), (3, 8), (1, 4), (100, 10)])
def test_every_epoch_sees_every_row_once(count, batch_size):
  seen = order(reader(count, batch_size), range(-(-4 * count // batch_size)))
  epochs = [seen[i * count : (i + 1) * count] for i in range(4)]
  assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
  if count >= 7:
    assert len(set(map(tuple, epochs))) == 4


def test_fields_of_a_row_stay_together():
  batch = reader(64, 16)(1)
  assert set(batch) == {'tokens', 'mask'}
  assert batch['tokens'].shape == (16, 3) and batch['mask'].dtype == np.float32
  np.testing.assert_array_equal(batch['mask'], np.asarray(batch['tokens']) / 2)


def test_any_step_can_be_read_first():
  walked = reader()
  for step in range(5):
    walked(step)
  assert order(walked, [5]) == order(reader(), [5])
  assert order(walked, [3, 1]) == order(reader(), [3]) + order(reader(), [1])
  assert order(reader(seed=1), range(3)) != order(reader(), range(3))


def test_devices_get_the_same_rows_in_the_same_order():
  alone, spread = reader(50, 8), reader(50, 8, data=2, fsdp=4)
  assert order(spread, range(4)) == order(alone, range(4))
  batch = spread(0)['tokens']
  assert {shard.data.shape for shard in batch.addressable_shards} == {(1, 3)}
  assert len(batch.addressable_shards) == 8


def test_hosts_share_a_batch_without_overlap(monkeypatch):
  monkeypatch.setattr(batches, 'shard_batch', lambda batch, mesh: batch)
  whole = make_read(rows_of(32), None, batch_size=8, seed=0)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  parts = []
  for host in (0, 1):
    monkeypatch.setattr(jax, 'process_index', lambda host=host: host)
    parts.append(make_read(rows_of(32), None, batch_size=8, seed=0))
  for step in (0, 1, 4):
    assert order(parts[0], [step]) + order(parts[1], [step]) == order(whole, [step])


def test_no_rows():
  with pytest.raises(BadInput, match='no rows'):
    reader(0)


def test_read_ahead_is_the_same_function_in_any_order():
  read = lambda step: {'tokens': step * 10}
  ahead = read_ahead(read, depth=2)
  for step in [0, 1, 2, 3, 7, 8, 2, 3, 3, 0, 100, 99, 1]:
    assert ahead(step) == read(step)


def test_read_ahead_reads_ahead_and_each_step_once():
  asked, third = [], threading.Event()

  def read(step):
    asked.append(step)
    if step == 2:
      third.set()
    return step

  ahead = read_ahead(read, depth=2)
  assert ahead(0) == 0
  assert third.wait(10)  # nobody asked for step 2 yet
  assert [ahead(step) for step in range(1, 20)] == list(range(1, 20))
  assert asked[:20] == list(range(20))


def test_read_ahead_does_not_wait_for_what_is_ahead():
  gate = threading.Event()

  def read(step):
    if step > 0:
      gate.wait(10)
    return step

  ahead = read_ahead(read)
  start = time.perf_counter()
  assert ahead(0) == 0
  assert time.perf_counter() - start < 5
  gate.set()
  assert ahead(1) == 1


def test_read_ahead_raises_where_the_step_is_asked_for():
  def read(step):
    if step == 2:
      raise BadInput('row 2 is broken')
    return step

  ahead = read_ahead(read)
  assert [ahead(0), ahead(1)] == [0, 1]  # step 2 failed in the thread by now or soon
  for _ in range(2):
    with pytest.raises(BadInput, match='row 2 is broken'):
      ahead(2)
  assert ahead(3) == 3


def test_annotators_speak_in_order_with_random_numbers_of_their_own():
  def annotator(name):
    def annotate(params, batch, rng):
      draw = float(jax.random.uniform(rng))
      return {**batch, 'said': [*batch.get('said', []), (name, params)], name: draw}

    return annotate

  batch_fn = Batches(lambda step: {'step': step}, [annotator('first'), annotator('second')], seed=0)
  made = [batch_fn('weights', step) for step in range(3)]
  assert [b['step'] for b in made] == [0, 1, 2]
  assert made[1]['said'] == [('first', 'weights'), ('second', 'weights')]
  draws = [b[name] for b in made for name in ('first', 'second')]
  assert len(set(draws)) == 6
  assert batch_fn('weights', 1) == made[1]  # nothing is remembered
  other = Batches(lambda step: {}, [annotator('first')], seed=1)('weights', 0)
  assert other['first'] not in draws


def test_without_annotators_the_batch_is_what_was_read():
  assert Batches(lambda step: {'tokens': step}, seed=0)(None, 4) == {'tokens': 4}


def test_timed_adds_up_the_seconds_of_waiting(monkeypatch):
  clock = iter([10.0, 12.5, 100.0, 100.25])
  monkeypatch.setattr(time, 'perf_counter', lambda: next(clock))
  timed = Timed(lambda params, step: (params, step))
  assert timed.seconds == 0
  assert timed('weights', 3) == ('weights', 3) and timed.seconds == 2.5
  assert timed('weights', 4) == ('weights', 4) and timed.seconds == 2.75


def rollouts(**options):
  """Batches of 8 rows numbered 0, 1, ...; every rollout remembers the parameters that made it."""
  mesh = make_mesh(data=1)
  rows = 4 * options.get('minibatches', 1)
  read = lambda number: shard_batch(
    {'tokens': number * 100 + np.arange(rows, dtype=np.int32)}, mesh
  )

  def annotate(params, batch, rng):
    return {**batch, 'made_by': jnp.full(rows, params)}

  return Batches(read, [annotate], seed=3, mesh=mesh, **options)


def test_a_rollout_serves_every_epoch_and_minibatch_with_the_parameters_of_its_first_step():
  batch_fn = rollouts(epochs=2, minibatches=2)
  assert batch_fn.reuse == 4
  found = [jax.device_get(batch_fn(step, step)) for step in range(8)]
  for step, batch in enumerate(found):
    assert len(batch['tokens']) == 4
    assert (batch['made_by'] == step // 4 * 4).all()
  for epoch in range(4):
    both = np.concatenate([b['tokens'] for b in found[2 * epoch : 2 * epoch + 2]])
    assert sorted(both) == [epoch // 2 * 100 + i for i in range(8)]
  assert list(found[0]['tokens']) != list(found[2]['tokens'])  # another order in each epoch
  again = rollouts(epochs=2, minibatches=2)  # a run that goes on from between two rollouts
  for step in range(4, 8):
    np.testing.assert_array_equal(again(step, step)['tokens'], found[step]['tokens'])
  with pytest.raises(ValueError, match='inside of a rollout'):
    rollouts(epochs=2, minibatches=2)(0, 5)


def test_epochs_cut_a_rollout_elsewhere_and_another_seed_cuts_it_otherwise():
  def cuts(seed):
    mesh = make_mesh(data=1)
    read = lambda number: shard_batch({'tokens': np.arange(16, dtype=np.int32)}, mesh)
    batch_fn = Batches(read, seed=seed, epochs=3, minibatches=2, mesh=mesh)
    return [tuple(batch_fn(None, step)['tokens'].tolist()) for step in range(12)]

  first = cuts(0)
  assert len({frozenset(part) for part in first}) == 12  # also from rollout to rollout
  assert cuts(0) == first and set(cuts(1)).isdisjoint(first)


def test_epochs_without_minibatches_take_the_whole_rollout_in_another_order():
  batch_fn = rollouts(epochs=3)
  assert batch_fn.reuse == 3
  found = [batch_fn(7, step)['tokens'].tolist() for step in range(3)]
  assert all(sorted(tokens) == [0, 1, 2, 3] for tokens in found) and len(set(map(tuple, found))) > 1


def test_fields_of_a_row_stay_together_in_minibatches_on_any_mesh():
  def parts(**axes):
    mesh = make_mesh(**axes)
    tokens = np.arange(48, dtype=np.int32).reshape(16, 3)
    read = lambda number: shard_batch({'tokens': tokens, 'log/first': tokens[:, 0] / 2.0}, mesh)
    batch_fn = Batches(read, seed=1, epochs=2, minibatches=2, mesh=mesh)
    return [batch_fn(None, step) for step in range(4)]

  alone, spread = parts(data=1), parts(data=2, fsdp=2, tensor=2)
  for one, many in zip(alone, spread, strict=True):
    np.testing.assert_array_equal(one['tokens'], many['tokens'])
    np.testing.assert_array_equal(many['log/first'], many['tokens'][:, 0] / 2)
    assert {shard.data.shape for shard in many['tokens'].addressable_shards} == {(2, 3)}


def test_the_last_rollout_is_the_whole_of_it():
  batch_fn = rollouts(epochs=2, minibatches=2)
  assert batch_fn.last is None
  for step in range(5):
    batch_fn(step, step)
  assert len(batch_fn.last['tokens']) == 8 and set(batch_fn.last['made_by'].tolist()) == {4}


def refilled(tries, keep_of):
  """A rollout of 4 rows of which `keep_of(token)` says which are kept."""
  mesh = make_mesh(data=1)

  class Keep:
    def __init__(self):
      self.tries, self.seen = tries, 0

    def __call__(self, params, batch, rng):
      self.seen += 1
      return {**batch, 'keep': jnp.asarray([keep_of(int(t)) for t in batch['tokens']], float)}

  read = lambda number: shard_batch({'tokens': number * 10 + np.arange(4, dtype=np.int32)}, mesh)
  keep = Keep()
  batch_fn = Batches(read, [keep], seed=0, mesh=mesh)
  return jax.device_get(batch_fn(None, 0)), keep.seen


def test_a_rollout_is_refilled_to_the_exact_batch():
  batch, seen = refilled(4, lambda token: token % 2 == 0)
  assert batch['tokens'].tolist() == [0, 2, 10, 12] and seen == 2 and 'keep' not in batch
  assert (batch['log/acceptance'] == 0.5).all()
  batch, seen = refilled(2, lambda token: token == 11)  # others fill what is left
  assert batch['tokens'].tolist() == [11, 0, 1, 2] and seen == 2
  np.testing.assert_allclose(batch['log/acceptance'], 1 / 8)


def test_when_all_are_kept_nothing_more_is_read_and_when_none_is_the_first_fill_the_rollout():
  batch, seen = refilled(3, lambda token: True)
  assert batch['tokens'].tolist() == [0, 1, 2, 3] and seen == 1
  assert (batch['log/acceptance'] == 1).all()
  batch, seen = refilled(3, lambda token: False)
  assert batch['tokens'].tolist() == [0, 1, 2, 3] and seen == 3
  assert (batch['log/acceptance'] == 0).all()


def noisy(**options):
  """Batches that refill, with random annotators before and behind the one that chooses."""
  mesh = make_mesh(**options.pop('axes', dict(data=1)))

  def draw(name):
    def annotate(params, batch, rng):
      return {**batch, name: params + jax.random.uniform(rng, batch['tokens'].shape)}

    return annotate

  class Keep:
    tries = 4

    def __call__(self, params, batch, rng):
      return {**batch, 'keep': (batch['tokens'] % 3 == 0).astype(float)}

  rows = [{'tokens': np.int32(i)} for i in range(50)]
  read = read_ahead(make_read(rows, mesh, batch_size=8, seed=0))
  steps = [draw('first'), Keep(), draw('last')]
  return Batches(read, steps, seed=5, mesh=mesh, **options)


@pytest.mark.parametrize('options', [{}, dict(epochs=2, minibatches=2)], ids=['once', 'reused'])
def test_a_run_that_goes_on_between_two_rollouts_sees_what_it_would_have_seen(options):
  walked, resumed = noisy(**options), noisy(**options)
  found = [jax.device_get(walked(float(step), step)) for step in range(8)]
  for step in range(4, 8):
    again = jax.device_get(resumed(float(step), step))
    jax.tree.map(np.testing.assert_array_equal, again, found[step])
  reuse = walked.reuse
  for name in ('first', 'last'):
    draws = [x for batch in found[::reuse] for x in np.modf(batch[name])[0].tolist()]
    assert len(set(draws)) == len(draws)  # no random number comes back


def test_devices_do_not_matter_to_a_rollout_that_is_refilled():
  alone, spread = noisy(), noisy(axes=dict(data=2, fsdp=4))
  for step in range(2):
    one, many = alone(0.0, step), spread(0.0, step)
    assert {shard.data.shape for shard in many['tokens'].addressable_shards} == {(1,)}
    np.testing.assert_array_equal(one['tokens'], many['tokens'])
    np.testing.assert_array_equal(one['log/acceptance'], many['log/acceptance'])


def test_what_comes_behind_the_choice_sees_the_full_rollout_once():
  seen = []

  class Keep:
    tries = 3

    def __call__(self, params, batch, rng):
      return {**batch, 'keep': (batch['tokens'] % 2).astype(float)}

  def behind(params, batch, rng):
    seen.append(batch['tokens'].tolist())
    return batch

  mesh = make_mesh(data=1)
  read = lambda number: shard_batch({'tokens': number * 10 + np.arange(4, dtype=np.int32)}, mesh)
  batch_fn = Batches(read, [Keep(), behind], seed=0, mesh=mesh)
  batch_fn(None, 0), batch_fn(None, 1)
  assert seen == [[1, 3, 11, 13], [31, 33, 41, 43]]  # rows of a rollout are its own


def test_who_observes_sees_each_rollout_once():
  class Observer:
    def __init__(self):
      self.seen = []

    def __call__(self, params, batch, rng):
      return batch

    def observe(self, batch):
      self.seen.append(int(batch['tokens'][0]))

  mesh, observer = make_mesh(data=1), Observer()
  read = lambda number: shard_batch({'tokens': number + np.zeros(4, np.int32)}, mesh)
  batch_fn = Batches(read, [observer], seed=0, epochs=2, minibatches=2, mesh=mesh)
  for step in range(8):
    batch_fn(None, step)
  assert observer.seen == [0, 1]
