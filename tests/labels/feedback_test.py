"""What users did with answers becomes rows by the rules of docs/labelling.md, and nothing else."""

import json
import time
from collections import Counter

import pytest

from llm_jax.data import formats
from llm_jax.labels import acts
from llm_jax.labels.feedback import FILES, export
from llm_jax.labels.private import stripped
from llm_jax.labels.said import MADE_UP

ASKED = [{'role': 'user', 'content': 'Why?'}]
READERS = {
  'preferences': formats.preference,
  'kto': formats.unpaired,
  'sft': formats.conversation,
}


class Log(list):
  """Events of a log, by hand."""

  def add(self, value, text='It is so.', id='a', user='ann', asked=ASKED, **more):
    answer = {'id': id, 'text': text, 'finish': 'stop', **more.pop('answer', {})}
    event = {'seq': len(self) + 1, 'at': '2026-11-29T10:00:00.000Z', 'kind': 'chat', 'store': True}
    event |= {'annotator': user, 'conversation': f'of {user}', 'fingerprint': 'f00', 'model': 'm'}
    self.append({**event, 'value': value, 'messages': asked, 'answer': answer, **more})
    return self

  def thumb(self, grade, text='It is so.', tags=(), **more):
    return self.add({'act': 'thumb', 'grade': grade, 'tags': [*tags], 'comment': ''}, text, **more)

  def edit(self, after, text='It is so.', **more):
    return self.add({'act': 'edit', 'text': after}, text, **more)

  def keep(self, act, kept, others, shown=None, **more):
    """The one that is kept is called after its text, and so are the others."""
    drafts = [{'id': one, 'text': one, 'finish': 'stop'} for one in others]
    value = {'act': act, 'kept': kept, 'shown': shown or [*others, kept]}
    return self.add(value, kept, id=kept, answer={'others': drafts}, **more)


def rows(log, **options):
  """file -> its rows, each of which the stage that it is for can read."""
  made = export(log, **options)
  found = {name: [json.loads(one) for one in made.files[f'{name}.jsonl'].splitlines()]
           for name in FILES}  # fmt: skip
  for name, read in READERS.items():
    assert all(read(row) for row in found[name])
  assert {name: len(some) for name, some in found.items()} == made.facts['rows']
  return found


def left(log, file, **options):
  return export(log, **options).facts['dropped'][file]


def pairs(log, **options):
  text = lambda row, side: row[side][0]['content']
  found = rows(log, **options)['preferences']
  return sorted((text(one, 'chosen'), text(one, 'rejected'), one['margin']) for one in found)


def test_a_thumb_is_a_good_or_a_bad_answer_until_it_is_taken_back():
  log = Log().thumb(1, 'good').thumb(-1, 'bad', id='b')
  assert {one['completion'][0]['content']: one['label'] for one in rows(log)['kto']} == {
    'good': True,
    'bad': False,
  }
  assert rows(log)['preferences'] == rows(log)['sft'] == []
  assert [one['label'] for one in rows(log.thumb(1, 'bad', id='b'))['kto']] == [True, True]
  assert len(rows(log.thumb(0, 'bad', id='b'))['kto']) == 1


@pytest.mark.parametrize(('thumb', 'margin'), [(None, 2.0), (-1, 3.0), (1, 1.0)])
def test_an_edit_is_a_row_of_sft_a_good_answer_and_a_pair(thumb, margin):
  log = Log() if thumb is None else Log().thumb(thumb)
  log.edit('It is so, as it rained.')
  found = rows(log)
  assert pairs(log) == [('It is so, as it rained.', 'It is so.', margin)]
  assert [one['messages'][-1]['content'] for one in found['sft']] == ['It is so, as it rained.']
  judged = {one['completion'][0]['content']: one['label'] for one in found['kto']}
  before = {} if thumb is None else {'It is so.': thumb > 0}
  assert judged == {'It is so, as it rained.': True, **before}


def test_an_edit_that_changes_nothing_or_everything_is_no_pair():
  assert left(Log().edit(' It  is so. '), 'sft') == {'unchanged edit': 1}
  anew = Log().edit('Because of the rain yesterday')
  assert pairs(anew) == [] and left(anew, 'preferences') == {'written anew': 1}
  assert len(rows(anew)['sft']) == 1
  assert len(pairs(anew.thumb(-1))) == 1  # what was bad is worse than what was written anew


def test_of_an_edit_of_an_edit_the_last_one_is_right():
  log = Log().edit('It is so today.')
  log.edit('It is so this day.', 'It is so today.', id='b', answer={'edited': 'a'})
  assert [one['messages'][-1]['content'] for one in rows(log)['sft']] == ['It is so this day.']
  assert pairs(log) == [('It is so this day.', 'It is so.', 2.0)]
  log.thumb(1, 'It is so this day.', id='c', answer={'edited': 'b'})
  assert left(log, 'kto') == {'own words': 1}


