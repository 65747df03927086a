"""Every command of the README, CONTRIBUTING and docs/ works: its config builds, and it runs."""

import functools
import gzip
import html
import io
import json
import pydoc
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from ml_collections import ConfigDict

from llm_jax import main
from llm_jax.data import builtin, families, sources
from llm_jax.labels.log import Log
from llm_jax.serving.feedback import Feedback
from tests.jobs.convert_test import theirs

ROOT = Path(__file__).parents[1]
DOCS = tuple(str(p.relative_to(ROOT)) for p in sorted((ROOT / 'docs').rglob('*.md')))
PAGES = (
  'README.md',
  'CONTRIBUTING.md',
  *DOCS,
  *(str(p.relative_to(ROOT)) for p in ROOT.glob('experiments/*/README.md')),
)
TELLS = ('--help', '--print')  # and run nothing


def commands(page):
  """The shell lines of a page, with continuation lines joined."""
  text = (ROOT / page).read_text()
  blocks = re.findall(r'```bash\n(.*?)```', text, re.DOTALL)
  lines = '\n'.join(blocks).replace('\\\n', ' ').splitlines()
  return [line for line in lines if line.strip() and not line.strip().startswith('#')]


def all_lines():
  """The commands of the README, and those of docs/ that are not among them."""
  return list(dict.fromkeys(line for page in ('README.md', *DOCS) for line in commands(page)))


def runs_of_main():
  pages = {line: page for page in reversed(PAGES) for line in commands(page)}
  runs = {line: page for line, page in pages.items() if 'llm_jax.main --config' in line}
  return [pytest.param(line, id=f'{page}: {line[-40:]}') for line, page in runs.items()]


def words_of(line):
  """What a command line gives `llm_jax.main`, its name first."""
  words = shlex.split(line.split('&&')[-1], comments=True)
  return words[words.index('llm_jax.main') :]


def parse(line):
  """The config that a command line of `llm_jax.main` gives."""
  return main.read_config([word for word in words_of(line) if word not in TELLS])


@pytest.mark.parametrize('line', runs_of_main())
def test_the_command_builds_its_config(line, monkeypatch):
  monkeypatch.chdir(ROOT)
  assert parse(line).job in {p.stem for p in (ROOT / 'llm_jax' / 'jobs').glob('*.py')}


def test_the_readme_opens_with_two_commands_and_they_are_those_of_ci():
  first, second = commands('README.md')[:2]
  assert first.endswith('-m llm_jax.main --config=configs/pipeline.py:gpt')
  test = re.search(r'-m (pytest .*)$', second).group(1)
  assert f'python -m {test}' in (ROOT / '.ci' / 'run').read_text()


@pytest.mark.parametrize('line', [line for line in all_lines() if {*TELLS} & {*line.split()}])
def test_a_command_that_only_tells_tells(line, monkeypatch, capsys):
  monkeypatch.chdir(ROOT)
  main.main(words_of(line))
  assert capsys.readouterr().out.strip()


FIXTURES = Path(__file__).parent / 'fixtures'
TINY = dict(vocab_size=512, dim=16, num_layers=1, num_heads=2, num_kv_heads=0, hidden_dim=0)


