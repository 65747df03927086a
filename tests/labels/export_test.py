"""What people said becomes rows that training reads unchanged, and nothing is lost in silence."""

import json
import random
from collections import Counter

import pytest

from llm_jax.data import formats, records
from llm_jax.data.formats import BadRow
from llm_jax.labels import candidates
from llm_jax.labels.export import changed, export
from llm_jax.labels.votes import Vote, counted, decide

PAIR = candidates.item({'prompt': 'Why?', 'responses': ['It is so.', 'I do not know it at all.']})
FOUR = candidates.item({'prompt': 'Which?', 'responses': ['a', 'b', 'c', 'd']})
BOTH = {one.id: one for one in (PAIR, FOUR)}


class Events(list):
  """Events of a log, by hand."""

  def add(self, item, kind, value, who='ann', **more):
    seq = len(self) + 1
    self.append(
      {'seq': seq, 'at': '', 'annotator': who, 'client': str(seq), 'item': item.id, 'kind': kind}
      | {'value': value, 'shown': [], 'seconds': 1.0, **more}
    )
    return self

  def compare(self, side, grade, who='ann', item=PAIR, **more):
    """As shown in the order of the item."""
    value = {'grade': grade if side else -grade, 'better': f'r{side}'}
    return self.add(item, 'compare', value, who, **more)


def rows(files, name):
  return [json.loads(line) for line in files[f'{name}.jsonl'].splitlines()]


def text(found):
  return found[0]['content']


@pytest.mark.parametrize('side', [0, 1])
@pytest.mark.parametrize('grade', [0, 1, 2, 3])
def test_a_grade_is_a_margin_and_unsure_is_still_a_side(side, grade):
  files, facts = export(BOTH, Events().compare(side, grade))
  (row,) = rows(files, 'reward')
  assert row['margin'] == grade and text(row['chosen']) == PAIR.answers[side].text
  assert row['prompt'] == PAIR.prompt and row['group'] == row['item'] == PAIR.id
  assert row['annotators'] == ['ann'] and row['agreement'] == 1.0
  assert len(rows(files, 'dpo')) == (grade >= 2)
  judged = {text(one['completion']): one['label'] for one in rows(files, 'kto')}
  assert judged == ({a.text: i == side for i, a in enumerate(PAIR.answers)} if grade else {})
  assert facts['dropped']['dpo'] == ({} if grade >= 2 else {'below the margin': 1})
  assert facts['rows']['sft'] == 0 and facts['unlabelled'] == 1


def test_both_bad_is_no_pair_and_two_bad_answers():
  files, facts = export(BOTH, Events().add(PAIR, 'compare', {'bad': True}))
  assert [one['label'] for one in rows(files, 'kto')] == [False, False]
  assert facts['rows']['reward'] == 0 and facts['dropped']['reward'] == {'all bad': 1}


def test_an_edit_is_one_row_of_sft_and_three_ordered_pairs():
  edit = {'of': 'r0', 'text': 'It is so, since it rained.'}
  events = Events().compare(0, 2).add(PAIR, 'edit', edit)
  files, _ = export(BOTH, events, dpo_margin=0)
  e, (c, r) = edit['text'], [answer.text for answer in PAIR.answers]
  for name in ('reward', 'dpo'):
    found = [(text(x['chosen']), text(x['rejected']), x['margin']) for x in rows(files, name)]
    assert sorted(found) == sorted([(c, r, 2.0), (e, c, 1.0), (e, r, 3.0)])
    assert {row['group'] for row in rows(files, name)} == {PAIR.id}
  (told,) = rows(files, 'sft')
  assert told['messages'] == [*PAIR.prompt, {'role': 'assistant', 'content': e}]
  judged = {text(one['completion']): one['label'] for one in rows(files, 'kto')}
  assert judged == {e: True, c: True, r: False}


def test_an_edit_that_changes_nothing_is_none_and_one_that_changes_all_beats_the_loser_only():
  events = (
    Events().compare(1, 1).add(PAIR, 'edit', {'of': 'r1', 'text': ' I do not know it at all. '})
  )
  _, facts = export(BOTH, events)
  assert facts['rows']['sft'] == 0 and facts['dropped']['sft'] == {'unchanged edit': 1}
  anew = 'Rain fell because warm air rose over mountains yesterday.'
  assert changed(PAIR.answers[1].text, anew) > 0.8
  files, facts = export(BOTH, Events().compare(1, 1).add(PAIR, 'edit', {'of': 'r1', 'text': anew}))
  found = {(text(x['chosen']), text(x['rejected'])): x['margin'] for x in rows(files, 'reward')}
  r, c = (answer.text for answer in PAIR.answers)
  assert found == {(c, r): 1.0, (anew, r): 2.0} and facts['rows']['sft'] == 1
  assert facts['dropped']['reward'] == {'written anew': 1}
  # What was edited did not win, or was not compared: it is only better than before.
  files, _ = export(BOTH, Events().compare(1, 1).add(PAIR, 'edit', {'of': 'r0', 'text': 'It is.'}))
  assert len(rows(files, 'reward')) == 2


