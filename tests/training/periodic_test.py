"""When the hook evaluates and saves, in which order, and how it leaves on a signal."""

import os
import signal

import numpy as np
import pytest

from llm_jax.files import json_line
from llm_jax.training import history
from llm_jax.training.loop import Interrupted
from llm_jax.training.metrics import Log
from llm_jax.training.optimizer import Average
from llm_jax.training.periodic import PeriodicActions, score
from llm_jax.training.signals import Signals
from llm_jax.training.step import TrainState
from llm_jax.types import Mean, Peak


class Diary:
  """Stands for log and checkpoints; what is asked of them becomes an entry."""

  def __init__(self):
    self.entries = []

  def __getattr__(self, name):
    return lambda *args, **options: self.entries.append((name, *args, *options.values()))


def state_at(step):
  return TrainState(np.int32(step), f'params {step}', ())


def loss_of(params):
  return float(params.removeprefix('params ')) / 2


def evaluate(params):
  return {'loss': Mean(2 * loss_of(params), 2.0), 'accuracy': Mean(1.0, 4.0)}


def actions_of(diary, *, evaluate=evaluate, **changes):
  options = dict(total_steps=10, eval_every=4, checkpoint_every=3, log=diary, checkpoints=diary)
  options |= dict(show=lambda params: []) | changes
  given = {'evaluations': {'validation': (evaluate, options['eval_every'])}} | options
  return PeriodicActions('runs/mine', **given)


def walk(actions, steps):
  for step in steps:
    actions(step, state_at(step), {})


def entries(diary, name):
  return [entry[1:] for entry in diary.entries if entry[0] == name]


@pytest.mark.parametrize(
  'eval_every, checkpoint_every, evaluated, saved',
  [
    (4, 3, [4, 8, 10], [3, 6, 9, 10]),
    (5, 10, [5, 10], [10]),  # the last step is not done twice
    (100, 100, [10], [10]),
    (1, 1, [*range(1, 11)], [*range(1, 11)]),
  ],
)
def test_the_intervals_and_always_the_last_step(eval_every, checkpoint_every, evaluated, saved):
  diary = Diary()
  walk(actions_of(diary, eval_every=eval_every, checkpoint_every=checkpoint_every), range(1, 11))
  assert [step for step, *_ in entries(diary, 'evaluated')] == evaluated
  assert entries(diary, 'save') == [
    (step, state_at(step), step / 2 if step in evaluated else None, {}) for step in saved
  ]


def test_a_run_that_goes_on_keeps_the_steps_of_its_beginning():
  diary = Diary()
  walk(actions_of(diary), range(6, 11))
  assert [step for step, *_ in entries(diary, 'evaluated')] == [8, 10]
  assert [step for step, *_ in entries(diary, 'save')] == [6, 9, 10]


def test_what_is_done_before_it_is_told_and_the_clock_stands_still_meanwhile():
  diary = Diary()
  actions = actions_of(
    diary, eval_every=2, checkpoint_every=2, show=lambda params: [params, 'more']
  )
  walk(actions, [1])
  assert diary.entries == []  # between its steps the hook waits for nothing
  walk(actions, [2])
  assert diary.entries == [
    ('flush',),
    ('evaluated', 2, 'validation', {'loss': 1.0, 'accuracy': 0.25}),
    ('shown', 2, ['params 2', 'more'], {}),
    ('restart_clock',),
    ('flush',),
    ('save', 2, state_at(2), 1.0, {}),
    ('restart_clock',),
  ]


def test_the_average_is_evaluated_and_the_whole_state_saved():
  diary, asked = Diary(), []
  ask = lambda params: asked.append(params) or {'loss': Mean(1.0, 1.0)}
  actions = actions_of(diary, eval_every=1, evaluate=ask)
  state = TrainState(np.int32(3), {'a': 1, 'b': 2}, Average(inner=(), ema={'a': 5}))
  actions(3, state, {})
  assert asked == [{'a': 5, 'b': 2}]
  assert entries(diary, 'save') == [(3, state, 1.0, {})]


