"""An evaluation gets what it asks for: what its runner offers, or what its own group brings."""

from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from llm_jax import run_folder
from llm_jax.jobs import evaluations
from llm_jax.parallel.mesh import make_mesh
from llm_jax.text.jinja_template import JinjaTemplate
from llm_jax.text.templates import MARKS
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput

MESH = make_mesh(data=1)
CALLS = (*MARKS['search'], *MARKS['result'])
TRAINING = ('rows', 'annotate', 'batch_size', 'loss_fn', 'seed')
FILES = dict(
  data="""
    WRITES = ('number',)
    def make(tokenizer, *, split, count=3, template=None):
      return [{'number': float(i), 'split': split, 'template': template} for i in range(count)]
    """,
  judge="""
    READS, WRITES, ARTIFACTS = ('number',), ('verdict',), ('path',)
    def make(model, tokenizer, *, path='', times=2.0):
      return lambda params, batch, rng: {**batch, 'verdict': times * batch['number']}
    """,
  loss="""
    READS = ('verdict',)
    def loss_fn(params, batch, rng, *, model, power=1):
      return batch['verdict'] ** power, {}
    """,
  eval="""
    from llm_jax.types import Mean
    READS = ('number',)
    def make(model, tokenizer, *, rows, annotate=(), loss_fn=None, seed=0, batch_size=1, share=1.0):
      def evaluate(params):
        found = [*rows]
        for function in annotate:
          found = [function(params, row, None) for row in found]
        if loss_fn is not None:
          found = [{**row, 'number': loss_fn(params, row, None)[0]} for row in found]
        mean = Mean.of([share * row['number'] for row in found])
        return {'mean': mean, 'seed': Mean.of(seed), 'rows': Mean.of(len(found))}
      return evaluate
    def check(model, *, share=1.0, **others):
      from llm_jax.types import BadInput
      if model.small and share > 1:
        raise BadInput('this is a small model')
    """,
)  # fmt: skip


@pytest.fixture(scope='module')
def here(tmp_path_factory):
  """The files above, by path."""
  import textwrap

  folder = tmp_path_factory.mktemp('mine')
  for name, text in FILES.items():
    (folder / f'{name}.py').write_text(textwrap.dedent(text))
  return lambda name: str(folder / f'{name}.py')


@pytest.fixture
def groups(here):
  """An evaluation of what its runner has, one of everything of its own, and one turned off."""
  own = dict(
    name=here('eval'),
    every=3,
    data=dict(name=here('data'), count=5, split='test'),
    annotate=dict(steps=(here('judge'),), judge=dict(times=3.0)),
    loss=dict(name=here('loss'), power=2),
  )
  return ConfigDict(dict(off=dict(name=''), own=own, theirs=dict(name=here('eval'), share=0.5)))


def build(groups, **offered):
  tokenizer = SimpleNamespace(vocab_size=10)
  return evaluations.build(groups, None, tokenizer, mesh=MESH, template=None, **offered)


def test_what_is_offered_and_what_a_group_brings(groups):
  asked = []
  rows = lambda: asked.append(1) or [{'number': 4.0}]
  built = build(groups, rows=rows, every=7, seed=9, annotate=(), loss_fn=None, unknown=1)
  assert {key: every for key, (_, every) in built.items()} == {'own': 3, 'theirs': 7}
  found = {name: float(mean.value) for name, mean in evaluations.run(built, None).items()}
  squares = np.mean([(3.0 * i) ** 2 for i in range(5)])
  assert found == {
    'own/mean': squares, 'own/seed': 9, 'own/rows': 5,
    'theirs/mean': 2, 'theirs/seed': 9, 'theirs/rows': 1,
  }  # fmt: skip
  assert asked == [1]  # rows are read for those that have none of their own


