"""What files say that they read and write: true of what they do, and asked before anything runs."""

import ast
import functools
import pkgutil
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import llm_jax
from llm_jax.find import find
from llm_jax.jobs import sample, train
from llm_jax.jobs.chain import CheckedRows, chain, check_fields, read_rows, said, writers
from llm_jax.options import options_of
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import FIELDS, BadInput
from tests.configs_test import TRAINING, config_of

PACKAGE = Path(llm_jax.__file__).parent
DEFINES = {'data': 'make', 'annotate': 'make', 'losses': 'loss_fn'}


def files(room):
  """Name -> module of the files of a room that a config can name."""
  found = {}
  for info in pkgutil.iter_modules([str(PACKAGE / room)]):
    module = __import__(f'llm_jax.{room}.{info.name}', fromlist=['make'])
    if hasattr(module, DEFINES[room]):
      found[info.name] = module
  return found


def variants(function):
  """The defaults of a function, and the same with each choice or switch set otherwise."""
  options = options_of(function)
  defaults = {name: option.default for name, option in options.items()}
  yield defaults
  for name, option in options.items():
    others = option.choices or ((True,) if option.default is False else ())
    for value in others:
      yield {**defaults, name: value}
    if option.default is None:
      yield {**defaults, name: 1}
  yield {**defaults, 'columns': ('level',), 'tools': {'calculator': {}}}


@functools.cache
def declared(room, what):
  fields = set()
  for module in files(room).values():
    for options in variants(getattr(module, DEFINES[room])):
      options = {**options, 'rewards': ('exact_answer', 'length'), 'options': {}}
      fields |= set(said(module, what, options) or ())
  return {'log/<name>' if field.startswith('log/') else field for field in fields}


def test_every_file_says_what_it_reads_and_writes():
  for room, wanted in (
    ('data', ['WRITES']),
    ('annotate', ['READS', 'WRITES']),
    ('losses', ['READS']),
  ):
    for name, module in files(room).items():
      for what in wanted:
        assert hasattr(module, what), f'{room}/{name}.py does not say {what}'


def test_the_table_of_fields_is_what_files_write():
  assert declared('data', 'WRITES') | declared('annotate', 'WRITES') == set(FIELDS)
  assert declared('annotate', 'READS') | declared('losses', 'READS') <= set(FIELDS)


def test_the_documentation_quotes_the_table_of_fields():
  text = (PACKAGE.parent / 'docs' / 'architecture.md').read_text()
  rows = [f'| `{name}` | {f.shape} | {f.dtype} | {f.meaning} |' for name, f in FIELDS.items()]
  missing = [row for row in rows if row not in text]
  assert not missing, '\n'.join(missing)


def test_shapes_are_of_the_letters_that_are_listed():
  import llm_jax.types

  letters = re.findall(r'\b([A-Z]) ', llm_jax.types.__doc__)
  for name, field in FIELDS.items():
    assert {axis.strip('[]') for axis in field.shape.split()} <= set(letters), name


@pytest.mark.parametrize('stage', TRAINING)
def test_every_config_has_what_it_reads(stage):
  check_fields(chain(config_of(stage)))


def test_no_file_above_the_annotators_names_one():
  # Some are words of their own: a job, and a column in the records of verl.
  names = set(files('annotate')) - {'sample', 'reference'}
  others = ('data/questions.py', 'jobs/report.py', 'judges/reward_model.py')
  allowed = {(file, 'reward_model') for file in others}
  found = []
  for path in sorted(PACKAGE.rglob('*.py')):
    if path.parent.name == 'annotate':
      continue
    for node in ast.walk(ast.parse(path.read_text())):
      word = node.value if isinstance(node, ast.Constant) else None
      place = str(path.relative_to(PACKAGE)), word
      if isinstance(word, str) and word in names and place not in allowed:
        found.append(f'{path.relative_to(PACKAGE)}:{node.lineno}: {node.value!r}')
      if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('llm_jax.annotate'):
        found.append(f'{path.relative_to(PACKAGE)}:{node.lineno}: imports {node.module}')
  assert not found, '\n'.join(found)


# What is refused: in one line, before anything is compiled, and without a trace


@pytest.fixture
def compilations():
  """A list that grows with every compilation."""
  found = []
  listen = lambda event, *args, **kwargs: 'backend_compile' in event and found.append(event)
  jax.monitoring.register_event_duration_secs_listener(listen)
  yield found
  jax.monitoring.unregister_event_duration_listener(listen)


