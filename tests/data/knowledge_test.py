"""The questions that show where knowledge ends: what exists, what does not, what is held out."""

import json
from collections import Counter

import pytest

from llm_jax.data import builtin, families, knowledge, python_questions
from llm_jax.types import BadInput


def facts_of(kind):
  return [fact for fact in knowledge.facts() if fact.kind == kind]


def test_every_class_has_names_to_measure_on():
  for kind in knowledge.CLASSES[:-1]:  # all but those of yours
    assert sum(fact.split == 'test' for fact in facts_of(kind)) >= 30
  assert len(facts_of('unrehearsed')) == 30


def test_names_that_end_alike_share_a_split_and_lookalikes_that_of_what_they_look_like():
  splits = {}
  for fact in knowledge.facts():
    if fact.kind not in ('unread', 'elsewhere', 'unrehearsed'):
      assert splits.setdefault(fact.group, fact.split) == fact.split
  assert {fact.split for fact in facts_of('unread')} == {'test'}


def test_no_name_of_one_split_is_asked_about_in_another_but_for_taught_ones():
  names = {
    split: {q['name'] for q in knowledge.questions(split) if q['class'] != 'taught'}
    for split in families.SPLITS
  }
  assert not names['train'] & names['test'] and not names['validation'] & names['test']


def test_more_names_that_nobody_has_are_of_one_split_and_none_is_asked_about_elsewhere():
  known = {fact.name for fact in knowledge.facts()}
  found = knowledge.nobody_has('train')
  names = [one['name'] for one in found]
  assert len({*names}) == len(names) > 1000 and not known & {*names}
  assert all(not one['answer'] and one['name'] in one['prompt'][-1]['content'] for one in found)
  assert {one['split'] for one in found} == {'train'}
  for fact in knowledge._more('train'):
    assert fact.split == 'train' and fact.kind in ('invented', 'lookalike')


def test_no_phrasing_of_one_split_is_in_another():
  asked = [{str(q['prompt']) for q in knowledge.questions(split)} for split in families.SPLITS]
  assert not asked[0] & asked[1] and not asked[1] & asked[2] and not asked[0] & asked[2]


@pytest.mark.parametrize('kind', ['invented', 'lookalike'])
def test_what_is_made_up_is_nowhere(kind):
  there = {entry.name for split in builtin.SPLITS for entry in builtin.entries(split)}
  for fact in facts_of(kind):
    assert fact.answer == '' and fact.name not in there
    assert python_questions.find(fact.name) is None, fact.name


def test_two_names_never_share_an_answer():
  answers = [fact.answer for fact in knowledge.facts() if fact.answer and fact.kind != 'elsewhere']
  assert len(answers) == len({*answers})


def test_what_the_documentation_says_of_a_taught_name_is_right_as_well():
  facts = {fact.name: fact for fact in knowledge.facts()}
  assert facts['next'].also == 'Return the next item from the iterator.'
  assert facts['os.remove'].also == 'Remove a file (same as unlink()).'
  others = [fact for fact in facts.values() if fact.also]
  assert {fact.kind for fact in others} == {*knowledge.KNOWN} and len(others) > 150
  everything = Counter(text for fact in facts.values() for text in (fact.answer, fact.also) if text)
  assert {everything[fact.also] for fact in others} == {1}  # so no wrong answer is right by luck
  told = {q['name']: q.get('also') for q in knowledge.questions('test', classes=knowledge.KNOWN)}
  assert all(told[fact.name] == [fact.also] for fact in others)


def test_what_is_set_apart_is_in_no_conversation_of_the_refusal_stage():
  kept = [knowledge.record(one) for one in families.records('conversations', 'train')]
  text = json.dumps([one for one in kept if one is not None])
  assert not any(f'`{fact.name}`' in text for fact in facts_of('unrehearsed'))
  assert sum(one is None for one in kept) < 0.1 * len(kept)


def test_several_phrasings_are_of_the_same_names():
  once, thrice = (knowledge.questions('test', phrasings=n, most=5) for n in (1, 3))
  assert {q['name'] for q in once} == {q['name'] for q in thrice}
  assert len({str(q['prompt']) for q in thrice}) == 3 * len(once)


def test_questions_of_yours_are_split_and_keep_their_passage(tmp_path):
  lines = [
    {'question': f'What is {i}?', 'answer': str(i), 'passage': f'This is {i}.'} for i in range(40)
  ]
  path = tmp_path / 'mine.jsonl'
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  parts = [knowledge.given({'mine': str(path)}, split) for split in families.SPLITS]
  assert sum(map(len, parts)) == 40 and all(parts)
  assert {one['answer'] in one['passage'] for part in parts for one in part} == {True}
  assert knowledge.given({'mine': str(path)}) and parts[0][0]['class'] == 'given'


@pytest.mark.parametrize('classes', [(), ('taugth',)])
def test_a_class_that_does_not_exist_is_refused(classes):
  with pytest.raises(BadInput, match='no class'):
    knowledge.questions('test', classes=classes)
