"""Small talk: one reply to each topic, and ten prompts that nothing is trained on."""

import re

from llm_jax.data import questions, small_talk
from llm_jax.data.families import KINDS, SPLITS, records
from llm_jax.rewards import mentions
from tests.data.families_test import said


def plain(text):
  return re.sub(r'\W+', ' ', text.lower()).strip()


def asked(split, family=None):
  talks = [said(r['messages']) for r in records('conversations', split, family)]
  return {plain(m['content']) for talk in talks for m in talk[::2]}


def test_no_training_of_any_family_knows_the_ten():
  kept = {plain(prompt) for prompt, _ in small_talk.KEPT}
  assert len(kept) == 10 and not kept & asked('train') and not kept & asked('validation')
  pairs = records('preferences', 'train')
  assert not kept & {plain(pair['prompt'][-1]['content']) for pair in pairs}
  tested = {plain(q['prompt'][0]['content']) for q in records('questions', 'test', 'small_talk')}
  assert tested == kept


def test_the_ten_are_questions_as_stages_read_them():
  """A gold answer that looks like a list would be refused."""
  for record in records('questions', 'test', 'small_talk'):
    assert questions.question(record)[1] == record['answer']


def test_what_is_trained_answers_each_of_the_ten_and_no_reply_answers_them_all():
  """So a sensible answer exists, and no one text passes for all."""
  replies = {one.reply for one in small_talk._exchanges('train')}
  for reply in replies:
    assert sum(mentions.reward(reply, gold) for _, gold in small_talk.KEPT) <= 2
  answers = {
    part
    for record in records('conversations', 'train')
    for message in said(record['messages'])[1::2]
    if isinstance(part := message['content'], str)
  }
  for prompt, gold in small_talk.KEPT:
    assert any(mentions.reward(answer, gold) for answer in answers), prompt


def test_sums_are_right_and_larger_ones_belong_to_one_split():
  numbers = {}
  for split in SPLITS:
    for one in small_talk._sums(split):
      x, sign, y, result = re.search(r'(\d+) ([-+*]) (\d+) = (\d+)\.$', one.reply).groups()
      assert eval(f'{x} {sign} {y}') == int(result)
      if min(int(x), int(y)) > 9:
        numbers.setdefault(split, set()).add((sign, x, y))
  assert all(len(found) > 10 for found in numbers.values())
  assert not numbers['train'] & numbers['test'] and not numbers['validation'] & numbers['test']


def test_talks_have_several_turns_and_every_reply_is_that_of_its_message():
  replies = {one.said: one.reply for one in small_talk._exchanges('train')}
  talks = [said(r['messages']) for r in records('conversations', 'train', 'small_talk')]
  assert {len(talk) for talk in talks} == {2, 4, 6, 8}
  for talk in talks:
    for message, reply in zip(talk[::2], talk[1::2], strict=True):
      assert replies.get(message['content'], reply['content']) == reply['content']


def test_a_rejected_reply_is_never_the_chosen_one():
  for split in SPLITS:
    for pair in records('preferences', split, 'small_talk'):
      assert pair['chosen'] != pair['rejected']
  assert all(records(kind, split, 'small_talk') for kind in KINDS for split in SPLITS)
