"""Benchmarks put to artifacts: a table with intervals, files for others, and what a kill costs."""

import itertools
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import evaluate as evaluate_config
from llm_jax import artifact, options
from llm_jax.evals import kept, likelihood, task
from llm_jax.evals.differences import mcnemar, paired
from llm_jax.evals.statistics import interval
from llm_jax.jobs import evaluations, tasks
from llm_jax.jobs.command import read_config
from llm_jax.jobs.evaluate import identity
from llm_jax.main import run
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput
from tests import processes
from tests.jobs.convert_test import theirs
from tests.jobs.evaluate_test import write

COLOURS = """
from llm_jax.data.tasks.task import Item, Task

def make(*, ask='What colour is') -> Task:
  def read(record):
    stem = f'{ask} {record["thing"]}?'
    yield Item(f'{stem}\\nAnswer:', tuple(record['choices']), record['gold'], stem=stem,
               options=tuple(record['choices']), subject=record['subject'])
  files = {'validation': ('colours.jsonl',), 'train': ('colours_train.jsonl',)}
  return Task(read=read, files=files, metrics=('acc', 'acc_norm'), chance=1 / 3, draw='first')
"""
WORDS = """
from llm_jax.data.tasks.task import Item, Task

def make() -> Task:
  def read(record):
    yield Item(f'{record["thing"]} is', gold=record['choices'][record['gold']])
  def judge(said, item):
    return {'exact': float(item.gold in said), 'words': float(len(said.split()))}
  return Task(read=read, files={'validation': ('colours.jsonl',)}, kind='generate', judge=judge,
              metrics=('exact', 'words'), max_new=4)
"""
TEXTS = """
from llm_jax.data.tasks.task import Item, Task

def make() -> Task:
  read = lambda record: [Item('', (f'The {record["thing"]} is {record["choices"][0]}.',))]
  return Task(read=read, files={'validation': ('colours.jsonl',)}, kind='rolling',
              metrics=('word_perplexity', 'bits_per_byte'))
"""


def question(i):
  colours = ['red', 'green', 'dark blue']
  return {
    'thing': f'the {["house", "car", "old tree"][i % 3]} number {i}', 'gold': i % 3,
    'choices': colours, 'subject': ['houses', 'others'][i % 4 > 0],
  }  # fmt: skip


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """Two models of random numbers, three tasks of the user, and the records of these."""
  root = tmp_path_factory.mktemp('tasks')
  tokenizer = Tokenizer.train(['What colour is the house? Answer: red'] * 20, vocab_size=290)
  write(root / 'first', tokenizer)
  write(root / 'second', tokenizer, seed=1)
  for name, text in dict(colours=COLOURS, words=WORDS, texts=TEXTS).items():
    (root / f'{name}.py').write_text(text)
  lines = lambda numbers: ''.join(json.dumps(question(i)) + '\n' for i in numbers)
  (root / 'data').mkdir()
  (root / 'data' / 'colours.jsonl').write_text(lines(range(24)))
  (root / 'data' / 'colours_train.jsonl').write_text(lines(range(30, 40)))
  return root


def config_of(root, output, *names, asked=('colours',)):
  c = evaluate_config.get_config()
  c.artifacts = tuple(str(root / name) for name in names)
  c.tasks, c.path = tuple(str(root / f'{name}.py') for name in asked), str(root / 'data')
  c.ask = ConfigDict(dict(batch_tokens=512))
  c.output, c.mesh.fsdp = str(output), 1
  return c


def table_of(text):
  return [line for line in text.splitlines() if line.startswith('|')]


def samples(place, name='colours'):
  return [json.loads(line) for line in (place / f'samples_{name}.jsonl').read_text().splitlines()]


@pytest.fixture(scope='module')
def asked(root, tmp_path_factory):
  """A config that was run on both models and all tasks, with what it printed."""
  c = config_of(
    root, tmp_path_factory.mktemp('asked') / 'out', 'first', 'second',
    asked=('colours', 'words', 'texts'),
  )  # fmt: skip
  with pytest.MonkeyPatch.context() as patch:
    told = []
    patch.setattr('llm_jax.jobs.evaluate.say', lambda text: told.append(text))
    run(c)
  return c, '\n'.join(told)