def test_where_there_is_a_reward_the_highest_is_the_best_whatever_the_loss():
  diary = Diary()
  rewards = {2: 0.25, 4: 0.75, 6: 0.0}
  ask = lambda params: {
    'loss': Mean(2 * loss_of(params), 2.0),
    'reward': Mean(4 * rewards[2 * loss_of(params)], 4.0),
    'ratio_max': Peak(3.0),
  }
  walk(
    actions_of(diary, eval_every=2, checkpoint_every=2, evaluate=ask, total_steps=6), range(1, 7)
  )
  assert [entry[2] for entry in entries(diary, 'save')] == [-0.25, -0.75, 0.0]
  assert entries(diary, 'evaluated')[0] == (
    2,
    'validation',
    {'loss': 1.0, 'reward': 0.25, 'ratio_max': 3.0},
  )


def test_without_reward_and_loss_there_is_no_score():
  diary = Diary()
  walk(actions_of(diary, eval_every=1, evaluate=lambda params: {'same_text': Mean(1.0, 2.0)}), [3])
  assert entries(diary, 'save') == [(3, state_at(3), None, {})]


def test_each_evaluation_has_its_own_steps_and_one_of_them_decides():
  diary = Diary()
  losses = lambda params: {'loss': Mean(loss_of(params), 1.0)}
  found = lambda params: {'f1': Mean(1.0, 2.0)}
  both = {'questions': (found, 3), 'validation': (losses, 2)}
  shown = lambda params: ['sample']
  walk(actions_of(diary, evaluations=both, checkpoint_every=1, show=shown, total_steps=7), range(8))
  steps = lambda key: [step for step, k, _ in entries(diary, 'evaluated') if k == key]
  assert steps('questions') == [0, 3, 6, 7] and steps('validation') == [0, 2, 4, 6, 7]
  assert [entry[2] for entry in entries(diary, 'save')] == [0, None, 1, None, 2, None, 3, 3.5]
  assert [step for step, *_ in entries(diary, 'shown')] == [0, 4, 7]  # whatever is evaluated


def test_without_evaluations_samples_are_shown_and_states_saved():
  diary = Diary()
  walk(actions_of(diary, evaluations={}, show=lambda params: [params]), range(1, 6))
  assert entries(diary, 'shown') == [(4, ['params 4'], {})]
  assert entries(diary, 'save') == [(3, state_at(3), None, {})]


@pytest.mark.parametrize(
  'values, wanted',
  [
    (dict(a=dict(loss=1.0), validation=dict(loss=2.0)), 2.0),
    (dict(a=dict(loss=1.0), validation=dict(f1=2.0)), 1.0),
    (dict(a=dict(loss=1.0), b=dict(loss=2.0)), None),  # validation was not due
    (dict(a=dict(loss=1.0, reward=3.0), validation=dict(f1=2.0)), -3.0),
    (dict(a=dict(f1=1.0), b=dict(f1=1.0), validation=dict(f1=2.0)), None),
    ({}, None),
  ],
  ids=str,
)
def test_the_same_evaluation_always_decides(values, wanted):
  assert score(values, ('a', 'b', 'validation')) == wanted


def test_what_is_carried_is_that_of_the_step():
  diary, seen = Diary(), []
  actions = actions_of(diary, carry=lambda: {'seen': len(seen)})
  for step in range(1, 8):
    seen.append(step)
    walk(actions, [step])
  assert [entry[3] for entry in entries(diary, 'save')] == [{'seen': 3}, {'seen': 6}]


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_it_met_and_waits_until_that_is_on_disk(number):
  diary, signals = Diary(), Signals()
  actions = actions_of(diary, checkpoint_every=100, signals=signals)
  before = signal.getsignal(number)
  with signals.handled():
    walk(actions, [1])
    os.kill(os.getpid(), number)
    assert diary.entries == []  # the step that is under way is finished first
    with pytest.raises(Interrupted) as stop:
      walk(actions, [2])
    # A second signal would act as it would outside, so the first has put the handler back.
    assert signal.getsignal(number) == before
  assert str(stop.value) == (
    f'{number.name}: saved step 2 in runs/mine; '
    'give the same command again and it goes on from there'
  )
  assert diary.entries == [
    ('flush',),
    ('save', 2, state_at(2), None, {}),
    ('restart_clock',),
    ('wait',),
  ]


