"""Every moment of a trace has one part, whatever happens at once."""

import numpy as np
import pytest

from llm_jax.training.trace import IDLE, Interval, Trace, divide, op_names

PROGRAM = """HloModule jit_train_step, is_scheduled=true

%fused_computation.1 (param_0: f32[4]) -> f32[4] {
  %param_0 = f32[4]{0} parameter(0)
  %mul.1 = f32[4]{0} multiply(%param_0, %param_0), metadata={op_name="jit(train_step)/mlp/mul"}
  %mul.2 = f32[4]{0} multiply(%mul.1, %mul.1), metadata={op_name="jit(train_step)/mlp/mul"}
  ROOT %add.1 = f32[4]{0} add(%mul.2, %mul.2), metadata={op_name="jit(train_step)/optimizer/add"}
}

ENTRY %main.3 (x.1: f32[4]) -> f32[4] {
  %x.1 = f32[4]{0} parameter(0)
  %dot.1 = f32[4]{0} dot(%x.1), metadata={op_name="jit(train_step)/attention/dot" stack_frame_id=2}
  %copy.2 = f32[4]{0} copy(%dot.1)
  ROOT %fusion.7 = f32[4]{0} fusion(%copy.2), kind=kLoop, calls=%fused_computation.1
}
"""


def whole(*intervals):
  return [Interval(*one) for one in intervals]


def random_trace(seed, devices=2, lines=3, count=40):
  """Operations that follow or hold each other on each line, some of them outside of the window."""
  draw = np.random.default_rng(seed)

  def line(names):
    found, at = [], -0.5
    for i in range(count):
      at += draw.exponential(0.05)
      end = at + draw.exponential(0.05)
      found.append(Interval(at, end, str(draw.choice(names)), 'p'))
      if i % 3 == 0:
        found.append(
          Interval(at + (end - at) / 4, at + (end - at) / 2, str(draw.choice(names)), 'p')
        )
      at = end
    return found

  operations = ['dot.1', 'while.2', 'add', 'call.3']
  made = [[line(operations) for _ in range(lines)] for _ in range(devices)]
  return Trace(Interval(0.0, 1.0, 'w'), made, line(['llm_jax/sample', 'llm_jax/data wait']))


@pytest.mark.parametrize('seed', range(20))
def test_parts_add_up_to_the_window(seed):
  trace = random_trace(seed)
  found = divide(trace, lambda one: 'MLP' if one.name == 'add' else None)
  assert sum(found.parts.values()) == pytest.approx(1.0, rel=1e-9)
  assert found.parts.keys() <= {'MLP', 'sample', 'data wait', 'rest', IDLE}
  assert min(found.parts.values()) > 0
  mlp = sum(seconds for (_, part), seconds in found.operations.items() if part == 'MLP')
  assert mlp == pytest.approx(found.parts['MLP'])


def test_what_is_computed_comes_before_what_the_host_is_at_and_loops_come_last():
  device = [
    whole((1, 4, 'while.1'), (2, 3, 'dot.1')),
    whole((2, 2.5, 'add.1'), (6, 9, 'other', 'jit_generate')),
  ]
  trace = Trace(Interval(0, 10, 'w'), [device], whole((5, 8, 'llm_jax/sample')))
  part_of = lambda one: None if one.program else one.name
  assert divide(trace, part_of).parts == pytest.approx(
    {
      'idle': 1 + 1 + 1,
      'while.1': 1 + 1,
      'dot.1': 0.25 + 0.5,
      'add.1': 0.25,
      'sample': 3,
      'rest': 1,
    }
  )


def test_several_devices_count_by_their_mean():
  busy, waits = [whole((0, 2, 'dot'))], [whole((0, 1, 'dot'))]
  trace = Trace(Interval(0, 2, 'w'), [busy, waits], ())
  assert divide(trace, lambda one: 'MLP').parts == {'MLP': 1.5, IDLE: 0.5}


def test_an_operation_without_a_name_has_that_of_what_is_in_it_or_of_what_it_reads():
  found = op_names(PROGRAM)
  assert found['dot.1'] == found['copy.2'] == 'jit(train_step)/attention/dot'
  assert found['fusion.7'] == 'jit(train_step)/mlp/mul'
