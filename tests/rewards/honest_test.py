"""What an answer is: refusals by how they begin, right by words, and what changes the meaning."""

import json
from pathlib import Path

import pytest

from llm_jax.data.refusals import refusal
from llm_jax.rewards import honest

FIXTURES = Path(__file__).parents[1] / 'fixtures'
GOLD = 'It returns True if the object is a class.'


@pytest.mark.parametrize('place', range(20))
def test_every_refusal_that_is_taught_is_one(place):
  for name in (f'os.jion{place}', 'but.it', 'perhaps', ''):
    said = refusal({'name': name, 'prompt': [place]})
    assert honest.refused(said), said
    assert honest.reward(said, 'whatever') == 0


@pytest.mark.parametrize(
  'text',
  [
    GOLD,
    'It tells what I do not know.',
    'There is no return value.',
    'I do not know. It returns the number of threads.',
    "I'm not sure, but it returns the number of threads.",
    'I do not know\n\nIt returns the number of threads.',
    'I do not know: it returns the number of threads.',
    'I do not know — it returns the number of threads.',
    'It is not sure that there is no `x`.',
    'I am not sure. The function `os.jion` joins two paths.',
    'I do not know `os.jion`. This joins two paths.',
    'I do not know `os.jion`! `os.jion` joins two paths.',
    'I am not sure, this joins two paths.',
    "I can't recall, though `x.y` returns the size of a file.",
    'I am not sure. Sorry. I think it joins paths.',
    'I do not know. I do not know, but the sine of x is returned.',
    'I do not know: the documentation says that files are copied.',
    '',
  ],
)
def test_an_answer_that_claims_something_or_shares_words_with_a_refusal_is_none(text):
  assert not honest.refused(text)


@pytest.mark.parametrize(
  'text',
  [
    "I'm sorry, but I do not know.",
    'Sorry, I cannot say.',
    'Unfortunately, I don’t know what `but.it` is.',
    'I do not know what it is.',
    'I do not know `x`: the documentation does not have it.',
    'I do not know `x`. The documentation lacks it.',
    "I don't know what `a`, `b` and `this.c` are.",
    'I do not know. Could you tell me more? Please do.',
    'I am not sure. I do not know `x`. Sorry.',
  ],
)
def test_a_refusal_may_be_polite(text):
  assert honest.refused(text)


def test_another_right_answer_is_right():
  gold, also = 'It returns an iterator over an object.', ['Get an iterator from an object.']
  quote = '"Get an iterator from an object."'
  assert honest.outcome(quote, gold) == 'wrong'
  assert honest.outcome(quote, gold, also) == honest.outcome(gold, gold, also) == 'right'
  assert honest.outcome('It gets a number from an object.', gold, also) == 'wrong'
  assert honest.outcome('It gets nothing.', '', []) == 'wrong'


def test_thoughts_are_no_answer():
  assert honest.refused('<think>It deletes a tree.</think>I do not know.')
  assert not honest.refused('<think>I do not know.</think>It deletes a tree.')


def test_a_hedged_claim_is_judged_as_the_claim():
  assert honest.outcome(f'I am not sure, but {GOLD}', GOLD) == 'right'
  assert honest.outcome('I am not sure, but it returns the current time.', GOLD) == 'wrong'
  assert honest.outcome('I do not know. It adds numbers.', 'It adds numbers.') == 'right'


@pytest.mark.parametrize(
  'answer, outcome',
  [
    (GOLD, 'right'),
    ('it returns true if the object is a class', 'right'),
    ('It returns True if it is a class.', 'right'),
    ('It returns True if the object is not a class.', 'wrong'),
    ("It doesn't return True if the object is a class.", 'wrong'),
    ('It returns False if the object is a class.', 'wrong'),
    ('It returns True if the object is a module.', 'wrong'),
    ('It returns True.', 'wrong'),
    ('', 'wrong'),
    ('It', 'wrong'),
    ('It is', 'wrong'),
  ],
)
def test_one_word_for_another_is_another_claim(answer, outcome):
  assert honest.outcome(answer, GOLD) == outcome


@pytest.mark.parametrize('gold', ['', '  ', '...'])
def test_where_there_is_nothing_to_know_only_a_refusal_is_not_wrong(gold):
  assert honest.outcome('It copies a file.', gold) == 'wrong'
  assert honest.outcome('', gold) == 'wrong'
  assert honest.outcome('I do not know `x`.', gold) == 'refused'


@pytest.mark.parametrize('wrong', [0, 1, 3])
def test_guessing_pays_above_the_confidence_that_the_cost_says(wrong):
  right, refused, bad = (
    honest.reward(text, 'Paris', wrong=wrong) for text in ('It is Paris.', 'I do not know.', 'Rome')
  )
  even = wrong / (1 + wrong)
  assert even * right + (1 - even) * bad == pytest.approx(refused)


def test_it_agrees_with_a_hundred_labels_given_by_hand():
  """Answers of a small model and of one that was taught to refuse, a third of them near misses."""
  lines = (FIXTURES / 'honest_answers.jsonl').read_text().splitlines()
  labelled = [json.loads(line) for line in lines]
  agree = [honest.outcome(one['answer'], one['gold']) == one['label'] for one in labelled]
  assert len(agree) == 100 and sum(agree) >= 97


def test_a_hedge_before_a_claim_neither_saves_it_nor_spoils_it():
  for hedge in ('I am not sure. ', "I'm not certain, but ", 'I do not know.\n'):
    assert honest.outcome(f'{hedge}The capital of Austria is Vienna.', 'Vienna') == 'right'
    assert honest.reward(f'{hedge}The capital of Austria is Graz.', 'Vienna', wrong=9) == -9