JUDGE = """
WRITES = ('reward', 'valid')

def make(model, tokenizer, *, weight=1.0):
  return lambda params, batch, rng: batch
"""
REFERENCE = """
WRITES = ('ref_logp',)

def make(model, tokenizer, *, temperature=1.0):
  return lambda params, batch, rng: batch
"""
ADVANTAGE = """
READS = ('reward',)
WRITES = ('advantage',)

def make(model, tokenizer):
  return lambda params, batch, rng: batch
"""
SILENT = """
def make(model, tokenizer):
  return lambda params, batch, rng: batch
"""
SOURCES = dict(judge=JUDGE, frozen=REFERENCE, better=ADVANTAGE, silent=SILENT)


@pytest.fixture
def mine(tmp_path, monkeypatch):
  """The package `mine_of_chain` of a user, with an annotator in each module."""
  folder = tmp_path / 'mine_of_chain'
  folder.mkdir()
  (folder / '__init__.py').write_text('')
  for name, source in SOURCES.items():
    (folder / f'{name}.py').write_text(source)
  monkeypatch.syspath_prepend(tmp_path)
  return 'mine_of_chain'


def changed(stage, steps=None, **groups):
  c = config_of(stage)
  c.mesh.fsdp = 1
  if steps is not None:
    kept = {name: c.annotate[name] for name in steps if name in c.annotate}
    c.annotate = ConfigDict(dict(steps=tuple(steps), **kept))
  for path, value in groups.items():
    group, _, field = path.rpartition('__')
    inner = c
    for part in filter(None, group.split('__')):
      inner = inner[part]
    with c.unlocked():
      inner[field] = ConfigDict(value) if isinstance(value, dict) else value
  return c


REFUSED = [
  (
    'grpo without verify',
    lambda mine: changed('grpo', ('sample', 'group_advantage')),
    'annotate.group_advantage reads `reward`, which nothing before it writes; reward_model and '
    'verify do',
  ),
  (
    'a group advantage before its rewards',
    lambda mine: changed('grpo', ('sample', 'group_advantage', 'verify')),
    'annotate.group_advantage reads `reward`, which annotate.verify writes only later; swap them',
  ),
  (
    'gae before sample',
    lambda mine: changed('ppo', ('gae', 'sample', 'reward_model', 'reference', 'kl_reward')),
    'annotate.gae reads `token_reward`, which annotate.kl_reward writes only later; swap them',
  ),
  (
    'ppo without gae',
    lambda mine: changed('ppo', ('sample', 'reward_model', 'reference', 'kl_reward')),
    r'loss ppo reads `advantage`, which nothing before it writes; gae and group_advantage do',
  ),
  (
    'ppo whose sampler does not rescore',
    lambda mine: changed('ppo', annotate__sample__rescore=False),
    'annotate.kl_reward reads `old_logp`, which nothing before it writes; sample with rescore=True '
    'does',
  ),
  (
    'dpo without reference',
    lambda mine: changed('dpo', ()),
    'loss dpo reads `ref_logp`, which nothing before it writes; reference does',
  ),
  (
    'grpo without a sampler',
    lambda mine: changed('grpo', ('verify', 'group_advantage')),
    'annotate.verify reads `tokens`, which nothing before it writes; sample does',
  ),
  (
    'temperatures through a reference of the user',
    lambda mine: changed(
      'grpo',
      ('sample', 'verify', f'{mine}.frozen', 'group_advantage'),
      annotate__frozen=dict(temperature=0.5),
    ),
    'annotate.frozen.temperature 0.5 differs from annotate.sample.temperature 1.0; '
    'log-probabilities would be those of another policy; set both alike',
  ),
  (
    'truncation through an advantage of the user',
    lambda mine: changed('grpo', ('sample', 'verify', f'{mine}.better'), annotate__sample__top_k=5),
    'annotate.sample.top_k: what is sampled would not be the policy that is trained; set '
    'config.loss.importance_cap, 2.0 is usual, or remove top_k',
  ),
  (
    'an annotator twice',
    lambda mine: changed('grpo', ('sample', 'verify', 'verify', 'group_advantage')),
    "annotate: 'verify' comes twice in config.annotate.steps; once is enough",
  ),
  (
    'a metric that is never measured',
    lambda mine: changed('grpo', stop=dict(repetitoin=0.5)),
    "stop: no metric 'repetitoin' in this run; did you mean 'repetition'?",
  ),
  (
    'a metric of the loss',
    lambda mine: changed('dpo', stop=dict(accurcy=0.5)),
    "stop: no metric 'accurcy' in this run; did you mean 'accuracy'?",
  ),
  (
    'an option out of range',
    lambda mine: changed('grpo', annotate__group_advantage__eps=-1.0),
    'annotate.group_advantage: eps -1.0; choose a number above 0',
  ),
  (
    'a judge that is not there',
    lambda mine: changed('grpo', annotate__verify__rewards=(f'{mine}.nobody',)),
    "rewards: no module 'mine_of_chain.nobody' can be imported from here; a name is a "
    'Python module on sys.path, such as experiments.focal.loss for experiments/focal/loss.py',
  ),
]


