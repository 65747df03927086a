"""Candidates are called after their content, and what is wrong with a line is named."""

import json

import pytest

from llm_jax.labels import candidates
from llm_jax.labels.event import event
from llm_jax.types import BadInput

HOSTILE = '<img src=x onerror=alert(1)></script>\u202e<|im_start|>\ud83d'


def record(*texts, prompt='Hi', **more):
  return {'prompt': prompt, 'responses': [*texts], **more}


def test_the_id_is_that_of_the_content_alone():
  one = candidates.item(record('a', 'b', why='close'))
  told = [{'id': 'x', 'text': 'a', 'reward': 1.0}, {'id': 'y', 'text': 'b'}]
  other = candidates.item({'prompt': [{'role': 'user', 'content': 'Hi'}], 'responses': told})
  assert one.id == other.id and other.answer('x').about == {'reward': 1.0}
  assert one.id != candidates.item(record('b', 'a')).id
  assert one.id != candidates.item(record('a', 'b', prompt='Ho')).id


def test_an_item_survives_its_record_and_texts_stay_as_they_are():
  one = candidates.item(record(HOSTILE, 'x' * 10**6, '  b\n'))
  assert candidates.item(json.loads(json.dumps(one.record()))) == one
  assert one.answers[0].text == HOSTILE[:-1] + '?'  # half a character
  assert one.answers[2].text == '  b\n'


def test_answers_that_say_the_same_are_one():
  assert len(candidates.item(record('a b', ' a\n b ', 'c')).answers) == 2
  lines = [('1', record('a', 'a ')), ('2', record('a', 'b')), ('3', record('a', 'b'))]
  found, left = candidates.items(lines)
  assert len(found) == 1 and left == {'identical answers': 1, 'repeated': 1}


def test_the_lines_of_job_sample_are_read():
  one = candidates.item({'prompt': 'Hi', 'candidates': ['a', 'b'], 'scores': [0.5, None]})
  assert [answer.about['reward'] for answer in one.answers] == [0.5, None]


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('{', 'no JSON'),
    ('[' * 100_000, 'no JSON'),
    ('[]', 'list in the place of an object'),
    ('{"prompt": "Hi"}', "'responses' is missing"),
    ('{"responses": ["a", "b"]}', "'prompt' is missing"),
    ('{"prompt": "Hi", "responses": ["a"]}', '1 responses that differ; give 2 to 8'),
    (json.dumps(record(*'abcdefghi')), '9 responses that differ'),
    ('{"prompt": "Hi", "responses": ["a", {"id": "r1"}]}', "response 1 has no 'text'"),
    ('{"prompt": "Hi", "responses": [{"id": 3, "text": "a"}, "b"]}', 'response 0: id 3'),
    ('{"prompt": "Hi", "responses": [{"id": "r1", "text": "a"}, "b"]}', "have the id 'r1'"),
    ('{"prompt": [{"role": "king", "content": ""}], "responses": ["a", "b"]}', 'king'),
    ('{"prompt": [{"role": "assistant", "content": "a"}], "responses": ["a", "b"]}', 'assistant'),
    (json.dumps(record('a', 'b', gold='r7')), "gold 'r7' is the id of no response"),
  ],
)
def test_a_wrong_line_is_named(line, message, tmp_path):
  path = tmp_path / 'c.jsonl'
  path.write_text(json.dumps(record('a', 'b')) + '\n\n' + line + '\n')
  with pytest.raises(BadInput, match=r'c\.jsonl, line 3: .*') as error:
    candidates.read(path)
  assert message in str(error.value) and '\n' not in str(error.value)


def test_a_file_that_is_not_there_or_has_nothing_is_named(tmp_path):
  with pytest.raises(BadInput, match=r'no file .*none\.jsonl'):
    candidates.read(tmp_path / 'none.jsonl')
  (tmp_path / 'c.jsonl').write_text(json.dumps(record('a', 'a')))
  with pytest.raises(BadInput, match='no candidates are left'):
    candidates.read(tmp_path / 'c.jsonl')


