"""What a signature says of an option is what a wrong one is told."""

import dataclasses
import functools
import importlib
import math
import pkgutil
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import ml_collections
import numpy as np
import pytest

from llm_jax import find, options
from llm_jax.jobs import sample
from llm_jax.models import compute, lora, moe, shape
from llm_jax.options import Count, NotNegative, Positive, Share, check, options_of, resolve
from llm_jax.parallel.mesh import make_mesh
from llm_jax.sampling import complete, pick
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.training import optimizer
from llm_jax.training.batches import Batches
from llm_jax.types import BadInput


def wrong(message):
  """Bad input whose one line ends with `message`."""
  return pytest.raises(BadInput, match=rf'(?s)\A(?!.*\n).*{re.escape(message)}\Z')


def loss_fn(
  params,
  *,
  model,
  beta: Positive = 0.1,
  share: Share | None = None,
  average: Literal['mean', 'sum'] = 'mean',
  steps: Count = 1,
  exact: bool = False,
  text: str = '',
  names: Sequence[str] = (),
  powers: tuple[Positive, Positive] = (1.0, 2.0),
  weights: Mapping[str, NotNegative] | None = None,
  margin: Literal['none', 'given'] | Sequence[float] = 'none',
  half: Annotated[float, options.at_least(0, below=0.5)] = 0.0,
  anything: Any = 0,
  bare=1,
):
  """A loss.

  Args:
    params: of the model.
    model: a Transformer.
    beta: scale of
      the rewards.

      In two paragraphs.
    share, steps: of it: all.

  Raises:
    BadInput: never.
  """


@pytest.mark.parametrize(
  'given',
  [
    {'beta': 1},
    {'beta': np.float32(2)},
    {'beta': np.array(2.0)},
    {'share': None},
    {'share': 1},
    {'steps': np.int64(3)},
    {'exact': np.bool_(True)},
    {'names': ['a']},
    {'names': ()},
    {'powers': [1, 2]},
    {'weights': ml_collections.ConfigDict({'a': 1.0})},
    {'weights': {}},
    {'margin': (1, 2.5)},
    {'margin': 'given'},
    {'anything': object()},
    {'bare': None},
  ],
)
def test_what_a_signature_allows(given):
  check(loss_fn, given, where='loss', supplied=('model',))


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'beta': -1}, 'loss: beta -1; choose a number above 0'),
    ({'beta': float('nan')}, 'choose a number above 0; it has to be finite'),
    ({'beta': float('inf')}, 'choose a number above 0; it has to be finite'),
    ({'beta': True}, 'choose a number above 0'),
    ({'beta': '1'}, "loss: beta '1'; choose a number above 0"),
    ({'beta': None}, 'loss: beta None; choose a number above 0'),
    ({'share': 2}, 'loss: share 2; choose a number from 0 to 1'),
    ({'share': 'x'}, 'choose a number from 0 to 1 or None'),
    ({'average': 'men'}, "loss: average 'men'; did you mean 'mean'?"),
    ({'average': 'zzz'}, "loss: average 'zzz'; choose from: mean, sum"),
    ({'average': 3}, 'choose from: mean, sum'),
    ({'steps': 1.5}, 'choose a whole number from 1 upwards'),
    ({'steps': True}, 'choose a whole number from 1 upwards'),
    ({'steps': 0}, 'choose a whole number from 1 upwards'),
    ({'exact': 1}, 'loss: exact 1; choose True or False'),
    ({'text': 1}, 'loss: text 1; choose a text'),
    ({'names': 'a'}, "loss: names 'a'; choose a list of texts"),
    ({'names': [1]}, 'choose a list of texts'),
    ({'powers': (1, 2, 3)}, 'choose 2 numbers above 0'),
    ({'powers': (1, -2)}, 'choose 2 numbers above 0'),
    ({'weights': {'a': -1}}, 'choose a group of numbers from 0 upwards or None'),
    ({'weights': (1,)}, 'choose a group of numbers from 0 upwards or None'),
    ({'margin': 'givn'}, "did you mean 'given'?"),
    ({'margin': ('a',)}, 'choose from: none, given or a list of numbers'),
    ({'half': 0.5}, 'choose a number from 0, below 0.5'),
    ({'bta': 1}, "loss: unknown option 'bta'; did you mean 'beta'?"),
    ({'bset': 1}, "loss: unknown option 'bset'; did you mean 'beta'?"),
  ],
)
def test_what_it_does_not(given, message):
  with wrong(message):
    check(loss_fn, given, where='loss', supplied=('model',))