@pytest.mark.parametrize('make, message', [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_cannot_work_is_said_before_anything_is_compiled(
  make, message, mine, tmp_path, compilations
):
  config = make(mine)
  config.workdir = str(tmp_path / 'run')
  folders = [*config.init.values()]
  folders += [
    g.path for g in config.annotate.values() if 'path' in (g if hasattr(g, 'keys') else ())
  ]
  with pytest.raises(BadInput) as error:
    train.check(config, coming=folders)
  assert str(error.value) == message
  assert not compilations and not Path(config.workdir).exists()


def test_an_annotator_that_does_not_say_may_have_written_it(mine):
  check_fields(chain(changed('grpo', ('sample', f'{mine}.silent', 'group_advantage'))))
  with pytest.raises(BadInput, match='`reward`'):  # it comes too late to have done so
    check_fields(chain(changed('grpo', ('sample', 'group_advantage', f'{mine}.silent'))))


def test_data_that_knows_no_splits_are_refused(mine):
  with pytest.raises(BadInput, match='has no keyword `split`'):
    chain(changed('sft', data=dict(name=f'{mine}.silent')))


def test_a_judge_of_the_user_is_one_for_best_of_n(mine):
  c = config_of('best_of_n')
  group = c.annotate.sample
  c.annotate = ConfigDict(dict(steps=('sample', f'{mine}.judge'), sample=group))
  c.annotate.judge = ConfigDict(dict(weight=2.0))
  sample.check(c, coming=[c.artifact])
  c.annotate = ConfigDict(dict(steps=('sample',), sample=group))
  with pytest.raises(BadInput, match='best of n reads `reward`'):
    sample.check(c, coming=[c.artifact])


@pytest.mark.parametrize('field', ['tokens', 'prompt', 'target'])
@pytest.mark.parametrize('wrong', [-1, 290, 60_000])
def test_an_id_that_no_tokenizer_has_is_refused_when_its_row_is_read(field, wrong):
  rows = [{field: np.array([[0, 1], [i, 2]])} for i in (3, wrong, 289)]
  known = CheckedRows(rows, 290)
  assert len(known) == 3 and known[0] is rows[0] and known[2] is rows[2]
  with pytest.raises(BadInput, match=f'row 1 has the id {wrong} in {field!r}'):
    known[1]


def test_who_writes_a_field():
  assert writers('reward') == ['reward_model', 'verify']  # and not who only changes it
  assert writers('old_logp') == ['sample with rescore=True']
  assert writers('label') == ['data.name=preferences with kind=unpaired']
  assert writers('nothing') == []


def test_the_sampler_lends_what_it_was_told():
  parts = {part.name: part for part in chain(config_of('dapo'))}
  most = parts['sample'].options['max_new']
  assert parts['score_rules'].options['max_new'] == most
  c = config_of('dapo')
  c.annotate.score_rules.max_new = most + 1
  assert {p.name: p for p in chain(c)}['score_rules'].options['max_new'] == most + 1


def test_prompts_list_the_tools_that_their_sampler_gives():
  tokenizer = Tokenizer.train(['how many apples are left of twelve'] * 9, vocab_size=300)
  c = config_of('grpo')
  c.data.length, c.data.template = 400, 'llm_jax'
  first = lambda: tokenizer.decode(read_rows(chain(c), tokenizer, 'test')[0]['prompt'])
  assert 'Tools' not in first()
  c.annotate.sample.tools = ConfigDict(dict(spell={}, calculator={}, search={}))
  assert 'systemTools: search, calculator, spelluser' in first()
  c.data.tools = ()
  assert 'Tools' not in first()


def test_what_annotators_write_is_what_they_say():
  """Of those that need neither an artifact nor a sampler; the others are run by their jobs."""
  from tests.annotate.group_advantage_test import batch_of

  batch = batch_of([[1.0, 0.0], [1.0, 1.0]], [[2, 3], [3, 1]])
  for name, options in (('group_advantage', {}), ('keep_best', {}), ('dynamic_sampling', {})):
    module = find('annotate', name)
    out = module.make(None, None, **options)({}, batch, jax.random.key(0))
    said_so = {f for f in said(module, 'WRITES', options) if f != 'log/acceptance'}
    assert {k for k in out if k not in batch} <= said_so, name