ITEM = candidates.item(record('a', 'b'))
GOOD = {
  'item': ITEM.id,
  'kind': 'compare',
  'client': 'c',
  'shown': ['r1', 'r0'],
  'value': {'grade': -2, 'better': 'r1'},
}


def test_an_event_keeps_what_is_known_and_nothing_else():
  made = event({**GOOD, 'seconds': 1.23456, 'annotator': 'somebody else', 'seq': 3}, ITEM)
  assert made['seconds'] == 1.235 and not {'annotator', 'seq'} & made.keys()
  assert event({**GOOD, 'value': {'grade': 0, 'better': 'r0'}}, ITEM)['value']['better'] == 'r0'
  assert event({**GOOD, 'kind': 'rank', 'value': [['r0', 'r1']]}, ITEM)['kind'] == 'rank'
  edit = {'of': 'r0', 'text': '<b>\ud83d'}
  assert event({**GOOD, 'kind': 'edit', 'value': edit}, ITEM)['value']['text'] == '<b>?'


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'kind': 'like'}, "kind 'like'"),
    ({'kind': ['compare']}, 'kind'),
    ({'client': ''}, 'client is missing'),
    ({'client': 7}, 'client'),
    ({'seconds': -1}, 'seconds -1'),
    ({'seconds': float('nan')}, 'seconds nan'),
    ({'seconds': 10**400}, 'seconds 1000'),
    ({'again': 1}, 'again 1'),
    ({'shown': ['r0']}, 'shown'),
    ({'shown': ['r0', ['r1']]}, 'shown'),
    ({'value': None}, 'value'),
    ({'value': {'grade': 4, 'better': 'r0'}}, 'grade 4'),
    ({'value': {'grade': True, 'better': 'r0'}}, 'grade True'),
    ({'value': {'grade': 2, 'better': 'r1'}}, 'above 0 the second one shown is better'),
    ({'value': {'grade': 0, 'better': ['r1']}}, 'better'),
    ({'kind': 'rank', 'value': [['r0']]}, 'every answer once'),
    ({'kind': 'rank', 'value': [['r0'], [], ['r1']]}, 'every answer once'),
    ({'kind': 'rank', 'value': [[0], [1]]}, 'every answer once'),
    ({'kind': 'rate', 'value': {'r0': 1, 'r1': 8}}, '1 to 7'),
    ({'kind': 'edit', 'value': {'of': 'r9', 'text': 'x'}}, 'of has to be one of'),
    ({'kind': 'edit', 'value': {'of': [], 'text': 'x'}}, 'of has to be one of'),
    ({'kind': 'edit', 'value': {'of': 'r0', 'text': ' '}}, 'text is empty'),
    ({'kind': 'flag', 'value': {'reason': 'ugly'}}, 'reason'),
    ({'kind': 'undo'}, 'replaces is missing'),
  ],
)
def test_a_wrong_event_is_named(change, message):
  with pytest.raises(BadInput, match=r'\Aevent: ') as error:
    event({**GOOD, **change}, ITEM)
  assert message in str(error.value)


def test_numbers_that_json_does_not_have_are_nothing_and_ids_are_texts(tmp_path):
  answers = '[{"text": "a", "reward": NaN, "seen": [1e999, {"logp": -Infinity}]}, "b"]'
  (tmp_path / 'c.jsonl').write_text(f'{{"prompt": "q", "responses": {answers}}}')
  ((one,), _) = candidates.read(tmp_path / 'c.jsonl')
  assert one.answers[0].about == {'reward': None, 'seen': [None, {'logp': None}]}
  json.dumps(one.record(), allow_nan=False)
  numbered = [{'id': str(i), 'text': text} for i, text in enumerate('ab')]
  two = candidates.item({'prompt': 'q', 'responses': numbered})
  ranked = {'kind': 'rank', 'client': 'c', 'shown': ['0', '1'], 'value': [[0], [1]]}
  with pytest.raises(BadInput, match='every answer once'):  # no export could look them up
    event(ranked, two)
  assert event({**ranked, 'value': [['1'], ['0']]}, two)['value'] == [['1'], ['0']]