def test_what_is_supplied_cannot_be_given():
  with pytest.raises(BadInput, match="loss: unknown option 'model'; choose from: beta, share"):
    check(loss_fn, {'model': 1}, where='loss', supplied=('model',))


def test_an_option_without_a_default_is_asked_for():
  with wrong("loss: 'model' is missing; set config.loss.model"):
    check(loss_fn, {}, where='loss')


def test_what_an_option_is():
  found = options_of(loss_fn)
  assert 'params' not in found and found['model'].required
  beta, share = found['beta'], found['share']
  assert (beta.default, beta.type, beta.range, beta.choices) == (0.1, 'number', 'above 0', ())
  assert beta.meaning == 'scale of the rewards. In two paragraphs.'
  assert (share.type, share.range) == ('number or None', 'from 0 to 1')
  assert share.meaning == found['steps'].meaning == 'of it: all.'
  assert found['average'].choices == ('mean', 'sum') and found['average'].type == 'text'
  assert found['powers'].type == '2 numbers' and found['powers'].range == 'above 0'
  assert found['bare'].meaning == '' and found['bare'].type == 'anything'


def test_resolve_adds_the_defaults():
  found = resolve(loss_fn, {'beta': 2})
  assert found['beta'] == 2 and found['half'] == 0.0 and 'model' not in found


def test_annotations_may_be_text(tmp_path, monkeypatch):
  (tmp_path / 'mine_options_test.py').write_text(
    'from __future__ import annotations\n'
    'from llm_jax.options import Positive\n'
    'def known(*, beta: Positive = 1.0): ...\n'
    'def unknown(*, beta: Nowhere = 1.0): ...\n'
  )
  monkeypatch.syspath_prepend(tmp_path)
  import mine_options_test as mine  # pyright: ignore

  with wrong('choose a number above 0'):
    check(mine.known, {'beta': -1}, where='loss')
  check(mine.unknown, {'beta': 'anything'}, where='loss')
  with wrong("did you mean 'beta'?"):
    check(mine.unknown, {'bta': 1}, where='loss')


def test_a_function_with_open_keywords_takes_others():
  def open_ended(*, seed: int = 0, **how): ...

  check(open_ended, {'anything': 1}, where='sample')
  with wrong('choose a whole number'):
    check(open_ended, {'seed': 'x'}, where='sample')
  assert resolve(open_ended, {'anything': 1}) == {'seed': 0, 'anything': 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
  """A config.

  Attributes:
    workdir: where it goes.
  """

  workdir: str
  steps: Count = 1
  groups: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def test_a_dataclass_is_as_good_as_a_function():
  check(Fields, ml_collections.ConfigDict({'workdir': 'x', 'groups': {}}), where='config')
  assert options_of(Fields)['workdir'].meaning == 'where it goes.'
  assert resolve(Fields, {'workdir': 'x'}) == {'workdir': 'x', 'steps': 1, 'groups': {}}
  with wrong("config: unknown field 'stps'; did you mean 'steps'?"):
    check(Fields, {'workdir': 'x', 'stps': 1}, where='config')
  with wrong("config: 'workdir' is missing; set config.workdir"):
    check(Fields, {}, where='config')


def clip(x, *, low: Share = 0.2, cap: Positive | None = None):
  """Clips."""
  return 'clip', x, low, cap


def tilt(x, *, low: Annotated[float, options.above(0)] = 0.5):
  return 'tilt', x, low


def _together(*, kind, scale, cap=None, **others):
  if cap is not None and cap <= scale:
    raise BadInput(f'loss: cap {cap} is not above scale {scale}')


@options.kinds({'clip': clip, 'tilt': tilt}, _together)
def surrogate(x, *, kind: Any = 'clip', scale: NotNegative = 1.0):
  """A surrogate.

  Args:
    kind: which.
    low: below it nothing.
    scale: of it.
  """
  return kind(x), scale


def test_a_kind_brings_its_options():
  assert surrogate(1) == (('clip', 1, 0.2, None), 1.0)
  assert surrogate(1, kind='tilt', low=0.3, scale=2) == (('tilt', 1, 0.3), 2)
  assert functools.partial(surrogate, kind='tilt')(1) == (('tilt', 1, 0.5), 1.0)
  assert surrogate(1, low=None, cap=3) == (('clip', 1, 0.2, 3), 1.0)
  assert [*options_of(surrogate)] == ['kind', 'low', 'cap', 'scale']
  low = options_of(surrogate)['low']
  assert low.meaning == 'below it nothing.' and low.kinds == {'clip': 0.2, 'tilt': 0.5}
  assert options_of(surrogate)['kind'].choices == ('clip', 'tilt')
  assert resolve(surrogate, {'kind': 'tilt'}) == {'kind': 'tilt', 'low': 0.5, 'scale': 1.0}


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'kind': 'clp'}, "loss: kind 'clp'; did you mean 'clip'?"),
    ({'kind': 'tilt', 'cap': 3}, "kind 'tilt' does not use cap; remove it (it uses: low)"),
    ({'kind': 'tilt', 'low': 0}, 'loss: low 0; choose a number above 0'),
    ({'low': 2}, 'loss: low 2; choose a number from 0 to 1'),
    ({'cap': 1}, 'loss: cap 1 is not above scale 1.0'),
  ],
)
def test_a_kind_refuses_what_it_does_not_use(given, message):
  with wrong(message):
    check(surrogate, given, where='loss')
  with wrong(message):
    surrogate(1, **given)


