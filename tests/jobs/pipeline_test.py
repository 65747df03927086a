"""Whole recipes with small numbers: what they run and leave, and what a kill changes: nothing."""

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import dpo, sizes
from configs import pipeline as recipes
from experiments.reliability import damage, stages
from llm_jax import artifact, run_folder
from llm_jax.jobs import pipeline, sample, train
from llm_jax.main import run
from llm_jax.types import BadInput
from tests import processes
from tests.jobs.post_training_test import NUMBERS, write_data

STEPS = 4
EVERY_KIND = ('tokenize', 'pretrain', 'sft', 'reward', 'best_of_n', 'ppo', 'compressed')
# What an uninterrupted run and one that was killed may differ in.
TIMES = ('seconds', 'asked_seconds', 'tokens_per_second', 'flops_per_second', 'mfu')


def write_corpus(folder):
  """Text, conversations, pairs and questions about numbers."""
  write_data(folder)
  asked = [f'{a} and {b}, item {i}' for i in range(2) for a in NUMBERS for b in NUMBERS]
  records = [{'prompt': text, 'answer': text.split()[0]} for text in asked]
  (folder / 'questions.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in records))
  quiz = [{'context': text, 'choices': [*NUMBERS[:3]], 'gold': 0} for text in asked[:4]]
  lines = [{'task': {'chance': 0.33}}, *quiz]
  (folder / 'quiz.jsonl').write_text(''.join(json.dumps(one) + '\n' for one in lines))
  texts = [f'user assistant {text}. It is {text.split()[0]}. ' * 3 for text in asked * 3]
  (folder / 'text.jsonl').write_text(''.join(json.dumps({'text': t}) + '\n' for t in texts))


def small(c, data, workdir):
  """A pipeline on the corpus in `data`, with everything made small."""
  c = stages.small(c, data, workdir, steps=STEPS, rows=4, prompts=8)
  c.report.price = 2.0
  c.tasks, c.ask = (f'{data}/quiz.jsonl',), ConfigDict(dict(batch_tokens=256))
  c.report.evals.questions.update(
    prompts=('one and two', 'What is <b>bold</b> | $x$?'), max_new=6, max_questions=3, batch_size=4
  )
  c.report.evals.tools.update(max_new=6, max_questions=3, batch_size=4)
  c.report.evals.second.update(max_new=6, max_questions=3, batch_size=4)
  if stage_to_kill := os.environ.get('KILL_IN'):
    wait_in(stage_to_kill)
  return c


def wait_in(name):
  """Lets a stage wait for its death, with some of its work done."""
  fit, train_main, write_lines = train.fit, train.main, sample.write_lines

  def main(config):
    def wait(step, state, metrics):
      if step == STEPS - 1 and Path(config.workdir).name == name:
        time.sleep(300)

    train.fit = lambda *args, hooks, **options: fit(*args, hooks=(*hooks, wait), **options)
    train_main(config)

  def write(path, records):
    write_lines(path, records)
    if path.parent.name == 'parts' and name == 'best_of_n':
      time.sleep(300)

  train.main, sample.write_lines = main, write


def facts_of(folder):
  """The numbers of a report, without those of the clock."""
  facts = json.loads((Path(folder) / 'report.json').read_text())
  assert facts.pop('made')['machine']
  for stage in facts['stages'].values():
    for name in TIMES:
      stage.pop(name, None)
  return facts


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp('corpus')
  write_corpus(folder)
  return folder


def every(data, workdir):
  return small(recipes.build('every', (*EVERY_KIND[:-1], recipes.COMPRESSED)), data, workdir)


def command(data, workdir):
  """The words of a command that runs it, whose config is a file beside `workdir`."""
  file = Path(f'{workdir}.py')
  file.write_text(
    'from tests.jobs.pipeline_test import every\n\n\n'
    f'def get_config():\n  return every({str(data)!r}, {str(workdir)!r})\n'
  )
  return [f'--config={file}']


@pytest.fixture(scope='module')
def finished(data, tmp_path_factory):
  """The config of a pipeline of every kind of stage, which has run."""
  workdir = tmp_path_factory.mktemp('pipeline') / 'whole'
  run(every(data, workdir))
  return every(data, workdir)


@pytest.mark.parametrize('recipe', recipes.RECIPES)
@pytest.mark.parametrize('size', sizes.SIZES)
def test_a_recipe_is_wired_from_stage_to_stage(recipe, size):
  c = recipes.get_config(recipe if size == 'tiny' else f'{recipe}-{size}')
  c.workdir = '/elsewhere'
  made, asked = set(), set()
  for name in c.stages:
    stage = c[name]
    needs = [*stage.get('init', {}).values(), stage.get('artifact', '')]
    needs += [group.get('path', '') for group in stage.get('annotate', {}).values()
              if isinstance(group, ConfigDict)]  # fmt: skip
    needs = {path for path in needs if isinstance(path, str) and path}
    assert needs <= made, f'{name} needs {needs - made}'
    assert 'next' not in stage or not stage.next
    asked |= needs
    made.add(stage.workdir)
  corpus = c.pretrain.data.path
  sources = (c[name].get('data', {}).get('sources', {}) for name in c.stages)
  paths = [path for some in sources for path in some.values()]
  read = {Path(path).parent.as_posix() for path in paths}
  # Nothing is made for nobody; the last stage is for the user.
  assert made - asked - {corpus} - read == {f'/elsewhere/{c.stages[-1]}'}


def test_stages_after_a_refusal_learn_both_to_refuse_and_not_to():
  c = recipes.get_config('gpt_refuse')
  c.workdir = '/elsewhere'
  later = c.stages[c.stages.index('refuse') :]
  trained = [c[name].data.sources for name in later if c[name].job == 'train']
  assert trained and all('/elsewhere/probe/' in str(sources) for sources in trained)
  assert c.report.evals.knowledge.known == '/elsewhere/probe/probe.jsonl'
  assert c.refuse.init.params == c.probe.artifact == '/elsewhere/sft'


def test_recipes_are_those_of_their_papers():
  llama, gpt = recipes.get_config('llama'), recipes.get_config('gpt')
  assert llama.sft.init.params == 'runs/llama/pretrain'  # anew from the base, arXiv:2407.21783
  assert llama.best_of_n.annotate.steps == ('sample', 'verify', 'reward_model')
  assert llama.best_of_n.minimum < min(llama.best_of_n.annotate.verify.weights)  # what is right
  assert llama.best_of_n.artifact == 'runs/llama/first'
  assert gpt.ppo.init.critic == gpt.ppo.annotate.reward_model.path == 'runs/gpt/reward'


def test_a_stage_without_what_it_needs_is_named():
  with pytest.raises(ValueError, match=r"'ppo' needs a reward stage before it"):
    recipes.build('mine', ('tokenize', 'pretrain', 'sft', 'ppo'))
  with pytest.raises(ValueError, match="'evaluate' is no stage"):
    recipes.build('mine', ('tokenize', 'pretrain', 'evaluate'))
  with pytest.raises(ValueError, match="'distill' needs a sft stage before it"):
    recipes.build('mine', ('tokenize', 'pretrain', 'distill'))
  for name in ('sft', 'seed', 'stages', 'stale'):
    with pytest.raises(ValueError, match=f"the name '{name}' is taken"):
      recipes.build('mine', ('tokenize', 'pretrain', 'sft', f'{name}:sft'))
  with pytest.raises(ValueError, match="no recipe 'gtp'; choose from: gpt, gpt_refuse, llama, r1"):
    recipes.get_config('gtp')
  with pytest.raises(ValueError, match="no size '9z'"):
    recipes.get_config('gpt-9z')


def test_a_kind_may_come_twice():
  c = recipes.build('mine', ('tokenize', 'pretrain', 'sft', 'dpo', 'round2:dpo', 'grpo'))
  assert c.round2.init.params == c.round2.annotate.reference.path == 'runs/mine/dpo'
  assert c.grpo.init.params == 'runs/mine/round2'


def test_students_start_from_students_and_hear_the_teacher():
  c = recipes.build('mine', ('tokenize', 'pretrain', 'sft', 'dpo', 'distill', 'on_policy_distill'))
  assert not c.distill.init
  assert c.on_policy_distill.init.params == 'runs/mine/distill'
  assert c.distill.annotate.teacher.path == 'runs/mine/sft'
  assert c.on_policy_distill.annotate.teacher.path == 'runs/mine/sft'


def test_answers_checked_by_a_program_need_no_reward_model():
  c = recipes.build('mine', ('tokenize', 'pretrain', 'sft', 'best_of_n', 'second:sft'))
  assert c.best_of_n.artifact == 'runs/mine/sft' and 'path' not in c.best_of_n.annotate.reward_model
  assert c.second.data.sources.best == 'runs/mine/best_of_n/answers.jsonl'


def test_a_field_that_was_set_is_left_alone_and_others_follow_it(tmp_path, monkeypatch):
  """In a single config, in a stage of the user's own, and in a pipeline."""
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'stage.py').write_text(
    'from configs import dpo\n\n\ndef get_config(size):\n  c = dpo.get_config(size)\n'
    '  c.data.sources.mine = f"runs/{size}/pairs.jsonl"\n  return c\n'
  )
  monkeypatch.syspath_prepend(tmp_path)
  alone = dpo.get_config()
  for c in (copy.deepcopy(alone), ConfigDict(alone)):
    assert c.init.params == c.annotate.reference.path == 'runs/tiny/sft'
    c.init.params = 'elsewhere'
    assert c.annotate.reference.path == 'elsewhere'
  c = recipes.build('mine', ('tokenize', 'pretrain', 'sft', 'own:mine.stage'))
  assert c.own.data.sources.mine == 'runs/tiny/pairs.jsonl'
  c.workdir = 'there'
  assert c.own.init.params == c.own.annotate.reference.path == 'there/sft'
  c.own.init.params = 'elsewhere'
  assert c.own.annotate.reference.path == 'elsewhere' and c.sft.workdir == 'there/sft'