def test_a_draft_that_was_kept_is_better_than_the_others_or_those_before_it():
  assert pairs(Log().keep('pick', 'b', ['a', 'c'])) == [('b', 'a', 1.0), ('b', 'c', 1.0)]
  again = Log().keep('regenerate', 'b', ['a', 'c'], shown=['a', 'b', 'c'])
  assert pairs(again) == [('b', 'a', 1.0)]
  assert pairs(again.keep('pick', 'c', ['a', 'b'])) == [('c', 'a', 1.0), ('c', 'b', 1.0)]
  assert left(Log().keep('pick', 'b', ['a']).thumb(-1, 'b', id='b'), 'preferences') == {
    'contradicted': 1
  }
  assert left(Log().keep('pick', 'b ', ['b']), 'preferences') == {'identical answers': 1}


def test_what_was_made_up_is_a_question():
  (row,) = rows(Log().thumb(-1, 'By Ann.', tags=[MADE_UP]))['questions']
  assert row['question'] == 'Why?' and row['answer'] == '' and row['said'] == 'By Ann.'
  assert row['tags'] == [MADE_UP]
  assert rows(Log().thumb(1, tags=[MADE_UP]))['questions'] == []


def test_calls_results_thoughts_and_tools_come_through():
  function = {'name': 'add', 'arguments': '{"a": 1, "phone": 123456789012}'}
  call = {'id': 'c1', 'type': 'function', 'function': function}
  asked = [
    *ASKED,
    {'role': 'assistant', 'content': None, 'tool_calls': [call], 'reasoning_content': 'hm'},
    {'role': 'tool', 'content': '3'},
  ]
  tool = {'type': 'function', 'function': {'name': 'add', 'description': 'adds'}}
  log = Log().edit('It is three.', 'It is 3.', asked=asked, tools=[tool])
  log.thumb(-1, '', id='x', answer={'tool_calls': [call], 'reasoning': 'so'})
  found = rows(log)
  for row in (found['sft'][0], found['preferences'][0], found['kto'][0]):
    assert row.get('tools', [tool]) == [tool]
  prompt, *_ = formats.preference(found['preferences'][0])
  system, user, calls, result = prompt
  assert '"add"' in system['content'] and user == ASKED[0] and result['content'] == '3'
  (kept,) = calls['tool_calls']
  assert json.loads(kept['function']['arguments']) == {'a': 1, 'phone': '[number]'}
  assert calls['reasoning_content'] == 'hm'
  (bad,) = [one for one in found['kto'] if not one['label']]
  assert bad['completion'][0]['tool_calls'] and bad['completion'][0]['reasoning_content'] == 'so'


@pytest.mark.parametrize(
  ('changes', 'reason'),
  [
    ({'store': False}, 'without consent'),
    ({'store': 'yes'}, 'without consent'),
    ({'messages': []}, 'not understood'),
    ({'messages': [{'role': 'x', 'content': 'a'}]}, 'not understood'),
    ({'messages': [*ASKED, {'role': 'assistant', 'content': 'a'}]}, 'not understood'),
    ({'messages': [{'role': 'user', 'content': [1]}]}, 'not understood'),
    ({'answer': 'yes'}, 'not understood'),
    ({'answer': {'id': 'a', 'text': 'x', 'others': [3]}}, 'not understood'),
    ({'answer': {'id': 'a', 'text': 'x', 'tool_calls': [{}]}}, 'not understood'),
    ({'value': {'act': 'thumb', 'grade': True}}, 'not understood'),
    ({'value': {'act': 'shout'}}, 'not understood'),
    ({'messages': [{'role': 'user', 'content': 'x' * 10**6}]}, 'too long'),
    ({'tools': [json.loads('[' * 200 + ']' * 200)]}, 'too long'),
  ],
)
def test_an_event_of_another_form_is_left_out_and_counted(changes, reason):
  log = Log().thumb(1)
  log[0] |= changes
  assert left(log, 'events') == {reason: 1} and rows(log)['kto'] == []


def test_no_half_of_a_character_is_left_anywhere_and_a_schema_may_say_anything():
  call = {'type': 'function', 'function': {'name': 'f', 'arguments': '{"\\ud800": ["\\udfff"]}'}}
  schema = {'\ud800': 'b\udfff', 'arguments': 'no JSON'}
  tool = {'type': 'function', 'function': {'name': 'f', 'parameters': schema}}
  log = Log().thumb(1, '', tools=[tool], answer={'tool_calls': [call]})
  (row,) = rows(log)['kto']
  (made,) = row['completion'][0]['tool_calls']
  assert json.loads(made['function']['arguments']) == {'?': ['?']}
  assert row['tools'][0]['function']['parameters'] == {'?': 'b?', 'arguments': 'no JSON'}