def folders(c):
  names = [path.strip('/').replace('/', '__') for path in c.artifacts]
  return [Path(c.output) / name for name in names]


def test_scores_intervals_and_differences_are_those_of_the_answers(asked):
  c, told = asked
  facts = json.loads((Path(c.output) / 'evaluate.json').read_text())
  first, second = ([row['scores']['acc'] for row in samples(place)] for place in folders(c))
  assert len(first) == 24 and 0 < sum(first) < 24
  wanted, apart = interval(first), paired(second, first)
  found = facts['intervals'][c.artifacts[0]]['colours/acc']
  assert [found[name] for name in ('value', 'error', 'low', 'high', 'n', 'method')] == [*wanted]
  both = facts['differences'][c.artifacts[1]]['colours/acc']
  assert both['mean'] == apart.mean and both['p'] == mcnemar(second, first).p
  assert facts['differences'][c.artifacts[0]] == {}  # it is what the other is compared with
  rows = {line.split('|')[1].strip(): line for line in table_of(told)[::-1]}
  shown = f'{wanted.mean:.3f} [{wanted.low:.3f}, {wanted.high:.3f}]'
  assert f'| colours/acc | 24 | {shown} |' in rows['colours/acc']
  assert {'colours/acc, mean of subjects', 'words/exact', 'texts/bits_per_byte'} <= {*rows}
  assert 'mean of tasks (2)' in rows and 'centred mean of tasks (2)' in rows  # of no perplexity
  subjects = [interval(np.array(first)[[i % 4 > 0 for i in range(24)]]).mean,
              interval(np.array(first)[[i % 4 == 0 for i in range(24)]]).mean]  # fmt: skip
  of_subjects = facts['intervals'][c.artifacts[0]]['colours/acc, mean of subjects']
  assert of_subjects['value'] == pytest.approx(np.mean(subjects))


def test_no_score_is_bold_whose_paired_interval_holds_0(asked):
  c, told = asked
  facts = json.loads((Path(c.output) / 'evaluate.json').read_text())
  differences = facts['differences'][c.artifacts[1]]
  bold = {line.split('|')[1].strip() for line in table_of(told) if '**' in line}
  for name, one in differences.items():
    sure = one['low'] is not None and (one['low'] > 0 or one['high'] < 0)
    sure = sure and one.get('p', 0) < 0.05
    assert (name in bold) == sure, name
  assert 'texts/bits_per_byte' in bold  # models of random numbers differ in that


def test_files_are_in_the_shape_of_the_harness(asked):
  c, _ = asked
  for place in folders(c):
    found = json.loads((place / 'results.json').read_text())
    colours = found['results']['colours']
    assert colours['acc,none'] == np.mean([row['scores']['acc'] for row in samples(place)])
    assert colours['acc_stderr,none'] > 0 and found['n-shot']['colours'] == 0
    assert found['n-samples']['colours'] == {'original': 24, 'effective': 24}
    assert found['higher_is_better']['texts'] == {'word_perplexity': False, 'bits_per_byte': False}
    assert {row['said'] for row in samples(place, 'words')} - {''}
  assert json.loads((Path(c.output) / 'evaluate.json').read_text())['rows'] == []


