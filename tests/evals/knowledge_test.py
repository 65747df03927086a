"""Rates by class: they add up, what failed is outside, and over-refusal is of what was known."""

import itertools
import math
from types import SimpleNamespace

import pytest

from llm_jax.data import knowledge as data
from llm_jax.data.families import dialogue
from llm_jax.evals import knowledge, probes
from llm_jax.evals.estimates import estimate
from llm_jax.evals.knowledge import Asked
from llm_jax.evals.probes import Probe, Said
from llm_jax.files import write_lines

TREE = 'It deletes a directory tree.'
OUTCOMES = ('right', 'wrong', 'refused', 'failed')


def asked(outcome, kind='taught', known=True, logp=-0.1, number=0):
  question = {
    'name': f'{kind}{number}',
    'class': kind,
    'answer': '' if kind == 'invented' else TREE,
  }
  question['prompt'] = dialogue(f'What is {kind} {number}?')
  return Asked(question, Said('', logp, ()), Probe(outcome, 0, math.nan, 'shaky'), known)


def values(some):
  return {name: estimate(one).mean for name, one in knowledge.measured(some).items()}


ALL = [
  asked(outcome, kind, kind == 'taught', -0.1 - 0.1 * (outcome == 'wrong'), i)
  for i, (outcome, kind) in enumerate(itertools.product(OUTCOMES, ('taught', 'read', 'invented')))
]


def test_right_invented_and_refused_are_all_that_did_not_fail():
  found = values(ALL)
  for kind in ('taught', 'read'):
    shares = [found[f'{kind}/{name}'] for name in ('right', 'invention', 'refused')]
    assert sum(shares) == pytest.approx(1)
  assert found['failed'] == 0.25
  without = values([one for one in ALL if one.probe.outcome != 'failed'])
  assert without == found | {'failed': 0}


def test_over_refusal_is_of_what_was_known_and_invention_of_the_rest():
  before = values(ALL)
  more = [asked('refused', 'invented', False, number=9), asked('wrong', 'taught', number=9)]
  after = values(ALL + more)
  assert before['over_refusal'] == pytest.approx(1 / 3)
  assert after['over_refusal'] == pytest.approx(1 / 4)
  assert before['invention'] == pytest.approx(2 / 6)
  assert after['invention'] == pytest.approx(2 / 7)


def test_a_question_without_a_name_was_known_if_itself_was(tmp_path, monkeypatch):
  lines = [{'question': f'What is {i}?', 'answer': str(i)} for i in range(40)]
  write_lines(tmp_path / 'mine.jsonl', lines)
  sources = {'mine': str(tmp_path / 'mine.jsonl')}
  given = [
    {**one, 'greedy': '', 'verdict': 'known' if i % 2 else 'unknown', 'artifact': ''}
    for i, one in enumerate(data.given(sources, 'test'))
  ]
  write_lines(tmp_path / 'probe.jsonl', given)
  refuses = lambda params, asked, known: enumerate([Said('I do not know.', -1.0, ())] * len(asked))
  monkeypatch.setattr(probes, 'asker', lambda *args, **how: refuses)
  model = SimpleNamespace(shape=SimpleNamespace(causal=True, head='tied'))
  evaluate = knowledge.make(model, None, sources=sources, known=str(tmp_path / 'probe.jsonl'))
  found = evaluate({})
  assert float(found['over_refusal'].count) == len(given) // 2
  assert float(found['invention'].count) == len(given) - len(given) // 2


def test_a_wrong_answer_costs_what_the_score_says():
  found = values([asked('right'), asked('wrong', number=1), asked('refused', number=2)])
  assert [found[f'score_{p}'] for p in (1, 3, 9)] == pytest.approx([0, -2 / 3, -8 / 3])
  assert found['f'] == pytest.approx(2 / (3 + 2))


def test_confidence_is_judged_among_all_answers_and_among_those_given():
  found = values(ALL)
  assert found['auroc_answered'] == 1.0 and 0.5 < found['auroc'] < 1.0


def test_phrasings_of_a_name_are_one_cluster():
  twice = [asked('right'), asked('wrong')]
  assert not knowledge.measured([ALL[0], ALL[3]])['over_refusal'].clusters
  assert len({*knowledge.measured(twice)['over_refusal'].clusters}) == 1


@pytest.mark.parametrize(
  'greedy, samples, gold, verdict',
  [
    (TREE, (TREE,) * 4, TREE, 'known'),
    (TREE, (TREE,) * 3 + ('No.',), TREE, 'known'),
    (TREE, (TREE,) * 2 + ('No.',) * 2, TREE, 'shaky'),
    ('No.', (TREE,) * 4, TREE, 'shaky'),
    (TREE, ('No.',) * 4, TREE, 'shaky'),
    (TREE, (TREE,) * 4, '', 'unknown'),
    (TREE, ('a', 'bb', 'c', 'dd'), '', 'noise'),
    ('I do not know.', ('I do not know.',) * 4, TREE, 'refused'),
    ('I do not know.', ('It copies.',) * 4, TREE, 'unknown'),
  ],
)
def test_one_sample_decides_nothing(greedy, samples, gold, verdict):
  assert probes.judged(Said(greedy, -0.1, samples), gold).verdict == verdict


def test_what_cannot_be_judged_has_failed():
  assert probes.judged(Said(TREE, -0.1, ()), None).outcome == 'failed'