def test_options_are_listed_with_their_functions(groups, here):
  found = [(where, function.__name__) for where, function, _ in evaluations.functions(groups)]
  assert found == [
    ('evals.own', 'make'), ('evals.own', 'Own'), ('evals.own.data', 'make'),
    ('evals.own.annotate.judge', 'make'), ('evals.own.loss', 'loss_fn'),
    ('evals.theirs', 'make'), ('evals.theirs', 'Own'),
  ]  # fmt: skip


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(theirs=dict(shar=1)), "evals.theirs: unknown option 'shar'; did you mean 'share'?"),
    (dict(theirs=dict(every=0)), 'evals.theirs: every 0; choose a whole number from 1'),
    (dict(theirs=dict(batch_size=3)), 'evals.theirs: batch_size 3 is not a multiple of the 2'),
    (dict(theirs=dict(share=2.0)), 'evals.theirs: this is a small model'),
    (dict(own=dict(data=dict(cuont=1))), "evals.own: data: unknown option 'cuont'"),
    (dict(own=dict(annotate=dict(judge=dict(tims=1)))), "own: annotate.judge: unknown option"),
    (dict(own=dict(annotate=dict(judge=dict(path='nowhere')))), "evals.own: artifact: no folder"),
    (dict(own=dict(tools=dict(calculator={}))), "eval.py' lets the model call no tools"),
    (dict(more=dict(name='answers', tools=dict(calcul={}))), "did you mean 'calculator'?"),
    (dict(more=dict(name='answers', tools=dict(spell=dict(a=1)))), 'evals.more.tools.spell'),
    (dict(own=dict(annotate=dict(steps=()))), 'evals.own: loss loss reads `verdict`'),
    (dict(more=dict(name='perplexty')), "no 'perplexty'; did you mean 'perplexity'"),
  ],
  ids=str,
)  # fmt: skip
def test_what_cannot_be_is_named_before_there_is_data(groups, change, message):
  with groups.unlocked():
    groups.update(ConfigDict(change))
  with pytest.raises(BadInput) as error:
    evaluations.check(groups, offered=TRAINING, model=SimpleNamespace(small=True), shards=2)
  assert message in str(error.value) and '\n' not in str(error.value)


def test_a_runner_without_rows_says_how_to_get_some(groups):
  with pytest.raises(
    BadInput, match=r"^evals.theirs: 'data' is missing; set config.evals.theirs.d"
  ):
    evaluations.check(groups, offered=('seed',))


def test_tools_and_second_questions_are_for_models_that_were_taught_a_template():
  asks = dict(name='answers', families=('spelling',), tools=dict(spell={}, calculator={}))
  assert evaluations.possible(dict(asks=asks), template=None, marks=CALLS) == {}
  assert [*evaluations.possible(dict(asks=asks), template='llm_jax', marks=CALLS)] == ['asks']
  again = dict(name='answers', families=('spelling',), second=True)
  form = """{% for m in messages %}{{ raise_exception('no') if THAT else m.role }}:{{ m.content }}
  {% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"""
  alone, silent = form.replace('THAT', 'loop.index > 1'), form.replace('THAT', "m.role == 'system'")
  both, tokenizer = (
    dict(again=again, tools=asks),
    Tokenizer.train(['what that'] * 9, vocab_size=280),
  )
  for template, found in (
    *((None, []), ('plain', []), ('llm_jax', ['again', 'tools'])),
    # What a template refuses, in Jinja too, is not asked, and is no end of a report.
    *((JinjaTemplate(alone, tokenizer), []), (JinjaTemplate(silent, tokenizer), ['again'])),
  ):
    assert [*evaluations.possible(both, template=template, marks=CALLS)] == found
  assert evaluations.possible(dict(asks=asks), template='llm_jax', marks=CALLS[1:]) == {}
  shown = [where for where, *_ in evaluations.functions(dict(asks=asks))]
  assert shown[2:] == ['evals.asks.tools.spell', 'evals.asks.tools.calculator']


def test_what_is_not_made_yet_is_left_out(groups, here, tmp_path, monkeypatch):
  groups.own.annotate.judge.path = 'runs/judge'
  plain = groups.to_dict()
  found = evaluations.possible(plain, template=None, marks=CALLS)
  assert [*found] == ['theirs']  # its own data are put into a template, and there is none
  found = evaluations.possible(plain, template='llm_jax', marks=CALLS)
  assert found['own']['annotate'] == {'steps': ()}
  monkeypatch.setattr(run_folder, 'finished', lambda path: path == 'runs/judge')
  assert evaluations.possible(plain, template='llm_jax', marks=CALLS)['own'] == plain['own']