@pytest.mark.slow
def test_every_stage_leaves_its_part_of_the_report(finished):
  folder = Path(finished.workdir)
  facts = facts_of(folder)
  assert tuple(facts['stages']) == EVERY_KIND
  assert facts['stages']['tokenize']['sources']['text']['train']['documents'] > 100
  for name in ('pretrain', 'sft', 'ppo'):
    stage = facts['stages'][name]
    assert stage['steps'] == STEPS and 0 < stage['metrics']['text/bits_per_byte'] < 20
    assert [*stage['answers']] == [*finished.report.evals.questions.prompts]
    assert all(len(one['prompt']) for one in stage['graded'])
    asked = {(one['family'], one['gold'] != '') for one in stage['graded']}
    families = finished.report.evals.questions.families if name != 'pretrain' else ()
    assert asked == {(f'questions/{family}', True) for family in families}
    assert all(isinstance(one['reward'], float) for one in stage['graded'])
    assert stage['intervals']['questions/word_problems/exact_answer']['n'] == 3
    quiz = stage['intervals']['quiz/acc']
    assert quiz['n'] == 4 and 0 <= quiz['low'] < quiz['high'] <= 1
    assert {name for name in stage['metrics'] if name.startswith('questions/')} == {
      'questions/word_problems/exact_answer', 'questions/word_problems/reasons_first',
      'questions/python_questions/word_overlap', 'questions/python_questions/same_text',
      'questions/spelling/same_text', 'questions/small_talk/mentions',
    }  # fmt: skip
  for name in ('pretrain', 'sft', 'reward'):
    stage = facts['stages'][name]
    length = {'pretrain': 32, 'sft': 96, 'reward': 2 * 96}[name]
    assert stage['tokens'] == STEPS * 4 * length
    shape = artifact.build(finished[name].model.to_dict())
    per_token = shape.flops_per_token(min(length, 96))
    assert stage['flops'] == pytest.approx(stage['tokens'] * per_token)
  whole = json.loads((folder / 'report.json').read_text())['stages']
  assert {*whole['sft']['asked_seconds']} >= {'quiz', 'questions', 'text'}
  measured = {name: facts['stages'][name].get('metrics') for name in EVERY_KIND}
  few = facts['stages']['compressed']
  assert few['bytes']['after'] < few['bytes']['before'] and few['bits_per_weight'] == 9.625
  near = pytest.approx(measured['ppo']['text/bits_per_byte'], rel=0.01)
  assert measured['compressed']['text/bits_per_byte'] == near
  assert measured['sft']['rollouts/kl'] == 0  # it is what the others are compared with
  assert measured['ppo']['rollouts/kl'] != 0 and measured['reward'] is None
  assert 'rollouts/kl' not in measured['pretrain'] and 'rollouts/reward' in measured['ppo']
  assert facts['stages']['best_of_n']['n'] == 3
  times = pipeline.seconds(folder)
  assert set(times) == {*EVERY_KIND, 'report'} and all(seconds >= 0 for seconds in times.values())


