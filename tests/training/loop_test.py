"""The loop runs from the state's step to the end and never asks the device for anything."""

import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.training import loop
from llm_jax.training.loop import Interrupted, fit
from llm_jax.training.run_ahead import RunAhead
from llm_jax.training.signals import Signals
from llm_jax.training.step import TrainState


class OnDevice:
  """Stands for an array that is not computed yet: to look at its value would wait for it."""

  def __init__(self, name):
    self.name = name

  def refuse(self, *args):
    raise AssertionError(f'the loop looked at {self.name}')

  __array__ = __float__ = __int__ = __index__ = __bool__ = __len__ = __iter__ = refuse
  __eq__ = __hash__ = __str__ = __repr__ = __format__ = item = tolist = block_until_ready = refuse


def run(start, total, hooks=()):
  read = []

  def batch_fn(params, step):
    read.append((params, step))
    return OnDevice(f'batch {step}')

  def step_fn(state, batch):
    done = len(read)
    metrics = {'loss': OnDevice(f'loss {done}')}
    return TrainState(OnDevice('step'), f'params {done}', OnDevice('opt_state')), metrics

  state = TrainState(np.int32(start), 'params 0', OnDevice('opt_state'))
  return fit(state, batch_fn, step_fn, total_steps=total, hooks=hooks), read


def test_it_starts_at_the_step_of_the_state_and_waits_for_nothing():
  state, read = run(3, 6)
  assert read == [('params 0', 3), ('params 1', 4), ('params 2', 5)]
  assert state.params == 'params 3'


@pytest.mark.parametrize('start', [6, 9])
def test_a_finished_state_comes_back_as_it_is(start):
  state, read = run(start, 6, hooks=[lambda *args: pytest.fail('nothing was done')])
  assert read == [] and state.params == 'params 0'


def test_hooks_are_called_in_order_with_steps_done_state_and_metrics():
  calls = []
  hook = lambda name: (
    lambda step, state, metrics: calls.append((name, step, state.params, metrics['loss'].name))
  )
  run(0, 2, hooks=(hook('a'), hook('b')))
  assert calls == [
    ('a', 1, 'params 1', 'loss 1'),
    ('b', 1, 'params 1', 'loss 1'),
    ('a', 2, 'params 2', 'loss 2'),
    ('b', 2, 'params 2', 'loss 2'),
  ]


def test_an_exception_of_a_hook_ends_the_loop():
  calls = []

  def stop(step, state, metrics):
    calls.append(step)
    if step == 2:
      raise Interrupted('enough')

  with pytest.raises(Interrupted, match='enough'):
    run(0, 5, hooks=[stop])
  assert calls == [1, 2]


def test_an_exception_of_the_batch_ends_the_loop():
  def batch_fn(params, step):
    raise OSError('disk gone')

  state = TrainState(np.int32(0), None, None)
  with pytest.raises(OSError, match='disk gone'):
    fit(state, batch_fn, lambda state, batch: pytest.fail('no batch'), total_steps=1)


def test_a_signal_waits_for_little_of_what_was_launched(monkeypatch):
  """Of a real device, with a host that would otherwise run far ahead of it."""
  monkeypatch.setattr(loop, 'RunAhead', lambda: RunAhead(seconds=0.3))

  @jax.jit
  def slow(x):
    x = jax.lax.fori_loop(0, 300, lambda i, x: x @ x / 300, x)
    return x, x[0, 0]

  def step_fn(state, batch):
    params, loss = slow(state.params)
    return TrainState(state.step, params, ()), {'loss': loss}

  asked: dict[str, float] = {}

  def leave(step, state):
    state.params.block_until_ready()
    asked['left'] = time.perf_counter()
    raise Interrupted

  def ask():
    asked['at'] = time.perf_counter()
    os.kill(os.getpid(), signal.SIGTERM)

  signals, x = Signals(), jax.device_put(jnp.ones((300, 300)), jax.devices()[0])
  jax.block_until_ready(slow(x))
  began = time.perf_counter()
  jax.block_until_ready(slow(x))
  one = time.perf_counter() - began
  threading.Timer(1.0, ask).start()
  with signals.handled(), pytest.raises(Interrupted):
    state = TrainState(np.int32(0), x, ())
    fit(state, lambda params, step: {}, step_fn, total_steps=10**6, signals=signals, leave=leave)
  assert asked['left'] - asked['at'] < 0.3 + 2 * one + 1.0


@pytest.mark.parametrize('where', ['batch', 'first step'])
def test_a_signal_drops_what_is_being_made_and_the_steps_before_it_are_kept(where):
  signals, left, made = Signals(), [], []

  def work(name, step):
    if name == where and step == (2 if name == 'batch' else 0):
      os.kill(os.getpid(), signal.SIGTERM)
      made.append('it went on')

  def batch_fn(params, step):
    work('batch', step)
    return {}

  def step_fn(state, batch):
    work('first step', int(state.step))
    return TrainState(state.step + 1, f'params {state.step + 1}', ()), {}

  state = TrainState(np.int32(0), 'params 0', ())
  with signals.handled():
    leave = lambda step, state: left.append((step, state.params))
    fit(state, batch_fn, step_fn, total_steps=5, signals=signals, leave=leave)
  assert left == [(2, 'params 2')] if where == 'batch' else left == [(0, 'params 0')]
  assert not made
