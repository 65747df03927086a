"""How often the loops of a compiled program run, where they do not say it themselves."""

import re

import jax
import jax.numpy as jnp
import pytest

from llm_jax.parallel.hlo import Program


def counted(text, scope):
  """How often the sine under a name is taken."""
  program = Program(text)
  bodies = program.bodies.items()
  found = {
    name for name, body in bodies for one in body.values() if one.op == 'sine' and scope in one.rest
  }
  (times,) = {program.times[name] for name in found}
  return times


def loop(name, first, go_on, step, kind):
  """x, taken the sine of while a counter of some kind goes on."""

  def body(state):
    i, x = state
    with jax.named_scope(name):
      return step(i), jnp.sin(x)

  return lambda x: jax.lax.while_loop(lambda s: go_on(s[0]), body, (kind(first), x))[1]


def test_any_counter_is_followed_to_any_bound():
  u32, s32 = jnp.uint32, jnp.int32
  inner = loop('in_nine', 1, lambda i: i < 10, lambda i: i + 1, u32)
  run = {
    'five': loop('five', 0, lambda i: i < 9, lambda i: i + u32(2), u32),
    'four': loop('four', 0, lambda i: i < 4, lambda i: i + 1, s32),
    'seven': loop('seven', 20, lambda i: i > 1, lambda i: i - 3, s32),
    'six': loop('six', 6, lambda i: i != 18, lambda i: i + 2, s32),
    'three': loop('three', 2, lambda i: i <= 18, lambda i: i * 3, u32),
  }
  both = lambda x: jax.lax.while_loop(
    lambda s: s[0] < 8, lambda s: (s[0] + u32(4), inner(s[1])), (u32(0), x)
  )[1]

  def all_of(x):
    for one in run.values():
      x = one(x)
    return both(x)

  text = jax.jit(all_of).lower(jnp.ones((64, 64))).compile().as_text()
  silent = re.sub(r'"known_trip_count":\{[^}]*\},?', '', text)
  assert 'known_trip_count' not in silent and silent != text
  expected = dict(five=5, four=4, seven=7, six=6, three=3, in_nine=2 * 9)
  assert {name: counted(silent, name) for name in expected} == expected
  assert {name: counted(text, name) for name in expected} == expected


TEXT = """%inside (p.1: u32[]) -> pred[] {
  %p.1 = u32[]{:T(128)} parameter(0)
  %bound = u32[]{:T(128)} constant(8)
  ROOT %lt = pred[] compare(%p.1, %bound), direction=LT
}

%cond (s: (u32[], f32[8], u32[])) -> pred[] {
  %s = (u32[]{:T(128)}, f32[8]{0:T(128)S(1)}, u32[]{:T(128)}) parameter(0)
  %i = u32[]{:T(128)} get-tuple-element(%s), index=0
  CONDITION
}

%body (t: (u32[], f32[8], u32[])) -> (u32[], f32[8], u32[]) {
  %t = (u32[]{:T(128)}, f32[8]{0:T(128)S(1)}, u32[]{:T(128)}) parameter(0)
  %j = u32[]{:T(128)} get-tuple-element(%t), index=0
  %kept = u32[]{:T(128)} get-tuple-element(%t), index=2
  %step = u32[]{:T(128)} constant(2)
  %next = u32[]{:T(128)} add(%j, %step)
  %x = f32[8]{0:T(128)S(1)} get-tuple-element(%t), index=1
  %y = f32[8]{0:T(128)S(1)} sine(%x)
  ROOT %both = (u32[], f32[8], u32[]) tuple(%next, %y, %kept)
}

ENTRY %main (x.1: f32[8], n: u32[]) -> f32[8] {
  %x.1 = f32[8]{0} parameter(0)
  %n = u32[]{:T(128)} parameter(1)
  %zero = u32[]{:T(128)} constant(0)
  %copy = u32[]{:T(128)} copy(%zero)
  %ten = u32[]{:T(128)} constant(10)
  %start = (u32[], /*index=1*/f32[8], u32[]) tuple(%copy, %x.1, /*index=2*/BOUND)
  %w = (u32[], f32[8], u32[]) while(%start), condition=%cond, body=%body
  ROOT %out = f32[8]{0} get-tuple-element(%w), index=1
}
"""
CARRIED = """%most = u32[] get-tuple-element(%s), index=2
  ROOT %go = pred[] compare(%i, %most), direction=LT"""


@pytest.mark.parametrize(
  ('condition', 'bound', 'times'),
  [
    ('ROOT %go = pred[] fusion(%i), kind=kLoop, calls=%inside', '%ten', 4),
    (CARRIED, '%ten', 5),
    (CARRIED, '%n', 1),  # whoever calls the program knows
  ],
)
def test_the_bound_may_be_inside_of_a_fusion_or_handed_on(condition, bound, times):
  text = TEXT.replace('CONDITION', condition).replace('BOUND', bound)
  assert Program(text).times['body'] == times