@pytest.mark.slow
def test_the_page_needs_no_other_file_and_shows_what_was_said(finished):
  folder = Path(finished.workdir)
  page, text = (folder / 'report.html').read_text(), (folder / 'report.md').read_text()
  assert 'src="data:image/svg+xml;base64,' in page and 'href' not in page
  assert 'What is &lt;b&gt;bold&lt;/b&gt; | $x$?' in page and '<b>' not in page
  assert (folder / 'figures' / 'ppo.svg').read_text().startswith('<?xml')
  assert '<span class="control">&lt;|im_start|&gt;</span>' in page and '<h2>Tokens</h2>' in page
  assert 'The model of ppo was stored with 9.6 bits' in text and 'compressed/report.html' in page
  for heading in ('What each stage did', 'What was measured', 'Before and after ppo',
                  'What went in', 'What it cost', 'What to type next', 'Words'):  # fmt: skip
    assert f'<h2>{heading}</h2>' in page and f'## {heading}' in text
  assert '<summary>Rollouts of ppo' in page and '--config=chat --config.artifact=' in page
  assert re.search('✗ sft.*: wrong, reward ', text) and 'mfu' not in text.lower()
  facts = facts_of(folder)
  shown = f'{facts["stages"]["sft"]["metrics"]["text/bits_per_byte"]:.3f}'
  assert shown in page and shown in text
  quiz = facts['stages']['ppo']
  low, high = (quiz['intervals']['quiz/acc'][end] for end in ('low', 'high'))
  cell = f'{quiz["metrics"]["quiz/acc"]:.3f} [{low:.3f}, {high:.3f}]'
  cell = cell.replace(' [', ' <small>[').replace(']', ']</small>')
  assert f'<td class="number">{cell}</td>' in page and '<td class="text">quiz/acc</td>' in page
  assert '| right word problems | 3 |' in text
  tables = [block.splitlines() for block in text.split('\n\n') if block.startswith('| ')]
  assert len(tables) >= 6
  for lines in tables:  # what was said holds pipes, which end no cell
    assert len({line.replace('\\|', '').count('|') for line in lines}) == 1