def test_a_ranking_stays_together_and_is_pairs_for_dpo():
  ranked = [['r2'], ['r0'], ['r3'], ['r1']]
  files, facts = export(BOTH, Events().add(FOUR, 'rank', ranked), dpo_margin=1)
  (row,) = rows(files, 'reward')
  assert row['answers'] == ['c', 'a', 'd', 'b'] and row['ranks'] == [1, 2, 3, 4]
  assert facts['largest_group'] == 4
  pairs = {(text(x['chosen']), text(x['rejected'])): x['margin'] for x in rows(files, 'dpo')}
  assert len(pairs) == 6 and pairs['c', 'b'] == 3.0 and pairs['a', 'd'] == 1.0
  assert {row['group'] for row in rows(files, 'dpo')} == {FOUR.id}
  judged = {text(one['completion']): one['label'] for one in rows(files, 'kto')}
  assert judged == {'c': True, 'b': False}
  files, _ = export(BOTH, Events().add(FOUR, 'rank', [['r2'], ['r0', 'r3'], ['r1']]))
  assert len(rows(files, 'reward')) == 5  # the two that are alike are no pair
  rated = Events().add(FOUR, 'rate', {'r0': 7, 'r1': 6, 'r2': 4, 'r3': 1})
  (row,) = rows(export(BOTH, rated)[0], 'reward')
  assert row['answers'] == [*'abcd']


def test_the_majority_decides_and_what_is_close_is_disputed():
  assert decide(('a', 'b'), [Vote('x', 1, 3), Vote('y', -1, -1)]) is None  # neither has more
  three = [Vote('x', 1, 3), Vote('y', 1, 2), Vote('z', -1, -1)]
  assert decide(('a', 'b'), three) == ('b', 'a', 1.0, 2 / 3, ('x', 'y', 'z'))
  close = [Vote('x', 1, 1), Vote('y', 1, 1), Vote('z', -1, -3)]
  assert decide(('a', 'b'), close) is None
  assert decide(('a', 'b'), close, keep=True)[:3] == ('b', 'a', 0.0)
  events = Events().compare(1, 1, 'x').compare(1, 1, 'y').compare(0, 3, 'z')
  _, facts = export(BOTH, events)
  assert facts['rows']['reward'] == 0 and facts['dropped']['reward'] == {'disputed': 1}
  assert export(BOTH, events, disputed='keep')[1]['rows']['reward'] == 1


def test_only_the_newest_that_was_not_taken_back_counts():
  events = Events().compare(0, 3).compare(1, 1)
  assert text(rows(export(BOTH, events)[0], 'reward')[0]['chosen']) == PAIR.answers[1].text
  events.add(PAIR, 'undo', {}, replaces=2)
  assert [one['seq'] for one in counted(events)] == [1]
  assert rows(export(BOTH, events)[0], 'reward')[0]['margin'] == 3
  events.compare(1, 1, again=True)  # it came a second time, and stays apart
  files, facts = export(BOTH, events)
  assert rows(files, 'reward')[0]['margin'] == 3 and facts['repeats'] == 1


def test_gold_flagged_and_skipped_items_are_counted():
  gold = PAIR._replace(gold='r0')
  assert export({PAIR.id: gold}, Events().compare(0, 3))[1]['dropped']['dpo'] == {'made as gold': 1}
  events = Events().compare(0, 3).add(PAIR, 'flag', {'reason': 'unsafe'}, 'ben')
  assert export(BOTH, events)[1]['dropped']['kto'] == {'flagged': 1}
  events = Events().add(PAIR, 'skip', {'reason': ''})
  assert export(BOTH, events)[1]['dropped']['reward'] == {'skipped': 1}


def some_log(seed):
  """Items of two to five answers, and events of all kinds by three annotators."""
  rng = random.Random(seed)
  items, events = {}, Events()
  words = ['rain', '', '<|im_start|>', '\u202e', 'two', '</script>', 'é', ' ']
  for i in range(40):
    texts = {f'{i} {" ".join(rng.choices(words, k=rng.randint(0, 6)))} {j}' for j in range(5)}
    texts = sorted(texts)[: rng.randint(2, 5)]
    one = candidates.item(
      {'prompt': f'q{i % 30}', 'responses': [*texts[:-1], rng.choice([texts[-1], ''])]}
    )
    items[one.id] = one
    ids = [answer.id for answer in one.answers]
    for who in rng.sample(['ann', 'ben', 'cem'], rng.randint(0, 3)):
      kind = rng.choice(['compare', 'rank', 'rate', 'skip'] if len(ids) == 2 else ['rank', 'rate'])
      if kind == 'compare':
        events.compare(rng.randint(0, 1), rng.randint(0, 3), who, one)
      elif kind == 'rank':
        rng.shuffle(ids)
        events.add(one, 'rank', [[x] for x in ids], who)
      else:
        events.add(one, kind, {x: rng.randint(1, 7) for x in ids} if kind == 'rate' else {}, who)
      if rng.random() < 0.3:
        events.add(one, 'edit', {'of': ids[0], 'text': one.answer(ids[0]).text + ' more'}, who)
      if rng.random() < 0.1:
        events.add(one, 'undo', {}, who, replaces=len(events))
  return items, events