ROOMS = ('losses', 'annotate', 'data', 'evals', 'rewards', 'tools', 'judges', 'clean', 'jobs')
# What a job fills in, and no config has to say.
HOUSE = ('model', 'tokenizer', 'mesh', 'rows', 'loss_fn', 'annotate', 'allowed_V')


def files():
  for room in ROOMS:
    package = importlib.import_module(f'llm_jax.{room}')
    for name in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
      module = importlib.import_module(f'llm_jax.{room}.{name}')
      for word in ('Fields',) if room == 'jobs' else find.DEFINES.get(room, ('make',)):
        if hasattr(module, word):
          yield f'{room}/{name}', getattr(module, word)
  yield 'training/optimizer', optimizer.make
  yield 'sampling/pick', pick.make
  yield 'sampling/complete', complete.make
  yield 'models/lora', lora.wrap
  yield 'models/shape', shape.Shape
  yield 'models/moe', moe.Mixture
  yield 'models/compute', compute.Compute
  yield 'text/tokenizer', Tokenizer.train
  yield 'training/batches', Batches


@pytest.mark.parametrize(
  ('where', 'function'), files(), ids=lambda x: x if isinstance(x, str) else ''
)
def test_every_option_of_every_file_says_what_it_means(where, function):
  for name, option in options_of(function).items():
    assert name in HOUSE or option.meaning, f'{where}: {name} is not in the docstring'
    advice = options._advice(option.hint, option.default)
    assert option.required or option.kinds or not advice, f'{where}: {name} {option.default!r}'


# Options of which a negative number has a meaning: -1 of a mesh stands for the rest of the devices.
ANY_SIGN = ('simpo: alpha', 'minimum', 'missing_eos_score', 'make_mesh')


def functions():
  yield from files()
  yield 'parallel/make_mesh', make_mesh
  yield 'jobs/sample', sample.Printed
  yield 'jobs/sample', sample.Best


@pytest.mark.parametrize(
  ('where', 'function'), functions(), ids=lambda x: x if isinstance(x, str) else ''
)
def test_no_option_takes_a_number_without_a_meaning(where, function):
  """Every number has a range; none is infinite, too large or too small for 32 bits."""
  for name, option in options_of(function).items():
    kinds = option.type.split(' or ')
    if name in HOUSE or not {'number', 'whole number'} & {*kinds}:
      continue
    wrong = [math.nan, math.inf, -math.inf, 1e39, 1e-50, 2**32, 10**400]
    wrong += [True] * ('True or False' not in option.type) + [{}] * ('group' not in option.type)
    wrong += ['nan', 'x'] * ('text' not in option.type)
    wrong += [-1, -0.5] * (not any(f'{where}: {name}'.endswith(x) or x in where for x in ANY_SIGN))
    if 'whole number' not in kinds:
      wrong.remove(2**32)
    for value in wrong:
      assert options._advice(option.hint, value), f'{where}: {name} takes {value!r}'
