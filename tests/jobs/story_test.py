"""The sentences of a report: three a stage, with the figures of the run and no others."""

import re

import pytest

from configs import pipeline
from llm_jax.jobs import glossary, progress, report_talks, story

NAMES = {'questions/sums/right': 'right sums', 'text/bits_per_byte': 'bits per byte'}
TRAINED = {
  'loss': 'x', 'steps': 400, 'tokens': 1600, 'parameters': 1_810_000,
  'began': {'loss': 8.25, 'reward': None}, 'ended': {'loss': 3.125, 'reward': None},
}  # fmt: skip


def answering(right, bits, **more):
  ends = {'low': right - 0.05, 'high': right + 0.05, 'n': 200, 'error': 0.02, 'method': 't'}
  measured = {'questions/sums/right': right, 'text/bits_per_byte': bits}
  compared = {'questions/sums/right': {'sure': right not in (0.51, 0.0), 'worse': right < 0.5}}
  facts = {'intervals': {'questions/sums/right': ends}, 'moved': compared}
  return {**TRAINED, 'metrics': measured, **facts, **more}


STAGES = {
  'tokenize': {'kind': 'tokenize', 'vocab_size': 4096, 'sources': {'text': {
    'train': {'documents': 7, 'bytes': 3_000_000, 'tokens': 1_000_000, 'bytes_per_token': 3.0},
    'validation': {'documents': 2, 'bytes': 100, 'tokens': 40}}}},
  'pretrain': answering(0.0, 1.75, kind='base', before=None),
  'sft': answering(0.5, 3.5, kind='chat', before='pretrain'),
  'reward': {**TRAINED, 'kind': 'reward', 'before': 'sft', 'evaluated': {
    'validation/accuracy': 0.85, 'validation/chosen_score': 2.0,
    'validation/rejected_score': -1.0}},
  'best': {'kind': 'answers', 'prompts': 60, 'n': 8, 'single': 0.5, 'best': 0.75, 'written': 50},
  'ppo': answering(0.7, 3.45, kind='tries', before='sft', held=True),
  'dpo': answering(0.51, 3.5, kind='prefers', before='sft'),
  'small': {**answering(0.7, 3.45), 'kind': 'compress', 'before': 'ppo', 'bits_per_weight': 8.2,
            'bytes': {'before': 7_000_000, 'after': 3_500_000}},
  'mine': {**TRAINED, 'kind': 'encoder', 'before': None},
}  # fmt: skip


# What the sentences about STAGES may say, worked out by hand.
FIGURES = {
  *('4,096', '3.00', '7', '1,000,000', '2', '1.81', '400', '1,600', '8.25', '3.12', '1.750', '8'),
  *('0', '100', '200', '3.500', '85.0', '50', '2.00', '1.00', '60', '0.500', '0.750', '140'),
  *('3.450', '8.2', '3.50', '7.00'),
}


@pytest.mark.parametrize('name', STAGES)
def test_a_stage_is_told_in_sentences_whose_figures_are_those_of_the_run(name):
  found = story.sentences(name, STAGES, NAMES)
  assert 2 <= len(found) <= 3
  for one in found:
    assert one.endswith(('.', '?')) and not re.search('None|nan|  ', one)
    assert not {*re.findall(r'\d[\d,.]*\d|\d', one)} - FIGURES


def test_what_moved_is_told_apart_from_what_did_not():
  told = lambda name: ' '.join(story.sentences(name, STAGES, NAMES))
  assert 'right sums from 100 to 140 of 200' in told('ppo')
  assert 'What went down: bits per byte from 3.500 to 3.450' in told('ppo')
  assert 'Nothing that was measured moved' in told('dpo')
  assert 'is a higher reward also a better answer' in told('ppo')
  lost = {'ppo': answering(0.4, 3.45, kind='tries', before='sft')}
  assert 'may get lost' in ' '.join(story.sentences('ppo', STAGES | lost, NAMES))
  assert (
    story.why_bits_rise(STAGES)[0] == 'sft' and '1.750 to 3.500' in story.why_bits_rise(STAGES)[1]
  )
  assert story.why_bits_rise({'a': STAGES['ppo'], 'b': STAGES['ppo']}) == ('', '')


@pytest.mark.parametrize('recipe', pipeline.RECIPES)
def test_every_stage_of_a_recipe_has_a_purpose_and_a_story(recipe):
  c = pipeline.get_config(recipe)
  for name in c.stages:
    assert progress.purpose(c[name]) and progress.kind(c[name]) in story.KINDS
    assert name in c.expected
  assert progress.before(c, c.stages[-1])


def test_words_that_explain_words_are_explained():
  found = dict(glossary.words(['the KL of a chat model']))
  assert {'KL', 'nats', 'chat model'} <= found.keys() and 'MFU' not in found


def test_a_word_is_found_as_a_word_in_either_case():
  assert {'PPO'} == {
    word for word, _ in glossary.words(['ppo lowers what we look at, naturally'])
  } - {'reward'}


def test_the_answers_whose_reward_moved_most_are_shown():
  of = lambda *rewards: [
    {'family': 'sums', 'prompt': [{'role': 'user', 'content': str(i)}], 'gold': '', 'answer': '',
     'right': True, 'reward': reward} for i, reward in enumerate(rewards)]  # fmt: skip
  found = report_talks.pairs(of(0.0, 0.0, 0.0), of(1.0, -2.0, 3.0))
  assert [after['reward'] for _, _, after in found] == [3.0, 1.0, -2.0]
  assert report_talks.pairs([], of(1.0)) == []