@pytest.mark.parametrize('seed', range(5))
def test_the_same_log_gives_the_same_bytes_whatever_the_order_of_items(seed):
  items, events = some_log(seed)
  again = dict(reversed(items.items()))
  assert export(items, events, held_out=0.2) == export(again, [*events], held_out=0.2)
  files, _ = export(items, events)
  parts, _ = export(items, events, held_out=0.2)
  for name in ('reward', 'dpo', 'kto', 'sft'):
    both = parts[f'{name}.jsonl'] + parts[f'{name}_held_out.jsonl']
    assert sorted(both.splitlines()) == sorted(files[f'{name}.jsonl'].splitlines())
    prompts = [
      {str(one.get('prompt') or one['messages'][:1]) for one in rows(parts, f'{name}{x}')}
      for x in ('', '_held_out')
    ]
    assert not prompts[0] & prompts[1]


PARSERS = {
  'reward': formats.preference,
  'dpo': formats.preference,
  'kto': formats.labelled,
  'sft': formats.conversation,
}


@pytest.mark.parametrize('seed', range(5))
def test_the_readers_of_training_take_every_row(seed, tmp_path):
  files, facts = export(*some_log(seed), dpo_margin=0)
  for name, parse in PARSERS.items():
    path = tmp_path / f'{name}.jsonl'
    path.write_bytes(files[path.name])
    found = Counter(
      type(item).__name__ if isinstance(item, BadRow) else 'read'
      for split in ('train', 'validation')
      for _, item in records.read(
        'mine', {'mine': str(path)}, parse, lambda item: [], kind='preferences', split=split
      )
    )
    assert found == {'read': facts['rows'][name]} and found['read'] > 0


def test_margins_and_ranks_are_read_as_they_were_given():
  files, _ = export(
    BOTH, Events().compare(1, 3).add(FOUR, 'rank', [['r3'], ['r1'], ['r0'], ['r2']])
  )
  read = [formats.preference(row) for row in rows(files, 'reward')]
  said = {(*(text(answer) for answer in answers),): margin for _, answers, margin in read}
  assert said == {tuple(a.text for a in PAIR.answers[::-1]): 3.0, tuple('dbac'): None}


def test_flags_and_edits_count_whenever_they_are_made():
  flagged = Events().compare(0, 3).add(PAIR, 'flag', {'reason': 'unsafe'}, again=True)
  files, facts = export(BOTH, flagged)
  assert not any(files.values()) and facts['dropped']['reward'] == {'flagged': 1}
  edit = lambda of, text: {'of': of, 'text': text}
  edited = Events().compare(0, 3).add(PAIR, 'edit', edit('r0', 'It is so now.'), again=True)
  assert export(BOTH, edited)[1]['rows']['sft'] == 1
  edited.add(PAIR, 'edit', edit('r1', 'I do not know it.'))
  said = [one['messages'][-1]['content'] for one in rows(export(BOTH, edited)[0], 'sft')]
  assert said == ['It is so now.', 'I do not know it.']
  edited.add(PAIR, 'edit', edit('r1', 'I do not know of it.'))  # the newest of one answer
  said = [one['messages'][-1]['content'] for one in rows(export(BOTH, edited)[0], 'sft')]
  assert said == ['It is so now.', 'I do not know of it.']


@pytest.mark.parametrize('grade', [{'grade': -3, 'better': 'r0'}, {'bad': True}])
def test_an_edit_that_says_what_another_answer_does_contradicts_no_grade(grade):
  same = {'of': 'r0', 'text': f' {PAIR.answers[1].text}'}
  files, facts = export(BOTH, Events().add(PAIR, 'compare', grade).add(PAIR, 'edit', same))
  assert facts['dropped']['sft'] == {'edit that says what another answer does': 1}
  pairs = [(text(one['chosen']), text(one['rejected'])) for one in rows(files, 'reward')]
  assert len(pairs) == len({frozenset(pair) for pair in pairs})
  labels = {}
  for one in rows(files, 'kto'):
    assert labels.setdefault(text(one['completion']), one['label']) == one['label']


@pytest.mark.parametrize('least', [1.0, 2.0, 3.0])
def test_a_ranking_of_which_pairs_are_left_out_is_the_others(least):
  ranked = Events().add(FOUR, 'rank', [['r0'], ['r1'], ['r2'], ['r3']])
  files, facts = export(BOTH, ranked, reward_margin=least)
  whole, found = least <= 1, rows(files, 'reward')
  kept = {1.0: 6, 2.0: 3, 3.0: 1}[least]
  assert len(found) == (1 if whole else kept)
  assert facts['dropped']['reward'] == ({} if whole else {'below the margin': 6 - kept})
  assert [one['margin'] >= least for one in found if 'margin' in one] == [True] * (not whole) * kept
  blank = candidates.item({'prompt': 'Which?', 'responses': ['a', ' ', 'c', 'd']})
  files, facts = export({blank.id: blank}, Events().add(blank, 'rank', ranked[0]['value']))
  assert len(rows(files, 'reward')) == 3 and facts['dropped']['reward'] == {'empty answer': 3}
