"""Scores of answers by family, worked out by hand, and asked of a model that says one thing."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from llm_jax.data import families
from llm_jax.evals import answers, knowledge, searches
from llm_jax.find import find
from llm_jax.models.cache import empty as make_cache
from llm_jax.sampling import complete
from llm_jax.sampling.calls import Tools
from llm_jax.text.templates import MARKS
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput


def question(family, answer, text='why'):
  return {'prompt': families.dialogue(text), 'answer': answer, 'family': family}


def shown(metrics):
  return {name: (float(mean.total), float(mean.count)) for name, mean in metrics.items()}


def test_scores_by_family():
  asked = [
    question('word_problems', '3'),
    question('python_questions', 'It joins paths.'),
    question('word_problems', '4'),
    question('python_questions', 'It splits a path.'),
    question('word_problems', '5'),
  ]
  said = [
    '9 / 3 = 3. The answer is 3.',  # right, and worked out
    'it joins  paths.',  # the same text
    'The answer is 4.',  # right, and out of nowhere
    'It splits two words.',  # shares 2 of 4 words with the 3 of the gold text
    '2 + 2 = 4. The answer is 4.',  # wrong, but worked out
  ]
  assert shown(answers.score(asked, said)) == {
    'word_problems/exact_answer': (2, 3),
    'word_problems/reasons_first': (2, 3),
    'python_questions/word_overlap': (pytest.approx(1 + 2 * 2 / 7), 2),
    'python_questions/same_text': (1, 2),
  }


def test_every_family_has_scores_and_every_score_a_file():
  assert set(answers.SCORES) == set(families.FAMILIES)
  for names in answers.SCORES.values():
    for name in names:
      assert find('rewards', name).reward('the answer is 1', '1') >= 0


def test_a_family_without_scores_is_named():
  with pytest.raises(BadInput, match=r"no scores for 'riddles'; choose from: word_problems, pyth"):
    answers.score([question('riddles', '3')], ['3'])


def test_every_question_needs_its_answer():
  with pytest.raises(ValueError):
    answers.score([question('word_problems', '3')] * 2, ['3'])


class Parrot:
  """A language model that says the words of its parameters, one by one, whatever it was asked."""

  def __init__(self, vocab_size, max_length=64):
    self.shape = SimpleNamespace(
      vocab_size=vocab_size, max_length=max_length, causal=True, head='tied'
    )

  def for_decoding(self, params):
    return self, params

  def make_cache(self, batch, slots):
    cache = make_cache(batch, slots, num_layers=0, num_heads=0, head_dim=0, dtype='float32')
    return cache.replace(layers=jnp.zeros((batch, 1, 1, 1), int))

  def apply(self, params, tokens_BL, position=None, segment=None, cache=None, method=None):
    if method == 'unembed':
      return tokens_BL
    said_B = cache.layers[:, 0, 0, 0]  # how many words are said already is all that it remembers
    logits_BV = jax.nn.one_hot(params[said_B], self.shape.vocab_size)
    logits_BLV = jnp.broadcast_to(logits_BV[:, None], (*tokens_BL.shape, logits_BV.shape[-1]))
    cache, _ = cache.extend(position, segment)
    return logits_BLV, cache.replace(layers=cache.layers + 1)


@pytest.fixture(scope='module')
def tokenizer():
  return Tokenizer.train(['it joins paths, why and where else'] * 20, vocab_size=290)


def parrot(tokenizer, text):
  """A model and the parameters that make it say `text`."""
  words = [*tokenizer.encode(text), tokenizer.special('<|im_end|>')]
  return Parrot(tokenizer.vocab_size), jnp.asarray(words)


def test_second_questions_come_behind_another_of_their_family(tokenizer):
  """Two families take turns; each question keeps its answer and is said last."""
  model, params = parrot(tokenizer, 'it joins paths')
  model.shape.max_length = 128
  asked = [
    question('python_questions', 'it joins paths', 'why'),
    question('spelling', 'w h', 'where'),
    question('python_questions', 'else', 'and why'),
  ]
  seen = []
  answers.make(
    model, tokenizer, questions=asked, template='llm_jax', max_new=8, second=True,
    record=lambda one, said: seen.append((one, said)),
  )(params)  # fmt: skip
  told = [[m['content'] for m in one['prompt']] for one, _ in seen]
  assert told[0] == ['and why', 'else', 'why'] and told[1] == ['where', 'w h', 'where']
  assert told[2] == ['why', 'it joins paths', 'and why']
  assert [one['answer'] for one, _ in seen] == [one['answer'] for one in asked]


def test_a_model_is_asked_and_its_answers_are_scored(tokenizer):
  model, params = parrot(tokenizer, 'it joins paths')
  asked = [question('python_questions', gold) for gold in ('it joins paths', 'something else')]
  evaluate = answers.make(
    model, tokenizer, questions=asked, template='llm_jax', max_new=20, temperature=0.0
  )
  assert shown(evaluate(params)) == {
    'python_questions/word_overlap': (1, 2),
    'python_questions/same_text': (1, 2),
  }


def test_with_tools_the_question_lists_them_and_a_call_is_answered(tokenizer, monkeypatch):
  start, end = (tokenizer.special(mark) for mark in MARKS['search'])
  words = [start, *tokenizer.encode('calculator(2 * 3)'), end]
  words += [0, *tokenizer.encode('The answer is 6.'), tokenizer.special('<|im_end|>')]
  model, params = Parrot(tokenizer.vocab_size, max_length=300), jnp.asarray(words)
  asked, seen = [], []
  encoded = complete.encoded

  def watched(*given):
    seen.append(tokenizer.decode(encoded(*given), specials=True))
    return encoded(*given)

  monkeypatch.setattr(complete, 'encoded', watched)
  evaluate = answers.make(
    model,
    tokenizer,
    questions=[question('word_problems', '6', 'What is 2 * 3?')],
    template='llm_jax',
    tools=Tools({'calculator': lambda call: asked.append(call) or '6'}, max_result=8),
    max_new=60,
  )
  assert shown(evaluate(params)) == {
    'word_problems/exact_answer': (1, 1),
    'word_problems/reasons_first': (1, 1),  # by a call
  }
  assert asked == ['2 * 3']
  assert 'Tools: calculator<|im_end|>' in seen[0]


def test_by_name_it_finds_its_questions_and_tells_what_was_said(tokenizer, tmp_path):
  model, params = parrot(tokenizer, 'where')
  model.shape.max_length = 200
  lines = [
    {'question': 'why?', 'answer': gold, 'level': 2} for gold in ('here', 'where', 'nowhere')
  ]
  (tmp_path / 'mine.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  said = []
  evaluate = answers.make(
    model, tokenizer, families=('word_problems',), sources={'mine': f'{tmp_path}/mine.jsonl'},
    prompts=('and you?',), max_questions=2, scores=('same_text', 'tests.evals.answers_test'),
    options={'answers_test': {'most': 5}}, max_new=8, template='llm_jax',
    record=lambda question, answer: said.append((question, answer)),
  )  # fmt: skip
  assert shown(evaluate(params)) == {
    'word_problems/same_text': (0, 2), 'word_problems/answers_test': (2, 2),
    'mine/same_text': (1, 2), 'mine/answers_test': (1, 2),
  }  # fmt: skip
  assert said[0] == ({'prompt': 'and you?'}, 'where') and len(said) == 5
  known = families.records('questions', 'test', 'word_problems')
  assert [row for row, _ in said[1:3]] == known[:2]
  assert said[4][0] == {**lines[1], **question('mine', 'where', 'why?')}


def reward(answer, gold, *, most, level, prompt):
  """Counts as a file of rewards: whether an answer is short; some gold answers it cannot read."""
  if gold == 'here':
    raise ValueError(gold)
  return len(answer) <= most and (level, prompt) == (
    (2, 'why?') if gold == 'where' else (None, prompt)
  )


def test_where_no_answer_can_be_judged_the_reason_is_told():
  def refuse(answer, gold):
    raise BadInput(f'no such gold {gold}')

  judges = {'mine': {'refuse': answers.judge_of(refuse)}}
  with pytest.raises(BadInput, match='no such gold 3'):
    answers.score([question('mine', '3'), question('mine', '4')], ['3', '4'], judges)


@pytest.mark.parametrize(
  'options, message',
  [
    (dict(), 'no families; choose from: word_problems'),
    (dict(families=('word_problem',)), "no family 'word_problem'; did you mean 'word_problems'"),
    (dict(families=('word_problems',), scores=('same_txt',)), "did you mean 'same_text'"),
    (dict(questions=[question('riddles', '3')]), "no scores for 'riddles'"),
    (dict(prompts=('why',), sources={'mine': 'nowhere.jsonl'}), 'nowhere.jsonl'),
  ],
  ids=str,
)
def test_what_cannot_be_asked_is_named(tokenizer, options, message):
  with pytest.raises(BadInput, match=message):
    answers.make(Parrot(tokenizer.vocab_size, 600), tokenizer, **options)


@pytest.mark.parametrize(
  'evaluation, options',
  [
    (answers, {'prompts': ('why?',)}),
    (knowledge, {}),
    (searches, {'tools': Tools({'search': str})}),
  ],
)
@pytest.mark.parametrize(
  'shape, message', [({'causal': False}, 'masked'), ({'head': 'scalar'}, 'reward model')]
)
def test_a_model_that_cannot_answer_is_named(tokenizer, evaluation, options, shape, message):
  model = Parrot(tokenizer.vocab_size)
  vars(model.shape).update(shape)
  with pytest.raises(BadInput, match=message):
    evaluation.make(model, tokenizer, **options)
