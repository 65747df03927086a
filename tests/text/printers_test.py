"""A hundred of the texts of experiments/reliability/printers.py, through every printer."""

import pytest

from experiments.reliability import printers
from llm_jax.jobs import page
from llm_jax.text import terminal


def test_no_text_acts_on_a_terminal_or_a_page():
  assert not any(printers.run(100, seed=1).values())


@pytest.mark.parametrize('where', [terminal, page])
def test_it_would_be_seen_otherwise(monkeypatch, where):
  monkeypatch.setattr(where, 'visible', lambda text, **how: str(text))
  monkeypatch.setattr(
    printers.Screen, 'write', lambda self, text: printers.io.StringIO.write(self, text)
  )
  found = printers.run(30)
  assert found['pages' if where is page else 'guarded'] > 10


def test_markup_would_be_seen_otherwise(monkeypatch):
  monkeypatch.setattr(page, '_inline', lambda text: ' '.join(text.split()))
  monkeypatch.setattr(page, '_html', str)
  assert printers.run(30)['pages'] > 10