def browser():
  names = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
  return next(filter(None, map(shutil.which, names)), None)


@pytest.mark.slow
@pytest.mark.skipif(not browser(), reason='no Chromium or Chrome on this machine')
@pytest.mark.parametrize('width', [360, 1400])
def test_a_browser_shows_tables_and_drawings_and_breaks_no_word(width, finished, tmp_path):
  """Opened without a network; a script that the test adds counts what is really there."""
  count = """<script>addEventListener('load', () => {
    const broken = [], range = document.createRange();
    for (const cell of document.querySelectorAll('th, td')) {
      const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
      while (texts.nextNode()) for (const word of texts.currentNode.data.matchAll(/\\w{2,24}/g)) {
        range.setStart(texts.currentNode, word.index);
        range.setEnd(texts.currentNode, word.index + word[0].length);
        const lines = new Set([...range.getClientRects()].map(r => r.top));
        if (lines.size > 1) broken.push(word[0]);
      }
    }
    const images = [...document.images].map(i => i.complete && i.naturalWidth > 100);
    document.title = JSON.stringify({
      images: images, broken: broken,
      tables: document.querySelectorAll('table').length,
      wide: document.documentElement.scrollWidth <= innerWidth,
      cells: [...document.querySelectorAll('td')].filter(c => c.offsetHeight > 0).length});
  });</script>"""
  page = (Path(finished.workdir) / 'report.html').read_text()
  opened = tmp_path / 'report.html'
  opened.write_text(page.replace('</body>', count + '</body>'))
  said = subprocess.run(
    [browser(), '--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking',
     f'--user-data-dir={tmp_path / "profile"}', '--virtual-time-budget=5000',
     f'--window-size={width},900',
     f'--screenshot={tmp_path / "page.png"}', '--dump-dom', opened.as_uri()],
    capture_output=True, text=True, timeout=120, check=True,
  )  # fmt: skip
  title = said.stdout.partition('<title>')[2].partition('</title>')[0]
  seen = json.loads(title.replace('&quot;', '"'))
  assert seen['images'] == [True] * 4 and seen['tables'] >= 6 and seen['cells'] > 50
  assert seen['wide'] and not seen['broken']