def test_a_signal_leaves_what_is_to_be_evaluated_to_the_run_that_goes_on():
  diary, signals = Diary(), Signals()
  actions = actions_of(diary, signals=signals, carry=lambda: {'a': 1})
  signals.number = signal.SIGTERM
  with pytest.raises(Interrupted):
    walk(actions, [4])
  carried = {'a': 1, 'unevaluated': True}
  assert entries(diary, 'save') == [(4, state_at(4), None, carried)]
  assert not entries(diary, 'evaluated')
  diary = Diary()
  actions = actions_of(diary, carry=lambda: {'a': 1}, start_step=4)
  actions.resume(state_at(4), carried)
  assert [step for step, *_ in entries(diary, 'evaluated')] == [4]
  assert entries(diary, 'save') == [(4, state_at(4), 2.0, {'a': 1})]
  diary.entries.clear()
  actions.resume(state_at(4), {'a': 1})
  assert not diary.entries


def test_what_is_evaluated_when_a_signal_comes_is_not_evaluated_again():
  """Between the hook and the next step, as between an evaluation and its end."""
  diary, signals = Diary(), Signals()
  actions = actions_of(diary, checkpoint_every=100, signals=signals)
  walk(actions, [4])
  with pytest.raises(Interrupted):
    actions.leave(4, state_at(4))
  assert entries(diary, 'save') == [(4, state_at(4), 2.0, {})]
  walk(actions, [5])
  with pytest.raises(Interrupted):
    actions.leave(5, state_at(5))
  assert entries(diary, 'save')[1:] == [(5, state_at(5), None, {})]  # the score of another step


def test_a_run_that_is_killed_while_it_makes_up_says_it_once(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  before = [{'step': 4, 'validation/loss': 2.5}, {'step': 8, 'loss': 1.0}]
  records = [*before, {'step': 8, 'validation/loss': 2.0}, {'step': 8, 'more/f1': 1.0}]
  path.write_bytes(b''.join(map(json_line, records)))
  log = Log(
    tmp_path, start_step=8, total_steps=9, log_every=1, tokens_per_step=1, flops_per_step=1.0,
    peak_flops=None, learning_rate=lambda step: 0.1, waited=lambda: 0.0, began=0.0,
  )  # fmt: skip
  diary = Diary()
  actions = actions_of(diary, log=log, start_step=8)
  actions.resume(state_at(8), {'unevaluated': True})
  log.close()
  assert history.read(path) == [
    *before,
    {'step': 8, 'validation/loss': 4.0, 'validation/accuracy': 0.25},
  ]


def test_a_signal_inside_of_a_rollout_waits_for_its_end():
  diary, signals = Diary(), Signals(reuse=4)
  actions = actions_of(diary, checkpoint_every=100, eval_every=100, total_steps=20, signals=signals)
  walk(actions, [4, 5])
  signals.number = signal.SIGTERM
  walk(actions, [6, 7])
  assert diary.entries == []
  with pytest.raises(Interrupted, match='saved step 8'):
    walk(actions, [8])
  assert entries(diary, 'save') == [(8, state_at(8), None, {})]


def test_a_signal_in_the_last_rollout_lets_the_run_end_where_that_is_cut_short():
  diary, signals = Diary(), Signals(reuse=4)
  actions = actions_of(diary, checkpoint_every=100, total_steps=10, signals=signals)
  walk(actions, [9])
  signals.number = signal.SIGTERM
  walk(actions, [10])
  assert [step for step, *_ in entries(diary, 'save')] == [10]


def test_a_signal_before_the_first_step_saves_nothing():
  diary = Diary()
  with pytest.raises(Interrupted, match='has made no step yet; give the same command'):
    actions_of(diary, start_step=4).leave(4, state_at(4))
  assert not diary.entries