def test_texts_stay_what_they_are():
  hostile = '<img src=x onerror=alert(1)> <|im_start|>system\u202e \ud800 </script>'
  log = Log().thumb(1, hostile, asked=[{'role': 'user', 'content': hostile}])
  (row,) = rows(log)['kto']
  whole = hostile.replace('\ud800', '?')
  assert row['completion'][0]['content'] == row['prompt'][0]['content'] == whole


def test_addresses_and_numbers_are_stripped_and_counted():
  asked = [{'role': 'user', 'content': 'I am ann@example.org, +44 20 7946 0123'}]
  made = export(Log().thumb(1, 'Hello ann@example.org, 12 apples cost $3,000', asked=asked))
  (row,) = made.files['kto.jsonl'].splitlines()
  assert b'example' not in row and b'7946' not in row and b'12 apples cost $3,000' in row
  assert made.facts['stripped'] == {'e-mail': 2, 'number': 1, 'key': 0}
  told = Log().thumb(-1, 'By Ann.', tags=[MADE_UP, 'ann@example.org'])
  told.thumb(1, 'Use AKIAIOSFODNN7EXAMPLE at 8.8.4.4, jürgen@müller.de', id='b')
  whole = b''.join(export(told).files.values())
  assert not any(one in whole for one in (b'example', b'AKIA', b'8.8.4.4', b'ller.de'))
  assert export(told).facts['stripped'] == {'e-mail': 2, 'number': 1, 'key': 1}
  assert stripped({'ann@example.org': 'me'}, Counter()) == {'[e-mail]': 'me'}
  began = time.process_time()
  for text in ('a' * 10**5, 'a.' * 10**5, 'a@' * 10**5, '1 ' * 10**5, '@a.' * 10**5):
    stripped(text, Counter())
  assert time.process_time() - began < 1


def test_users_have_a_vote_each_and_so_many_rows():
  log = Log().thumb(1, user='ann').thumb(1, user='ann').thumb(1, user='ben').thumb(-1, user='cem')
  assert left(log, 'kto') == {'disputed': 1}
  (row,) = rows(log.thumb(1, user='dan'))['kto']
  assert row['label'] and row['agreement'] == 0.75 and len(row['annotators']) == 4
  assert 'ann' not in row['annotators'] and acts.hashed('ann') in row['annotators']
  many = Log()
  for i in range(50):
    many.thumb(1, f'answer {i}', id=str(i), asked=[{'role': 'user', 'content': f'{i}?'}])
  assert len(rows(many)['kto']) == 20
  assert left(many, 'kto') == {'more than a user has in a day': 30}
  for i in range(50):
    many.thumb(1, f'one {i}', id=f'x{i}', user='ben' if i < 3 else 'cem')
  found = rows(many, per_prompt=6)['kto']
  who = Counter(one['annotators'][0] for one in found if one['prompt'] == ASKED)
  assert who == {acts.hashed('ben'): 3, acts.hashed('cem'): 3}  # they take turns


def test_an_answer_that_was_cut_is_never_a_good_one():
  cut = {'finish': 'length'}
  assert left(Log().thumb(1, answer=cut), 'kto') == {'cut answer': 1}
  assert [one['label'] for one in rows(Log().thumb(-1, answer=cut))['kto']] == [False]


def test_a_later_round_has_what_is_new_and_knows_what_was_said_before():
  log = Log().thumb(1, 'old').thumb(-1, id='b')
  first = export(log)
  log.edit('It is so, then.', id='b').thumb(0, 'old')
  (row,) = rows(log, after=first.facts['last'])['preferences']
  assert row['margin'] == 3.0  # as the thumb down still says
  assert len(rows(log, after=2)['kto']) == 1
  assert export(log, until=2).files == first.files
  assert first.facts['artifacts'] == {
    'f00': {'model': 'm', 'rows': {'preferences': 0, 'kto': 2, 'sft': 0, 'questions': 0}}
  }


def test_the_same_log_gives_the_same_bytes_in_any_order():
  log = Log()
  for i, user in enumerate(['ann', 'ben', 'cem', 'ann', 'ben'] * 3):
    log.thumb((1, -1)[i % 2], f'{i % 4}', id=str(i % 4), user=user)
    log.edit(f'{i % 4} and more', f'{i % 4}', id=str(i % 4), user=user)
    log.keep('pick', 'b', [f'{i % 3}'], user=user)
  assert export(log).files == export(Log(reversed(log))).files
  assert export(log) == export(json.loads(json.dumps(log)))
  assert sum(export(log).facts['rows'].values()) > 5
