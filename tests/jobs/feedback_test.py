"""From thumbs on a served page to a second round of training, and what a deletion changes of it."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import feedback as feedback_config
from configs import pipeline as recipes
from experiments.reliability import stages
from llm_jax.data import preferences
from llm_jax.files import sha256
from llm_jax.jobs import feedback, feedback_report, rounds, rounds_report
from llm_jax.jobs.command import read_config
from llm_jax.main import run
from llm_jax.serving.feedback import Feedback
from llm_jax.types import BadInput, NothingNew
from tests.serving.stand_in import TOKENIZER, send, serving

ABOUT = {'model': 'm', 'fingerprint': 'f00'}


def event(i, value, text='it is one', user='ann', **more):
  asked = [{'role': 'user', 'content': f'one and two, item {i}'}]
  answer = {'id': f'a{i}', 'text': text, 'finish': 'stop', **more}
  made = {'client': json.dumps([i, user, value]), 'conversation': f'talk{i}', 'item': f'a{i}'}
  return {**made, 'annotator': user, 'store': True, 'messages': asked, 'answer': answer,
          'value': value}  # fmt: skip


def edit(i, after, **more):
  return event(i, {'act': 'edit', 'text': after}, **more)


def add(file, *events):
  log = Feedback(file)
  for one in events:
    log.add(one, ABOUT)
  log.close()


def config_of(folder, name='round1', **given):
  c = feedback_config.get_config()
  c.events, c.workdir = str(folder / 'events.sqlite'), str(folder / name)
  c.update(given)
  return c


def export_of(config):
  return json.loads((Path(config.workdir) / 'export.json').read_text())


def test_what_a_client_sends_is_read_by_the_stages(tmp_path):
  log = Feedback(tmp_path / 'events.sqlite')
  drafts = {'others': [{'id': 'b3', 'text': 'it is two', 'finish': 'stop'}]}
  said = [
    event(1, {'act': 'thumb', 'grade': -1, 'tags': ['made up'], 'comment': 'no such item'}),
    edit(1, 'it is one, and one alone'),
    event(2, {'act': 'thumb', 'grade': 1, 'tags': [], 'comment': ''}),
    event(3, {'act': 'pick', 'kept': 'a3', 'shown': ['b3', 'a3']}, **drafts),
  ]

  async def scenario():
    async with serving(feedback=log) as app:
      return [(await send(app, 'POST', '/events', {**one, 'model': 'm'})).status for one in said]

  assert asyncio.run(scenario()) == [200] * 4
  log.close()
  c = config_of(tmp_path)
  run(c)
  assert export_of(c)['rows'] == {'preferences': 2, 'kto': 3, 'sft': 1, 'questions': 1}
  path = f'{c.workdir}/preferences.jsonl'
  options = dict(template='llm_jax', length=128, validation_fraction=0.0)
  rows = preferences.make(TOKENIZER, sources={'users': path}, **options)
  assert len(rows) == 2 and {float(row['margin']) for row in rows} == {1.0, 3.0}
  options |= dict(kind='unpaired', sources={'users': f'{c.workdir}/kto.jsonl'})
  assert sorted(float(row['label']) for row in preferences.make(TOKENIZER, **options)) == [0, 1, 1]
  told = (Path(c.workdir) / 'report.html').read_text()
  assert 'made up' in told and '<td class="number">0.500</td>' in told  # one thumb of two is up


def killed(*args):
  raise KeyboardInterrupt


def test_a_later_export_has_what_is_new_and_a_deletion_makes_the_first_one_again(
  tmp_path, capsys, monkeypatch
):
  c = config_of(tmp_path)
  with pytest.raises(NothingNew, match=r'there is no .*events.sqlite.*; serve a model with'):
    run(c)
  add(c.events, event(0, {'act': 'copy'}))
  with pytest.raises(NothingNew, match='has nothing new for a row: nobody has rated an answer'):
    run(c)
  assert not Path(c.workdir).exists()
  add(c.events, edit(1, 'it is one.'), edit(2, 'it is one!'))
  run(c)
  files = {path.name: path.read_bytes() for path in Path(c.workdir).glob('*.jsonl')}
  add(c.events, edit(3, 'it is one, yes'))
  capsys.readouterr()
  run(c)
  assert 'is finished: rows: 2 preferences' in capsys.readouterr().out
  later = config_of(tmp_path, 'round2', since=c.workdir)
  run(later)
  assert export_of(later)['rows']['sft'] == 1 and export_of(later)['after'] == 3
  with pytest.raises(NothingNew, match='nothing new since'):
    run(config_of(tmp_path, 'round3', since=later.workdir))
  assert not feedback.outdated(c)
  log = Feedback(c.events)
  assert log.delete('talk1') == 1
  log.close()
  assert feedback.outdated(c) and not feedback.outdated(later)
  write = feedback_report.write
  monkeypatch.setattr(feedback_report, 'write', killed)
  with pytest.raises(KeyboardInterrupt):
    run(c)
  monkeypatch.setattr(feedback_report, 'write', write)
  run(c)  # goes on, and takes nothing that came later
  assert export_of(c)['rows']['sft'] == 1 and export_of(c)['last'] == 3
  text = (Path(c.workdir) / 'sft.jsonl').read_bytes()
  assert b'item 1' not in text and text in files['sft.jsonl'] and not feedback.outdated(c)
  with pytest.raises(BadInput, match=r'since: .* has no export.json'):
    run(config_of(tmp_path, 'round4', since=str(tmp_path)))


def test_what_moves_the_thumbs_is_said():
  picks, longer = [], 'it is one, as far as anybody can tell today'
  for i in range(40):
    text = longer if i % 10 else 'it is one'
    draft = {'others': [{'id': 'b', 'text': 'it is two or so', 'finish': 'stop'}]}
    made = event(i, {'act': 'pick', 'kept': f'a{i}', 'shown': [f'a{i}', 'b']}, text=text, **draft)
    picks.append({**made, 'seq': i, 'kind': 'chat', 'at': '2026-11-29T'})
  facts = feedback_report.measured(picks)
  assert facts['picks']['first']['k'] == 40 and facts['picks']['longer']['k'] == 36
  assert [
    line.partition(' 1')[0].partition(' 9')[0] for line in feedback_report.warnings(facts)
  ] == [
    'The draft shown first was kept',
    'The longer draft was kept',
  ]
  users = [(1, 'ann'), (1, 'ann'), (1, 'ann'), (-1, 'ben')]
  thumbs = [
    {**event(i, {'act': 'thumb', 'grade': grade}, user=who), 'seq': i, 'kind': 'chat', 'at': 'd'}
    for i, (grade, who) in enumerate(users)
  ]
  assert feedback_report.measured(thumbs)['all'] == {'up': 3, 'down': 1, 'users': 2, 'share': 0.5}


def test_more_thumbs_and_fewer_right_answers_are_flattery():
  row = lambda n, liked, right: {
    'round': n,
    'thumbs': {'share': liked},
    'metrics': {'questions/right': right},
  }
  say = lambda *rows: rounds_report.flattery(rows, ['questions/right'])
  (told,) = say(row(1, 0.5, 0.8), row(2, 0.9, 0.6))
  assert 'from 0.500 to 0.900, and questions/right from 0.800 to 0.600' in told
  assert say(row(1, 0.5, 0.8), row(2, 0.9, 0.9)) == say(row(1, 0.9, 0.8), row(2, 0.5, 0.6)) == []
  assert say(row(1, 0.5, 0.8), {**row(2, 0.9, 0.6), 'metrics': {}}) == []  # it was not asked


@pytest.mark.parametrize('recipe', recipes.RECIPES)
def test_a_round_starts_from_the_one_before(recipe):
  words = [f'--config=pipeline:{recipe}', '--config.rounds=3', '--config.workdir=/runs']
  c = read_config(['', *words, '--config.again.dpo.total_steps=7'])
  first, second, third = rounds.of(c)
  assert second == ['round2_feedback', 'round2_reward', 'round2_dpo'] and first == [*c.stages][:-6]
  policy = rounds.newest(c, first, 'policy')  # what is compressed of it is not trained
  assert c.round2_dpo.init.params == c[policy].workdir and c.round2_dpo.total_steps == 7
  assert c.round3_dpo.init.params == c.round3_dpo.annotate.reference.path == '/runs/round2/dpo'
  # Without a reward model in the recipe each round makes one of its policy.
  reward = '/runs/round2/reward' if 'reward' in first else '/runs/round2/dpo'
  assert c.round3_reward.init.params == reward and not c.round2_feedback.since
  assert c.round3_feedback.since == c.round2_feedback.workdir == '/runs/round2/feedback'
  assert c.round3_dpo.data.sources.users == '/runs/round3/feedback/preferences.jsonl'
  assert c.round3_feedback.events == '/runs/events.sqlite'
  once = [*c.stages]
  rounds.expand(c)
  assert [*c.stages] == once and third == once[-3:]
  assert list(read_config(['', words[0]]).stages) == first


def test_a_round_starts_from_no_classifier_and_needs_no_reward_model():
  c = recipes.build('some', ('tokenize', 'pretrain', 'sft', 'reward', 'classify'))
  c.rounds = 2
  rounds.expand(c)
  assert c.round2_reward.init.params == c.reward.workdir
  assert rounds.newest(c, c.stages[:5], 'policy') == 'sft'
  words = ['--config=pipeline:r1', '--config.rounds=2', '--config.workdir=/runs']
  c = read_config(['', *words, "--config.again.stages=('feedback', 'kto')"])
  rounds_report.check(c)  # nothing could judge, so nothing is compared


def small(folder, count):
  """A pipeline of two models that talk, in so many rounds."""
  c = recipes.build('two', ('tokenize', 'pretrain', 'sft'))
  c = stages.small(c, folder / 'data', folder / 'run', steps=2)
  for name in ('reward', 'dpo'):
    stage = c.again[name]
    stage.total_steps, stage.batch_size, stage.accumulate = 2, 4, 1
    stage.data.length, stage.data.validation_fraction = 96, 0.2
    stage.eval_every = stage.checkpoint_every = 2
    stage.sample.prompts = ()
  c.again.reward.data.sources.builtin = f'{folder}/data/pairs.jsonl'
  c.report.evals.questions.update(prompts=('one and two',), families=('word_problems',))
  c.report.evals.questions.update(max_new=6, max_questions=2, batch_size=2)
  c.report.evals.text.name = c.report.evals.rollouts.name = c.report.evals.tools.name = ''
  c.report.evals.second.name = ''
  c.report.rounds.data = ConfigDict(dict(sources=dict(own=f'{folder}/data/questions.jsonl')))
  c.report.rounds.data.max_prompts = 4
  c.report.rounds.sample.update(max_new=6, batch_size=4)
  c.rounds = count
  rounds.expand(c)
  return c


@pytest.mark.slow
def test_a_second_round_learns_from_what_was_said_in_between(tmp_path, capsys):
  stages.write_corpus(tmp_path / 'data')
  c = small(tmp_path, 2)
  run(c)
  out = capsys.readouterr().out
  assert len(re.findall(r'feedback: there is no .*events.sqlite.*This ends here', out)) == 1
  report = Path(c.workdir) / 'report.json'
  assert [row['policy'] for row in json.loads(report.read_text())['rounds']] == ['sft']
  about = {**ABOUT, 'fingerprint': sha256(Path(c.sft.workdir) / 'artifact.json')}
  log = Feedback(c.again.feedback.events)
  for i in range(12):
    log.add(event(i, {'act': 'thumb', 'grade': -1}, text='it is two'), about)
    log.add(edit(i, 'it is one', text='it is two'), about)
  log.close()
  run(c)
  first, second = json.loads(report.read_text())['rounds']
  assert first['thumbs']['share'] == 0.0 and second['thumbs'] is None
  assert second['policy'] == 'round2_dpo' and second['rows']['preferences'] == 12
  assert second['against_before']['n'] == 4 and second['judge'] == 'reward_model'
  assert '## Rounds' in (Path(c.workdir) / 'report.md').read_text()
  began = json.loads((Path(c.round2_dpo.workdir) / 'artifact.json').read_text())
  assert began['parent'] == c.sft.workdir
  log = Feedback(c.again.feedback.events)
  log.delete('talk3')
  log.close()
  with pytest.raises(BadInput, match=r'round2_reward was made from .*preferences.jsonl, which is'):
    run(c)