def smoke(c):
  """The same job with a model that says nothing, for a moment."""
  for name in (*c.get('requires', ()), *c.get('stages', ())):
    smoke(c[name])
  if 'mesh' in c:
    c.mesh.fsdp = 1
  if c.job == 'pipeline':
    evals = c.report.evals
    evals.questions.update(max_questions=4, batch_size=4, max_new=4)
    evals.second.update(max_questions=4, batch_size=4, max_new=4)
    evals.tools.update(max_questions=4, batch_size=4, max_new=4)
    if 'knowledge' in evals:
      evals.knowledge.most = 2
    evals.text.update(max_rows=8, batch_size=4)
    evals.rollouts.update(max_rows=4, batch_size=4)
    evals.rollouts.annotate.sample.max_new = 4
  elif c.job == 'compare':
    smoke(c.base)
    c.seeds, c.budget.steps = 2, 2
    with c.unlocked():
      c.tune = None  # tests/jobs/compare_test.py does
  elif c.job == 'tokenize':
    c.tokenizer.vocab_size, c.length = 512, 64
  elif c.job == 'evaluate':
    c.max_questions = 4
    if 'max_new' in c.evals.questions:
      c.evals.questions.max_new = 4
    if 'knowledge' in c.evals:
      with c.evals.knowledge.unlocked():
        c.evals.knowledge.most = 2
  elif c.job == 'matches':
    c.data.max_prompts, c.sample.max_new = 4, 4
  elif c.job == 'chat':
    c.max_new = 8
  elif c.job == 'probe':
    with c.unlocked():
      c.most, c.max_new, c.samples = 8, 4, 2
      c.made_up = min(c.made_up, 30)
  elif c.job == 'label':
    c.data.max_prompts, c.sample.max_new, c.idle, c.port, c.gold = 8, 4, 0.1, 0, 0.0
  elif c.job == 'plan':
    c.compile = False  # tests/jobs/plan_test.py does
  elif c.job == 'sample' and 'annotate' in c:
    c.max_prompts, c.annotate.sample.group, c.annotate.sample.max_new, c.minimum = 160, 2, 4, None
  elif c.job == 'sample':
    c.sample.max_new = 8
  elif c.job == 'train':
    outside = str(c.init.get('params', '')).startswith('runs/llama')  # whose shape it takes
    for shape in () if outside else (c.model.get('policy'), c.model.get('critic'), c.model):
      if shape is not None and 'dim' in shape:
        with shape.unlocked():
          shape.update(TINY)
    c.compute = ConfigDict()
    reuse = c.get('rollout', {}).get('minibatches', 1)
    c.total_steps = c.checkpoint_every = c.eval_every = c.log_every = 2 * reuse
    if c.get('profile'):
      c.profile, c.total_steps = 1, 4  # the third step is the first that is traced
    c.batch_size, c.accumulate = 4, 1
    if 'max_rows' in c.evals.validation:
      c.evals.validation.max_rows = 4
    c.sample.max_new = 4
    if 'sample' in c.annotate.steps:
      c.annotate.sample.max_new = 4
    if c.data.name in ('conversations', 'preferences'):
      with c.data.unlocked():  # the tokenizer of 512 words writes longer, and rows are few
        c.data.update(length=512, validation_fraction=0.4)


def label_all(workdir):
  """What an annotator who likes the first answer says of all items."""
  log = Log(Path(workdir) / 'labels.sqlite')
  for item in log.items().values():
    shown = [answer.id for answer in item.answers]
    told = {'item': item.id, 'kind': 'compare', 'shown': shown, 'client': item.id}
    log.add({**told, 'value': {'grade': -3, 'better': shown[0]}}, 'me')
  log.close()


def rate_one(file):
  """What a user of the served chat says of one answer."""
  log = Feedback(file)
  asked = {'messages': [{'role': 'user', 'content': 'Hi'}], 'answer': {'id': 'a', 'text': 'Ho'}}
  event = {'client': 'c', 'conversation': 'talk', 'item': 'a', 'store': True, **asked}
  log.add({**event, 'value': {'act': 'thumb', 'grade': 1}}, {'model': 'ppo'})
  log.close()


def _pages(module):
  """The documentation of a module, in parts of a thousand characters."""
  text = pydoc.plain(pydoc.render_doc(module))
  return [text[i : i + 1000] for i in range(0, len(text), 1000)]