@pytest.mark.slow
def test_a_byte_that_changes_in_a_finished_stage_is_noticed_or_changes_nothing(finished):
  """experiments/reliability/damage.py has the long form, with runs that were killed."""
  subjects = damage.subjects(finished, killed=False)
  del subjects['report']  # which would ask the models again
  tried = list(damage.fuzz(subjects, 40, seed=0))
  assert not [one for one in tried if one[2] in damage.BAD]
  assert sum(outcome == 'refused' for *_, outcome, _ in tried) > 5


def test_the_same_command_again_runs_and_asks_nothing(finished, monkeypatch, capsys):
  before = facts_of(finished.workdir)
  monkeypatch.setattr(artifact, 'load', None)  # no model is even read
  run(finished)
  told = capsys.readouterr().out
  assert told.count('finished') >= len(EVERY_KIND) and 'asking' not in told
  assert facts_of(finished.workdir) == before


@pytest.mark.slow
def test_a_changed_config_of_a_finished_stage_is_named(finished):
  c = finished.copy_and_resolve_references()
  c.sft.optimizer.learning_rate = 0.5
  with pytest.raises(
    BadInput, match=r'^sft: workdir: .*optimizer\.learning_rate = 0\.003, not 0\.5'
  ):
    run(c)


@pytest.mark.slow
def test_every_kind_of_stage_knows_what_it_was_made_from(finished):
  folder = Path(finished.workdir)
  made = {name: run_folder.made_from(folder / name) for name in finished.stages}
  assert {name: {Path(p).relative_to(folder).as_posix() for p in made[name]} for name in made} == {
    'tokenize': set(),
    'pretrain': {'tokenize'},
    'sft': {'pretrain'},
    'reward': {'sft'},
    'best_of_n': {'sft', 'reward'},
    'ppo': {'sft', 'reward'},
    'compressed': {'ppo'},
  }
  assert not pipeline.stale_stages(finished, finished.stages)
  before = (folder / 'tokenize' / 'tokenize.json').read_text()
  (folder / 'tokenize' / 'tokenize.json').write_text(before + ' ')
  assert [*pipeline.stale_stages(finished, finished.stages)] == [*EVERY_KIND[1:]]
  (folder / 'tokenize' / 'tokenize.json').write_text(before)