def test_the_page_shows_what_was_said_and_nothing_acts(root, tmp_path):
  evil = '<script>alert(1)</script>'
  data = tmp_path / 'data'
  data.mkdir()
  records = [{**question(i), 'choices': [evil, 'b', '\x1b[2J']} for i in range(3)]
  (data / 'colours.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in records))
  c = config_of(root, tmp_path / 'out', 'second')
  c.path = str(data)
  run(c)
  page = (tmp_path / 'out' / 'report.html').read_text()
  assert '<script' not in page and '&lt;script&gt;alert(1)' in page and '\x1b' not in page
  assert 'href=' not in page and 'src="http' not in page


def test_the_same_command_again_asks_nothing_and_says_the_same(asked, monkeypatch, tmp_path):
  c, told = asked
  monkeypatch.setattr(likelihood.Likelihood, '__call__', lambda *a: pytest.fail('asked'))
  monkeypatch.setattr('llm_jax.sampling.sampler.Sampler.__call__', lambda *a: pytest.fail('asked'))
  again = []
  monkeypatch.setattr('llm_jax.jobs.evaluate.say', lambda text: again.append(text))
  before = {p: p.read_bytes() for p in Path(c.output).rglob('samples_*.jsonl')}
  run(c)
  assert table_of('\n'.join(again)) == table_of(told) and len(before) == 6
  assert all(path.read_bytes() == data for path, data in before.items())


def test_a_model_that_was_trained_again_is_asked_again(asked, tmp_path):
  c, _ = asked
  path = tmp_path / 'first'
  tokenizer = Tokenizer.load(Path(c.artifacts[0]) / 'tokenizer')
  shutil.copytree(c.artifacts[0], path)
  assert identity(str(path), None) == identity(c.artifacts[0], None)
  assert identity(str(path), {'dtype': 'bfloat16'}) != identity(str(path), None)
  write(path, tokenizer, seed=7)
  assert identity(str(path), None) != identity(c.artifacts[0], None)


def die(words, after):
  """The command line in a process that ends once it has kept so many answers."""
  put, kept_so_far = kept.Kept.put, itertools.count(1)

  def dies(self, answers):
    put(self, answers)
    if next(kept_so_far) == after:
      os.kill(os.getpid(), signal.SIGKILL)

  kept.Kept.put = dies
  run(read_config(['x', *words]))


def test_a_killed_evaluation_goes_on_to_the_same_table_byte_for_byte(root, asked, tmp_path):
  c, told = asked
  out = tmp_path / 'out'
  words = [
    '--config=evaluate', f'--config.artifacts={",".join(c.artifacts)}', f'--config.output={out}',
    f'--config.tasks={",".join(c.tasks)}', f'--config.path={c.path}',
    '--config.ask.batch_tokens=512', '--config.mesh.fsdp=1',
  ]  # fmt: skip
  status, said = processes.Process(die, words, 41).wait()
  assert status == -signal.SIGKILL and not (out / 'evaluate.json').exists(), said
  (file,) = (out / 'kept').iterdir()
  assert len(file.read_text().splitlines()) >= 41
  again = read_config(['x', *words])
  told_again = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr('llm_jax.jobs.evaluate.say', lambda text: told_again.append(text))
    run(again)
  assert table_of('\n'.join(told_again)) == table_of(told)
  for place in folders(c):
    mine = out / place.name
    for file in place.glob('samples_*.jsonl'):
      assert (mine / file.name).read_bytes() == file.read_bytes()


def test_a_hugging_face_folder_is_converted_and_asked(root, tmp_path):
  pytest.importorskip('safetensors')
  theirs(tmp_path / 'theirs', max_length=256)
  quiz = [{'context': f'{i} + 1 =', 'choices': ['0', str(i + 1)], 'gold': 1} for i in range(4)]
  lines = [json.dumps(one) for one in ({'task': {'chance': 0.5}}, *quiz)]
  (tmp_path / 'quiz.jsonl').write_text('\n'.join(lines))
  c = config_of(root, tmp_path / 'out', 'second')
  c.artifacts, c.tasks, c.path = (str(tmp_path / 'theirs'),), (str(tmp_path / 'quiz.jsonl'),), ''
  run(c)
  facts = json.loads((tmp_path / 'out' / 'evaluate.json').read_text())
  (found,) = facts['intervals'].values()
  assert found['quiz/acc']['n'] == 4
  assert (tmp_path / 'out' / 'converted' / 'theirs' / 'artifact.json').is_file()


def test_what_was_kept_and_is_damaged_is_named(root, asked, tmp_path):
  c = config_of(root, tmp_path / 'out', 'second')
  run(c)
  (kept,) = (tmp_path / 'out' / 'kept').iterdir()
  kept.write_text(kept.read_text().replace('"answer": [[-', '"answer": [[-1', 1))
  with pytest.raises(BadInput, match=r'line \d+, is damaged.*delete the file'):
    run(c)


def test_options_of_all_tasks_and_of_one(root, tmp_path):
  c = config_of(root, tmp_path / 'out.json', 'second')
  c.ask.shots, c.ask.form = 2, 'letters'
  c.evals.colours = dict(max_questions=5, variant=dict(ask='Which is the colour of'))
  run(c)
  facts = json.loads((tmp_path / 'out.json').read_text())
  name = 'colours[ask=Which is the colour of, form=letters]'
  assert f'{name}/acc' in facts['metrics'][c.artifacts[0]]
  (place,) = (path for path in (tmp_path / 'out').iterdir() if path.name.endswith('second'))
  rows = samples(place, 'colours_ask_Which_is_the_colour_of_form_letters')
  assert len(rows) == 5 and all(row['shots'] == 2 for row in rows)
  assert rows[0]['choices'] == ['A', 'B', 'C'] and 'Which is the colour of' in rows[0]['prompt']


def test_a_suite_stands_for_its_tasks_and_says_how_they_are_put():
  c = evaluate_config.get_config()
  c.tasks, c.path = ('open_llm', 'core', 'sciq', 'my/quiz.jsonl.gz'), 'data'
  with pytest.raises(BadInput, match='quiz'):
    tasks.asked(c, {})
  c.tasks = c.tasks[:3]
  found = tasks.asked(c, {'winogrande': {'shots': 1}})
  assert found.suites['core'][:3] == ['core.hellaswag', 'arc_easy', 'core.arc_challenge']
  assert found.groups['hellaswag']['shots'] == 10
  assert found.groups['hellaswag']['metric'] == 'acc_norm'
  assert found.groups['core.hellaswag']['metric'] == 'acc_tokens'
  assert found.groups['core.hellaswag']['chance'] == 0.25
  assert found.groups['winogrande']['shots'] == 1 and 'sciq' in found.groups
  assert len(found.tasks) == 6 + 10 + 1 and tasks.shots(found.groups['gsm8k']) == 5
  for key in found.tasks:
    group = {k: v for k, v in found.groups[key].items() if k != 'name'}
    options.check(task.make, group, where=key, offered=evaluations.OFFERED)


@pytest.mark.parametrize(
  ('changes', 'parts'),
  [
    (dict(tasks=('arc_eazy',)), ["tasks: no 'arc_eazy'; did you mean 'arc_easy'?"]),
    (dict(tasks=('gleu',)), ["tasks: no 'gleu'; did you mean 'glue'?"]),
    (dict(path=''), ['path is missing', '--config.path=']),
    (dict(path='nowhere'), ['colours', "no folder 'nowhere'"]),
    (dict(ask=dict(shotz=3)), ["ask: unknown option 'shotz'; did you mean 'shots'?"]),
    (dict(ask=dict(shots=-1)), ['shots -1; choose a whole number from 0']),
    (dict(ask=dict(examples='validation', shots=1)), ['show its answers']),
    (dict(evals=dict(colors=dict(shots=3))), ["evals.colors", "did you mean 'colours'?"]),
    (dict(evals=dict(colours=dict(split='tset'))), ["no split 'tset'"]),
    (dict(against='third'), ["against 'third'"]),
  ],
  ids=str,
)  # fmt: skip
def test_what_cannot_be_asked_is_one_line_before_a_model_is_read(
  root, tmp_path, monkeypatch, changes, parts
):
  monkeypatch.setattr(artifact, 'load', lambda *a, **k: pytest.fail('loaded'))
  c = config_of(root, tmp_path / 'out', 'second')
  for name, value in changes.items():
    if isinstance(value, dict):
      c[name].update(ConfigDict(value))
    else:
      c[name] = value
  with pytest.raises(BadInput) as error:
    run(c)
  message = str(error.value)
  assert '\n' not in message
  for part in parts:
    assert part in message, message
  assert not (tmp_path / 'out').exists()
