"""Rows from verdicts: balanced, of names to train on, and without the truth that is not known."""

import json
from collections import Counter

import pytest

from llm_jax.data import formats, refusals
from llm_jax.data.families import dialogue
from llm_jax.files import write_lines
from llm_jax.rewards import honest
from llm_jax.types import BadInput

VERDICTS = ('known', 'unknown', 'noise', 'shaky', 'unknown', 'unknown', 'refused')


def probed(count=42):
  return [
    {
      'prompt': dialogue(f'What is `m.name{i}`?'),
      'answer': '' if i % 2 else f'It is the truth about {i}.',
      'name': f'm.name{i}',
      'class': 'read',
      'split': 'train',
      'greedy': f'It is story {i}.',
      'verdict': VERDICTS[i % len(VERDICTS)],
      'artifact': 'abc',
    }
    for i in range(count)
  ]


def said(row):
  return row['messages'][-1]['content']


@pytest.mark.parametrize('ratio', [0.5, 1.0, 2.0])
def test_refusals_and_right_answers_have_the_ratio_that_is_asked_for(ratio):
  rows = refusals.conversations(probed(), ratio=ratio)
  counts = Counter(honest.refused(said(row)) for row in rows)
  assert counts[True] / counts[False] == pytest.approx(ratio, rel=0.05)


def test_the_truth_about_what_is_unknown_is_in_no_row():
  for rows in (refusals.conversations(probed()), refusals.preferences(probed())):
    text = json.dumps(rows)
    for one in probed():
      if one['verdict'] != 'known' and one['answer']:
        assert one['answer'] not in text


def test_noise_is_refused_or_left_out():
  names = lambda rows: {row['name'] for row in rows}
  noise = {one['name'] for one in probed() if one['verdict'] == 'noise'}
  assert noise <= names(refusals.conversations(probed()))
  assert not noise & names(refusals.conversations(probed(), noise=False))


def test_pairs_are_of_both_kinds_in_equal_numbers():
  pairs = refusals.preferences(probed())
  text = lambda pair, side: pair[side][0]['content']
  kinds = Counter(
    (honest.refused(text(p, 'chosen')), honest.refused(text(p, 'rejected'))) for p in pairs
  )
  assert kinds == {(True, False): len(pairs) // 2, (False, True): len(pairs) // 2}


def test_no_refusal_is_called_worse_than_another():
  refuses = {'greedy': 'I am not sure what `m.x` is.', 'samples': ['', 'I do not know.']}
  some = [one | refuses if one['verdict'] != 'known' else one for one in probed()]
  assert refusals.preferences(some) == []
  invents = [one | {'samples': ['', 'I do not know.', 'It copies a file.']} for one in some]
  unknown = [one for one in invents if one['verdict'] in ('unknown', 'noise')]
  worse = [one['rejected'][0]['content'] for one in refusals.preferences(unknown)]
  assert worse == ['It copies a file.'] * len(unknown)


def test_rows_are_read_as_they_are():
  for row in refusals.conversations(probed()):
    assert formats.conversation(row)[-1]['content'] == said(row)
  for pair in refusals.preferences(probed()):
    prompt, answers, margin = formats.preference(pair)
    assert len(prompt) == 1 and len(answers) == 2 and margin


def test_only_questions_about_python_are_asked_again_in_other_words():
  known, *unknown = ({**one, 'verdict': 'unknown'} for one in probed(6))
  known['verdict'] = 'known'
  asked = lambda one: [
    row['messages'][0]['content']
    for row in refusals.conversations([one, *unknown])
    if row['verdict'] == 'known'
  ]
  assert len({*asked(known)}) == 5 and all('`m.name0`' in text for text in asked(known))
  yours = known | {'prompt': dialogue('Who won?'), 'name': '', 'class': 'sport'}
  assert asked(yours) == ['Who won?'] * 5


def test_a_model_that_knows_nothing_still_learns_to_refuse():
  none = [one for one in probed() if one['verdict'] != 'known']
  assert all(honest.refused(said(row)) for row in refusals.conversations(none))
  assert refusals.preferences(none)


def test_verdicts_of_another_model_are_refused_in_one_line(tmp_path):
  write_lines(tmp_path / 'probe.jsonl', probed())
  assert refusals.read(tmp_path / 'probe.jsonl', 'abc') == probed()
  with pytest.raises(BadInput, match='another artifact, abc and not xyz; probe') as error:
    refusals.read(tmp_path / 'probe.jsonl', 'xyz')
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('content', ['{"name": "x"}\n', '{"na', '[1]\n'])
def test_a_file_that_no_probe_wrote_is_refused(tmp_path, content):
  (tmp_path / 'probe.jsonl').write_text(content)
  with pytest.raises(BadInput, match=r'probe\.jsonl'):
    refusals.read(tmp_path / 'probe.jsonl')