@pytest.mark.slow
def test_only_and_start_do_what_they_say(finished, data, tmp_path, capsys):
  c = small(recipes.build('every', ('tokenize', 'pretrain', 'sft', 'dpo')), data, tmp_path / 'run')
  c.only = 'pretrain'
  with pytest.raises(BadInput, match='tokenize'):
    run(c)
  capsys.readouterr()
  shutil.copytree(Path(finished.workdir) / 'tokenize', tmp_path / 'run' / 'tokenize')
  shutil.copytree(Path(finished.workdir) / 'pretrain', tmp_path / 'run' / 'pretrain')
  c.only, c.start = '', 'sft'
  run(c)
  told = capsys.readouterr().out
  assert '== 1 of 2: sft ' in told and ': pretrain ' not in told
  assert set(facts_of(c.workdir)['stages']) == {'tokenize', 'pretrain', 'sft', 'dpo'}
  c.only, c.start = 'report', ''
  run(c)
  assert '1 of' not in capsys.readouterr().out
  c.only = 'sft, tokenize'
  assert pipeline._selected(c) == ('tokenize', 'sft')
  c.only = 'tokenize,stf'
  with pytest.raises(BadInput, match="only 'stf'; did you mean 'sft'"):
    run(c)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (dict(only='sff'), "pipeline: only 'sff'; did you mean 'sft'?"),
    (dict(start='report'), "pipeline: start 'report'; choose from"),
    (dict(only='sft', start='sft'), 'pipeline: only and start exclude each other'),
    (dict(stages=('tokenize', 'dpo')), "pipeline: stage 'dpo' has no config"),
    (dict(stale='retain'), "config: stale 'retain'; did you mean 'retrain'?"),
    (dict(satges=()), "config: unknown field 'satges'; did you mean 'stages'?"),
  ],
  ids=str,
)
def test_bad_input_is_answered_before_anything_runs(data, tmp_path, change, message):
  c = every(data, tmp_path / 'run')
  with c.unlocked():
    c.update(change)
  with pytest.raises(BadInput) as error:
    run(c)
  assert str(error.value).startswith(message)
  assert not (tmp_path / 'run').exists()


def test_a_late_stage_is_checked_before_the_first_one_runs(data, tmp_path):
  c = every(data, tmp_path / 'run')
  c.ppo.loss.clip = -1.0
  with pytest.raises(BadInput, match=r'^ppo: loss: clip -1'):
    run(c)
  c = every(data, tmp_path / 'run')
  c.ppo.model.policy.dim = 2 * c.ppo.model.policy.dim  # what it starts from is not there yet
  with pytest.raises(BadInput, match=r'^ppo: init: config\.model has dim \d+ and not the \d+'):
    run(c)
  c = every(data, tmp_path / 'run')
  with c.unlocked():
    c.report.pirce = 1.0
  with pytest.raises(BadInput, match="report: unknown field 'pirce'; did you mean 'price'"):
    run(c)
  c = every(data, tmp_path / 'run')
  c.tasks = ('arc_easy',)
  with pytest.raises(BadInput, match=r'^tasks: path is missing; give --config\.path='):
    run(c)
  c.path = str(data)
  with pytest.raises(BadInput, match=r'^evals\.arc_easy: arc_easy: no file of its split'):
    run(c)
  c = every(data, tmp_path / 'run')
  c.tokenize.sources.text = str(tmp_path / 'none.jsonl')  # known as soon as it is opened
  with pytest.raises(BadInput, match=r'none\.jsonl'):
    run(c)
  assert not (tmp_path / 'run').exists()


# --- stages that are stale: each writes down its own text and those it was made from ------------


def main(config):
  """A job as small as can be; a config names it by this module."""
  folder = Path(config.workdir)
  if not run_folder.finished(config.workdir):
    run_folder.claim(folder, config.to_dict())
    parents = [(Path(path) / artifact.FILE).read_text() for path in config.parents]
    (folder / artifact.FILE).write_text(''.join([config.text, *parents]))


@pytest.fixture
def family(tmp_path, monkeypatch):
  """A pipeline of three generations, which has run."""
  monkeypatch.setattr(pipeline.report, 'check', lambda config: None)
  monkeypatch.setattr(pipeline.report, 'write', lambda config, seconds: None)
  c = ConfigDict(dict(job='pipeline', workdir=str(tmp_path), only='', start='', stale='refuse'))
  c.seed, c.mesh, c.report = 0, ConfigDict(), ConfigDict()
  c.stages = ('root', 'child', 'grandchild')
  parents = []
  for name in c.stages:
    c[name] = dict(job='tests.jobs.pipeline_test', workdir=str(tmp_path / name), text=name[0])
    c[name].parents = tuple(parents[-1:])
    parents.append(c[name].workdir)
  run(c)
  return c


def told_by(c):
  return [(Path(c[name].workdir) / artifact.FILE).read_text() for name in c.stages]


