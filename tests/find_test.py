"""A name in a config finds its file, and a wrong one is told what would have been right."""

import pytest

from llm_jax.find import bind, call, check, find, suggest
from llm_jax.losses import cross_entropy
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


def test_a_dotted_name_is_a_module_of_the_user(tmp_path, monkeypatch):
  folder = tmp_path / 'my_find_test'
  folder.mkdir()
  (folder / 'flip.py').write_text("def loss_fn():\n  return 'mine'\n")
  monkeypatch.syspath_prepend(tmp_path)
  assert find('losses', 'my_find_test.flip').loss_fn() == 'mine'


def test_an_error_inside_the_users_module_is_not_hidden(tmp_path, monkeypatch):
  folder = tmp_path / 'my_broken_find_test'
  folder.mkdir()
  (folder / 'loss.py').write_text('import no_such_package_anywhere\n')
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(ModuleNotFoundError, match='no_such_package_anywhere'):
    find('losses', 'my_broken_find_test.loss')


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
  ],
)
def test_names_that_are_not_there(room, name, message):
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


def test_a_function_that_takes_any_keyword_checks_them_itself():
  check(open_ended, {'anything': 1}, where='sample')
  assert call(open_ended, {'anything': 1}, where='sample') == (0, {'anything': 1})


def test_suggest():
  assert suggest('adam', ['adamw', 'lion']) == "did you mean 'adamw'?"
  assert suggest('zzz', ['adamw', 'lion']) == 'choose from: adamw, lion'
  assert suggest('zzz', []) == 'choose from: none'