@pytest.mark.slow
def test_every_command_of_the_readme_and_of_the_docs_runs(tmp_path, monkeypatch, capsys):
  """In their order and in one folder, as a reader would, with small numbers.

  What a page of docs/ has in common with the README, or with another page, runs once.
  """
  (tmp_path / 'my').mkdir()
  zstandard = pytest.importorskip('zstandard')
  parquet, pyarrow = pytest.importorskip('pyarrow.parquet'), pytest.importorskip('pyarrow')

  texts = [part for name in ('json', 're', 'os', 'shutil') for part in _pages(name)]
  text = ''.join(json.dumps({'text': t}) + '\n' for t in texts)
  (tmp_path / 'my' / 'web.jsonl.zst').write_bytes(zstandard.compress(text.encode()))
  (tmp_path / 'my' / 'book.txt').write_text('\n'.join(texts))
  turn = lambda role, text: {'role': role, 'content': text}
  talks = [[turn('user', f'Add 1 to {i}.'), turn('assistant', f'{i + 1}')] for i in range(200)]
  lines = ''.join(json.dumps({'messages': talk}) + '\n' for talk in talks)
  (tmp_path / 'my' / 'talks.jsonl').write_text(lines)
  sums = [{'question': f'{i} + 1?', 'final': str(i + 1)} for i in range(300)]
  (tmp_path / 'my.jsonl').write_text(''.join(json.dumps(one) + '\n' for one in sums))
  exams = [
    dict(question=f'{i}?', choices=['a', 'b'], correct=i % 2, checked=True) for i in range(300)
  ]
  parquet.write_table(pyarrow.Table.from_pylist(exams), tmp_path / 'my' / 'exams.parquet')
  reviews = [f'{i} was {word},{word}' for word in ('good', 'bad') for i in range(20)]
  (tmp_path / 'my' / 'reviews.csv').write_text('\n'.join(['review,label', *reviews]))
  theirs(tmp_path / 'my' / 'llama', max_length=1024, num_layers=1)
  quiz = [{'context': f'{i} + 1 =', 'choices': ['0', str(i + 1)], 'gold': 1} for i in range(9)]
  lines = [{'task': {'chance': 0.5}}, *quiz]
  (tmp_path / 'quizzes').mkdir()
  (tmp_path / 'quizzes' / 'mine.jsonl').write_text(''.join(json.dumps(one) + '\n' for one in lines))
  exam = {'question': 'Which is hot?', 'choices': {'label': ['A', 'B'], 'text': ['ice', 'fire']}}
  (tmp_path / 'benchmarks').mkdir()
  exam = json.dumps({**exam, 'answerKey': 'B'}) + '\n'
  (tmp_path / 'benchmarks' / 'arc_easy_test.jsonl').write_text(exam * 5)
  (tmp_path / 'my' / 'pages').mkdir()
  web = json.loads(gzip.decompress((FIXTURES / 'web_filters.json.gz').read_bytes()))
  good = [d['text'] for d in web['documents'] if d['kind'] == 'web' and not d['pipeline_drops']]
  for i, text in enumerate(good):
    parts = ''.join(f'<p>{html.escape(part)}</p>' for part in text.split('\n'))
    page = f'<html><body><article>{parts}</article></body></html>'
    (tmp_path / 'my' / 'pages' / f'{i}.html').write_text(page, encoding='utf-8')
  told = ''.join((ROOT / page).read_text() for page in ('README.md', *DOCS))
  for name, code in re.findall(r'```python\n# (mine/\w+\.py)\n(.*?)```', told, re.DOTALL):
    (tmp_path / 'mine').mkdir(exist_ok=True)
    (tmp_path / name).write_text(code)
  monkeypatch.syspath_prepend(tmp_path)
  everything = families.records
  first = functools.cache(lambda kind, split, family=None: everything(kind, split, family)[:200])
  monkeypatch.setattr(families, 'records', first)
  # As a source only: what is made of the documents is kept for the tests that come after.
  less = SimpleNamespace(documents=lambda split: builtin.documents(split)[:300])
  monkeypatch.setitem(sources.BUILTIN, 'builtin', less)
  seen, pipelines, ran = set(), [], []
  for line in all_lines():
    if 'llm_jax.main' not in line or {*TELLS} & {*line.split()}:
      continue
    monkeypatch.chdir(ROOT)
    config = parse(line)
    if config in ran:
      continue
    ran.append(parse(line))  # `config` is made small, and completed when it runs
    if config.job == 'serve':  # it would not end; tests/jobs/serve_test.py runs it
      if config.events:
        rate_one(tmp_path / config.events)
      continue
    smoke(config)
    if config.job == 'pipeline' and not (config.only or config.start):
      # A pipeline whose stages ran in an earlier one, or run below by themselves, only begins.
      later = [name for name in config.stages if name.startswith('round')]  # jobs/feedback_test.py
      new = set(config.stages).difference(*pipelines, ('best_of_n', 'dpo'), later)
      pipelines.append(config.stages)
      if new <= {'clean'}:
        config.stages, config.report.evals.rollouts.name = config.stages[: 2 + len(new)], ''
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('sys.stdin', io.StringIO('What does `os.path.join` do?\n'))
    main.run(config)
    told = capsys.readouterr().out
    assert told.strip(), line
    if config.job == 'chat':
      assert re.search(r'stage (sft|ppo|dpo|compress), .*\n\d+ tokens', told, re.DOTALL)
    elif config.job == 'label' and not config.export:
      label_all(config.workdir)
    elif config.job == 'pipeline':
      page = (Path(config.workdir) / 'report.html').read_text()
      rolls = [name for name in config.stages if name in ('ppo', 'grpo')]
      assert all(f'Rollouts of {name}' in page for name in rolls)
    elif config.job == 'train' and config.workdir not in seen:
      assert (Path(config.workdir) / 'artifact.json').is_file()
      seen.add(config.workdir)
  assert len(seen) > 15