def again(c, name, text):
  """Makes a stage once more, with another result."""
  shutil.rmtree(c[name].workdir)
  c[name].text = text
  c.only = name
  run(c)
  c.only = ''


@pytest.mark.parametrize('deleted', [False, True], ids=['made again', 'deleted'])
def test_a_stage_behind_one_that_was_made_again_is_refused_kept_or_moved_aside(
  family, capsys, deleted
):
  root, child = family.root.workdir, family.child.workdir
  assert told_by(family) == ['r', 'cr', 'gcr']
  run(family)  # nothing has changed
  if deleted:
    shutil.rmtree(root)
    family.root.text = 'R'
  else:
    again(family, 'root', 'R')
  before = sorted(Path(family.workdir).rglob('*'))
  with pytest.raises(BadInput) as error:
    run(family)
  assert str(error.value).startswith(
    f'pipeline: child was made from {root}; grandchild was made from {child}, which'
  )
  assert sorted(Path(family.workdir).rglob('*')) == before
  family.stale = 'keep'
  capsys.readouterr()
  run(family)
  assert capsys.readouterr().out.count(f'was made from another {root}; it is used as it is') == 1
  assert told_by(family) == ['R', 'cr', 'gcr']
  family.stale = 'retrain'
  run(family)
  assert told_by(family) == ['R', 'cR', 'gcR']
  assert (Path(f'{child}.stale1') / artifact.FILE).read_text() == 'cr'
  family.stale = 'refuse'
  run(family)  # nothing is stale any more


def test_a_stage_made_again_with_the_same_result_changes_nothing(family):
  again(family, 'root', 'r')
  run(family)
  (Path(family.child.workdir) / run_folder.MADE_FROM).unlink()  # of a time that did not write it
  again(family, 'root', 'R')
  run(family)
  assert told_by(family) == ['R', 'cr', 'gcr']


def test_what_a_stage_was_made_from_are_all_that_other_stages_left(family, tmp_path):
  (tmp_path / 'root' / 'answers.jsonl').write_text('{}')
  (tmp_path / 'mine.jsonl').write_text('{}')
  named = {'a': {'b': (f'{tmp_path}/root', 'root')}, 'c': [f'{tmp_path}/root/answers.jsonl']}
  run_folder.claim(tmp_path / 'new', {**named, 'd': f'{tmp_path}/mine.jsonl', 'long': 'x' * 5000})
  made = run_folder.made_from(tmp_path / 'new')
  assert set(made) == {f'{tmp_path}/root', f'{tmp_path}/root/answers.jsonl'}
  (tmp_path / 'root' / 'answers.jsonl').write_text('{"another": 1}')
  assert {path for path, was in made.items() if run_folder.digest(path) != was} == {
    f'{tmp_path}/root/answers.jsonl'
  }


@pytest.mark.slow
def test_killed_in_each_stage_it_reports_the_same_numbers(finished, data, tmp_path):
  """SIGKILL in every stage, the same config each time, then compared with the undisturbed run."""
  workdir = tmp_path / 'killed'
  words = command(data, workdir)
  for stage in EVERY_KIND[1:-1]:
    signs = {'best_of_n': 'parts/*.jsonl'}.get(stage, 'checkpoints/*/manifest.json')
    process = processes.command(words, KILL_IN=stage)
    stop = time.monotonic() + 200
    while not list((workdir / stage).glob(signs)):
      assert process.poll() is None, process.said()
      assert time.monotonic() < stop, f'{stage} did not come so far'
      time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (workdir / stage / artifact.FILE).exists()
    assert not (workdir / stage / 'summary.json').exists()
  run(every(data, workdir))
  mine, theirs = facts_of(workdir)['stages'], facts_of(finished.workdir)['stages']
  assert tuple(mine) == tuple(theirs) == EVERY_KIND
  for name in EVERY_KIND:
    for field in mine[name].keys() | theirs[name].keys():
      if field not in ('parent', 'artifact'):  # the folders have other names
        assert mine[name].get(field) == theirs[name].get(field), f'{name}: {field}'
