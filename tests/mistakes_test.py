"""A small part of experiments/reliability/mistakes.py: each mistake is answered in one line."""

import collections
import io
import signal
import sys

import pytest

from experiments.reliability import mistakes
from llm_jax import main


@pytest.fixture(scope='module')
def base(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp('mistakes') / 'base')
  mistakes.make_base(folder)
  return folder


def test_mistakes_of_every_kind_are_answered_in_one_line(base):
  chosen = mistakes.mistakes(base, count=72, seed=0)
  assert min(collections.Counter(mistake.kind for mistake in chosen).values()) >= 3
  wrong = [(m.words, found) for m, found in mistakes.tried(base, chosen) if found]
  assert not wrong


def test_a_bug_of_ours_still_shows_where_it_is(monkeypatch):
  def broken(config):
    raise KeyError('ours')

  monkeypatch.setattr(main, 'run', broken)
  monkeypatch.setattr(main, 'read_config', lambda argv: mistakes.ConfigDict({'job': 'train'}))
  with pytest.raises(KeyError):
    main.main(['main', '--config=pretrain'])


def test_ctrl_c_before_the_first_step_is_one_line(monkeypatch, tmp_path):
  def interrupted(config):
    signal.raise_signal(signal.SIGINT)

  monkeypatch.setattr(main, 'run', interrupted)
  monkeypatch.setattr(main, 'read_config', lambda argv: mistakes.ConfigDict({'job': 'train'}))
  # A shell that starts something in the background lets it ignore the signal.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    with pytest.raises(SystemExit) as stop:
      main.main(['main', '--config=pretrain'])
  finally:
    signal.signal(signal.SIGINT, before)
  assert str(stop.value).startswith('SIGINT: ') and '\n' not in str(stop.value)


@pytest.mark.parametrize(
  ('number', 'cure'), [(27, 'raise the limit'), (28, 'make room'), (30, 'can be written to')]
)
def test_what_tensorstore_says_of_a_disk_is_one_line_too(number, cure):
  said = (
    'RESOURCE_EXHAUSTED: Error writing "a/0.0" in OCDBT database at local file "/run/state/": '
    f"Failed to write 305041 bytes to file 11: what the system says [os_error_code='{number}']"
  )
  told = main.told(ValueError(said))
  assert told and told.startswith('error: /run/state/: ') and cure in told


def test_a_chat_goes_on_after_what_it_cannot_answer(base, monkeypatch, capsys):
  long = b'cat ' * 2000
  said = b'a \xff\xfe cat\n' + long + b'\n/temperature nan\n'
  typed = io.TextIOWrapper(io.BytesIO(said), encoding='utf-8')
  monkeypatch.setattr(sys, 'stdin', typed)
  main.main(['main', '--config=chat', f'--config.artifact={base}', '--config.max_new=4'])
  said = capsys.readouterr().out
  assert 'character 3 of this line is not UTF-8' in said
  assert 'a question of' in said and 'temperature nan' in said and 'finite' in said
