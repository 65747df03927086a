"""A name in a config finds its file, and a wrong one is told what would have been right."""

import sys
from types import SimpleNamespace

import pytest

from llm_jax.find import bind, call, find, preset
from llm_jax.losses import cross_entropy
from llm_jax.options import check
from llm_jax.types import BadInput


def wrong(message):
  """Bad input whose one line has `message` in it."""
  return pytest.raises(BadInput, match=rf'(?s)\A(?!.*\n).*{message}')


def loss_fn(params, batch, rng, *, model, beta=0.1, gamma=1.0):
  return params, batch, rng, model, beta, gamma


def make(tokenizer, *, path, length=8):
  return tokenizer, path, length


def open_ended(*, seed=0, **how):
  return seed, how


def test_file_name_is_config_name():
  assert find('losses', 'cross_entropy') is cross_entropy
  assert find('data', 'packed').__name__ == 'llm_jax.data.packed'


LOSS = "def loss_fn():\n  return 'mine'\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """The working directory of a user, `mine/loss.py` and `my_one_file.py` in it."""
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'loss.py').write_text(LOSS)
  (tmp_path / 'my_one_file.py').write_text(LOSS)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr('sys.path', [*sys.path])
  yield tmp_path
  for name, module in [*sys.modules.items()]:
    if str(tmp_path) in (getattr(module, '__file__', None) or str(vars(module).get('__path__'))):
      del sys.modules[name]


def test_a_dotted_name_is_a_module_of_the_user(folder, monkeypatch):
  monkeypatch.syspath_prepend(folder)
  assert find('losses', 'mine.loss').loss_fn() == 'mine'
  # by its path it is the same module
  assert find('losses', 'mine/loss.py') is find('losses', 'mine.loss')


def test_a_module_without_a_dot_is_found_where_the_room_has_no_such_file(folder, monkeypatch):
  (folder / 'cross_entropy.py').write_text(LOSS)
  monkeypatch.syspath_prepend(folder)
  assert find('losses', 'my_one_file').loss_fn() == 'mine'
  assert find('losses', 'cross_entropy') is cross_entropy


@pytest.mark.parametrize('package', [False, True])
def test_a_path_needs_no_sys_path_and_is_loaded_once(folder, package):
  if package:
    (folder / 'mine' / '__init__.py').touch()
    (folder / 'mine' / 'base.py').write_text(LOSS)
    (folder / 'mine' / 'loss.py').write_text('from .base import loss_fn\n')
  found = find('losses', 'mine/loss.py')
  assert found.loss_fn() == 'mine'
  assert find('losses', str(folder / 'mine' / 'loss.py')) is found
  assert find('losses', './mine/../mine/loss.py') is found


def test_a_reward_may_be_one_of_a_batch(folder):
  (folder / 'judge.py').write_text('def rewards(answers, golds): ...\n')
  assert find('rewards', './judge.py').rewards


@pytest.mark.parametrize(
  'text, line',
  [
    ('import json\nimport no_such_package\n', "py:2: ModuleNotFoundError: .*'no_such_package'"),
    ('def loss_fn(:\n  pass\n', 'py:1: SyntaxError: invalid syntax'),
    ('def f():\n  return jnpp\n\nx = f()\n', "py:2: NameError: name 'jnpp'"),
    ('import json\njson.loads("{")\n', 'py:2: JSONDecodeError: Expecting property'),
    ('make = 1\n', "losses: 'mine.*' does not define loss_fn"),
  ],
)
@pytest.mark.parametrize('name', ['mine.loss', 'mine/loss.py', 'mine'])
def test_an_error_inside_the_users_file_is_said_with_its_line(
  folder, monkeypatch, name, text, line
):
  (folder / 'mine' / ('__init__.py' if name == 'mine' else 'loss.py')).write_text(text)
  if '/' not in name:
    monkeypatch.syspath_prepend(folder)
  for _ in range(2):
    with wrong(line):
      find('losses', name)


@pytest.mark.parametrize(
  'room, name, message',
  [
    ('losses', 'cross_entrpy', "losses: no 'cross_entrpy'; did you mean 'cross_entropy'"),
    ('data', 'zzz', "data: no 'zzz'; choose from: .*packed"),
    ('losses', 'experiments.nowhere.loss', "losses: no module 'experiments.nowhere.loss'"),
    ('losses', 'nowhere_at_all.loss', "losses: no module 'nowhere_at_all.loss'"),
    ('losses', 'json.decoder.deeper', "losses: no module 'json.decoder.deeper'"),
    ('losses', '.cross_entropy', 'losses: no '),
    ('losses', 'cross_entropy.', 'losses: no '),
    ('losses', '', "losses: no ''; choose from"),
    ('losses', 3, 'losses: 3 is no name'),
    ('losses', None, 'losses: None is no name'),
    ('losses', 'json', "losses: 'json' does not define loss_fn"),
    ('rewards', 'json', "rewards: 'json' does not define reward or rewards"),
    (
      'losses',
      'mine/los.py',
      "losses: no Python file 'mine/los.py' in .*did you mean 'mine/loss.py'",
    ),
    ('losses', 'mine/loss', "losses: no Python file 'mine/loss' in .*did you mean 'mine/loss.py'"),
    ('losses', 'nowhere/loss.py', "losses: no Python file 'nowhere/loss.py'"),
    ('losses', 'mine/', "losses: no Python file 'mine/'"),
  ],
)
def test_names_that_are_not_there(folder, room, name, message):
  with wrong(message):
    find(room, name)


def test_bind_fills_in_the_keywords_and_leaves_the_rest():
  bound = bind(loss_fn, {'beta': 0.5}, where='loss', model='m')
  assert bound('p', 'b', 'r') == ('p', 'b', 'r', 'm', 0.5, 1.0)


def test_call_calls():
  assert call(make, {'path': 'x'}, 'tok', where='data') == ('tok', 'x', 8)
  assert call(make, {'length': 4}, 'tok', where='data', path='given') == ('tok', 'given', 4)


def test_keywords_that_the_function_does_not_name():
  with wrong("loss: unknown option 'bta'; did you mean 'beta'"):
    bind(loss_fn, {'bta': 0.5}, where='loss', model='m')
  with wrong("loss: unknown option 'zzz'; choose from: beta, gamma$"):
    bind(loss_fn, {'zzz': 0.5}, where='loss', model='m')
  with wrong("data: unknown option 'lenght'; did you mean 'length'"):
    call(make, {'path': 'x', 'lenght': 4}, 'tok', where='data')
  with wrong("data: unknown option 'tokenizer'"):  # positional: the caller gives it
    call(make, {'path': 'x', 'tokenizer': 4}, 'tok', where='data')


def test_what_the_caller_gives_cannot_be_given_twice():
  with wrong("loss: unknown option 'model'"):
    bind(loss_fn, {'model': 'mine'}, where='loss', model='m')


def test_a_missing_keyword_is_named_with_its_place():
  with wrong("data: 'path' is missing; set config.data.path"):
    call(make, {}, 'tok', where='data')


def test_what_is_offered_is_taken_by_who_names_it():
  assert call(make, {'path': 'x'}, 'tok', where='data', offered={'length': 4, 'mesh': 'm'}) == (
    'tok', 'x', 4,
  )  # fmt: skip
  assert call(make, {}, 'tok', where='data', offered={'path': 'offered'}) == ('tok', 'offered', 8)
  assert call(open_ended, {}, where='sample', offered={'mesh': 'm', 'seed': 3}) == (3, {})


def test_the_config_and_the_caller_go_before_what_is_offered():
  offered = {'path': 'offered', 'length': 4}
  assert call(make, {'path': 'mine'}, 'tok', where='data', offered=offered) == ('tok', 'mine', 4)
  assert call(make, {}, 'tok', where='data', offered=offered, path='given') == ('tok', 'given', 4)
  assert offered == {'path': 'offered', 'length': 4}


def test_an_offer_makes_no_option_known():
  with wrong("data: unknown option 'mesh'"):
    call(make, {'path': 'x', 'mesh': 1}, 'tok', where='data', offered={'mesh': 'm'})
  with wrong("data: 'path' is missing; set config.data.path"):
    call(make, {}, 'tok', where='data', offered={'mesh': 'm'})


PRESETS = SimpleNamespace(
  PRESETS={'theirs': {'kind': 'ipo', 'beta': 0.5}, 'trl': {'kind': 'sigmoid'}}
)


def test_a_preset_comes_before_the_other_keywords():
  assert preset(PRESETS, {'preset': 'theirs'}, where='loss') == {'kind': 'ipo', 'beta': 0.5}
  found = preset(PRESETS, {'preset': 'theirs', 'beta': 1.0, 'alpha': 2.0}, where='loss')
  assert found == {'kind': 'ipo', 'beta': 1.0, 'alpha': 2.0}
  assert PRESETS.PRESETS['theirs'] == {'kind': 'ipo', 'beta': 0.5}


def test_without_a_preset_the_keywords_stay_what_they_are():
  hyper = {'beta': 1.0}
  found = preset(PRESETS, hyper, where='loss')
  assert found == hyper and found is not hyper
  assert preset(cross_entropy, {}, where='loss') == {}


def test_a_preset_that_is_not_there():
  with wrong("loss.preset: no 'their'; did you mean 'theirs'"):
    preset(PRESETS, {'preset': 'their'}, where='loss')
  with wrong("loss.preset: no 'zzz'; choose from: theirs, trl$"):
    preset(PRESETS, {'preset': 'zzz'}, where='loss')
  with wrong("loss.preset: no 'trl'; choose from: none"):
    preset(cross_entropy, {'preset': 'trl'}, where='loss')
  with wrong('loss.preset: no None; choose from'):
    preset(PRESETS, {'preset': None}, where='loss')


def test_a_function_that_takes_any_keyword_checks_them_itself():
  check(open_ended, {'anything': 1}, where='sample')
  assert call(open_ended, {'anything': 1}, where='sample') == (0, {'anything': 1})
