"""The command line: what a config lists, what may be added, and what is refused in one line."""

from pathlib import Path

import pytest

from llm_jax import main


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
  monkeypatch.chdir(Path(__file__).parents[1])


def read(*options):
  return main.read_config(['main', '--config=configs/dpo.py', *options])


def test_a_listed_field_keeps_its_type_and_what_refers_to_it_follows():
  c = read('--config.workdir=runs/x', '--config.init.params=runs/y', '--config.total_steps=7')
  assert (c.total_steps, c.annotate.reference.path) == (7, 'runs/y')
  assert c.annotate.reference.cache == 'runs/x/reference'
  c = read('--config.annotate.reference.path=runs/z')
  assert (c.annotate.reference.path, c.init.params) == ('runs/z', 'runs/tiny/sft')


def test_a_group_takes_new_fields_and_new_groups():
  c = read('--config.loss.kind=ipo', '--config.loss.beta=0.5', '--config.model.lora.rank=4')
  assert c.loss.to_dict() == {'name': 'dpo', 'kind': 'ipo', 'beta': 0.5}
  assert c.model.lora.to_dict() == {'rank': 4}


@pytest.mark.parametrize(
  'option, message',
  [
    ('--config.los.kind=ipo', "unknown field 'los.kind'"),
    ('--config.lora.rank=2', "unknown field 'lora.rank'"),
    ('--config.total_steps.x=1', 'did you mean total_steps'),
    ('--config.loss.kind', 'a value is missing'),
    ('--loss.kind=ipo', 'options look like'),
  ],
)
def test_what_is_refused(option, message):
  with pytest.raises(SystemExit) as error:
    read(option)
  assert message in str(error.value) and '\n' not in str(error.value)
