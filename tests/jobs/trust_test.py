"""A folder from a stranger runs no Python, whatever it names and whichever job reads it."""

import ast
import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import best_of_n, chat, distill, dpo, evaluate, reward, sample, sft
from configs import pipeline as recipes
from llm_jax import artifact
from llm_jax.data import packed, sources
from llm_jax.files import difference, inside, read_json
from llm_jax.jobs import pipeline
from llm_jax.jobs.trust import trusted
from llm_jax.main import run
from llm_jax.models import huggingface
from llm_jax.parallel.mesh import make_mesh
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput
from tests.jobs.post_training_test import NUMBERS, SHAPE, shrunk, write_base, write_data

# What imports it is a failure; it would do all that a model of somebody's own has to.
EVIL = """
import pathlib
(pathlib.Path(__file__).parent / 'it_ran').touch()
from llm_jax.models.transformer import GROUPS, make
"""


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """A folder with data, the artifact `mine`, and `theirs`, which holds Python too."""
  root = tmp_path_factory.mktemp('trust')
  write_data(root)
  texts = ['user', 'assistant', *(f'{a} and {b}, item 0' for a in NUMBERS for b in NUMBERS)]
  tokenizer = Tokenizer.train(texts * 20, vocab_size=300)
  write_base(root / 'mine', tokenizer)
  shutil.copytree(root / 'mine', root / 'theirs')
  (root / 'theirs' / '__init__.py').write_text('')
  (root / 'theirs' / 'evil_one.py').write_text(EVIL)
  return root


@pytest.fixture(autouse=True)
def nothing_runs(root, monkeypatch):
  """Even where Python would find the module: from a shell inside of the folder, or beside it."""
  monkeypatch.chdir(root)
  monkeypatch.syspath_prepend(str(root / 'theirs'))
  monkeypatch.syspath_prepend(str(root))
  before = {*sys.modules}
  yield
  assert not (root / 'theirs' / 'it_ran').exists()
  assert not [name for name in {*sys.modules} - before if 'evil_one' in name]


def poison(root, change):
  about = read_json(root / 'mine' / artifact.FILE, '')
  change(about)
  (root / 'theirs' / artifact.FILE).write_text(json.dumps(about))


NAMES = (
  *('evil_one', 'theirs.evil_one', 'theirs/evil_one.py', 'evil_one.py', './theirs/evil_one.py'),
  *('../../theirs/evil_one.py', 'llm_jax.models.evil_one', 'llm_jax.data.builtin', 'antigravity'),
  *('', 'transformer.evil_one', '..evil_one', 'theirs:evil_one', 'os', '\x1b[2Jevil_one'),
)  # fmt: skip


@pytest.mark.parametrize('name', [*NAMES, '{root}/theirs/evil_one.py', 7, None, ['evil_one'], {}])
def test_no_name_of_a_model_is_imported(root, name):
  name = name.format(root=root) if isinstance(name, str) else name
  poison(root, lambda about: about['model'].update(name=name))
  with pytest.raises(BadInput) as error:
    artifact.load('theirs', make_mesh(data=1))
  assert str(error.value).isprintable()


def read_by_sample(root):
  c = sample.get_config()
  c.artifact = 'theirs'
  return c


def read_by_best_of_n(root, artifact='theirs', judge='mine'):
  c = best_of_n.get_config()
  c.artifact, c.workdir, c.batch_size, c.max_prompts = artifact, str(root / 'best'), 4, 4
  c.data.sources = ConfigDict({'mine': str(root / 'talks.jsonl')})
  c.annotate = ConfigDict(
    dict(
      steps=('sample', 'reward_model'),
      sample=dict(group=2, max_new=4),
      reward_model=dict(path=judge),
    )
  )
  return c


def judged_by_best_of_n(root):
  return read_by_best_of_n(root, 'mine', 'theirs')


def read_by_chat(root):
  c = chat.get_config()
  c.artifact, c.max_new = 'theirs', 8
  return c


def read_by_evaluate(root):
  c = evaluate.get_config()
  c.artifacts, c.output = ('mine', 'theirs'), str(root / 'evaluated.json')
  return c


def measured_by_evaluate(root):
  c = evaluate.get_config()
  c.artifacts, c.output = ('mine',), str(root / 'evaluated.json')
  c.evals = ConfigDict(dict(rollouts=dict(name='rollout', batch_size=8)))
  c.evals.rollouts.data = dict(name='prompts', sources={'mine': str(root / 'talks.jsonl')})
  c.evals.rollouts.annotate = judged_by_best_of_n(root).annotate
  return c


def started(stage, **theirs):
  """A stage that starts from our artifact and asks ours, but for those that are `theirs`."""

  def config(root):
    c = shrunk(stage.get_config(), root, 'run')
    if stage is sft:
      c.data.sources = ConfigDict({'mine': str(root / 'talks.jsonl')})
    c.init = ConfigDict({'params': theirs.get('params', 'mine')})
    for step in (step for step in c.annotate.steps if 'path' in c.annotate[step]):
      c.annotate[step].path = theirs.get(step, 'mine')
    return c

  config.__name__ = f'{stage.__name__} {next(iter(theirs))}'
  return config


JOBS = (
  *(read_by_sample, read_by_best_of_n, judged_by_best_of_n, read_by_chat, read_by_evaluate),
  *(measured_by_evaluate, started(sft, params='theirs'), started(reward, params='theirs')),
  *(started(dpo, reference='theirs'), started(distill, teacher='theirs')),
)  # fmt: skip


@pytest.mark.parametrize('config', JOBS, ids=lambda config: config.__name__)
def test_no_job_imports_it(root, config):
  judges = config in (judged_by_best_of_n, measured_by_evaluate)
  head = {'head': 'scalar'} if judges else {}
  poison(root, lambda about: about['model'].update(head, name='theirs.evil_one'))
  with pytest.raises(BadInput, match=r"artifact '.*theirs' names 'theirs.evil_one'.*config.trust"):
    run(config(root))


def places(value, path=()):
  """Where a value of JSON has texts, numbers and keys."""
  yield path
  keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
  for key in keys:
    yield from places(value[key], (*path, key))


def test_nothing_is_imported_whatever_a_description_says_wherever(root):
  """The loss, the annotators and the data of the run that made it are as good as the model."""
  about = read_json(root / 'mine' / artifact.FILE, '')
  about['config'] |= {
    'job': 'train', 'loss': {'name': 'x'}, 'data': {'name': 'x', 'template': 'x'},
    'annotate': {'steps': ['x'], 'x': {'path': 'x'}}, 'evals': {'x': {'name': 'x'}},
  }  # fmt: skip
  for path in list(places(about))[1:]:
    *above, last = path
    inner = changed = json.loads(json.dumps(about))
    for key in above:
      inner = inner[key]
    inner[last] = 'theirs.evil_one'
    (root / 'theirs' / artifact.FILE).write_text(json.dumps(changed))
    c = read_by_sample(root)
    c.sample.max_new = 0  # whatever else is right, this is not
    with pytest.raises(Exception):  # noqa: B017, the fixture asks what was imported
      run(c)


def test_a_config_trusts_what_it_names(root):
  poison(root, lambda about: about['model'].update(name='mine_alone'))
  (root / 'mine_alone.py').write_text('from llm_jax.models.transformer import GROUPS, make\n')
  c = started(sft, params='theirs')(root)
  refuses = lambda: pytest.raises(BadInput, match="names 'mine_alone'")
  with refuses():
    run(c)
  with refuses():
    c.trust = ('mine_alon', 'mine.alone')
    run(c)
  c.trust = ('mine_alone',)
  group = artifact.describe('theirs')['model']
  assert artifact.build(group, source='theirs', trust=trusted(c)) == artifact.build(SHAPE)


def test_what_a_config_trusts():
  stages = {'sft': {'model': {'name': 'a.b'}}, 'best': {'job': 'sample', 'trust': ('no.t',)}}
  assert trusted(ConfigDict({'model': {'name': 'mine'}, 'loss': {'name': 'other'}})) == ('mine',)
  assert trusted(ConfigDict(stages | {'trust': 'x/y.py'})) == ('x/y.py', 'a.b')
  assert trusted({'model': {'name': 'transformer'}, 'data': {'name': 'mine.data'}}) == ()


def test_stages_trust_what_any_of_them_names():
  c = recipes.build('every', ('tokenize', 'pretrain', 'sft', 'best_of_n'))
  assert all(pipeline._stage(c, name) is c[name] for name in c.stages)
  c.sft.model.name = 'mine.model'
  assert pipeline._stage(c, 'best_of_n').trust == ('mine.model',)
  assert pipeline._stage(c, 'tokenize') is c.tokenize and 'trust' not in c.best_of_n


# --- other files -------------------------------------------------------------------------------


def test_a_dataset_names_no_code_of_its_own(root):
  folder = root / 'set' / '1.0.0'
  folder.mkdir(parents=True)
  (folder / 'dataset_info.json').write_text('{}')
  mine = 'tensorflow_datasets.core.features.text_feature.Text'
  whole = {'pythonClassName': mine, 'featuresDict': {'features': {'text': {'text': {}}}}}
  text = whole['featuresDict']['features']['text']
  for old in ({'type': 'theirs.evil_one.Text'}, {'python_class_name': 'theirs.evil_one.X'}, {}):
    text.clear()
    text.update(old or {'pythonClassName': 'tensorflow_datasets_evil_one.Text'})
    (folder / 'features.json').write_text(json.dumps(whole))
    with pytest.raises(BadInput, match='which is not one of TFDS and is not imported'):
      sources.open_source(f'tfds:set@{root}')


OUTSIDE = ('../x', 'a/../../x', '/etc/passwd', '..', '', 'C:\\x', '..\\x', 'a\0b', None, 3, ['x'])


@pytest.mark.parametrize('name', OUTSIDE)
def test_a_name_in_a_file_stays_in_its_folder(tmp_path, name):
  refused = lambda: pytest.raises(BadInput, match='no name of a file in this folder')
  with refused():
    inside(tmp_path, name)
  if isinstance(name, str):
    with refused():
      difference(tmp_path, {name: '0' * 64})
    with refused():
      about = {'fingerprint': '', 'length': 4}
      about['sources'] = {name: {'train': {'rows': 1, 'shard_rows': [1]}}}
      (tmp_path / 'tokenize.json').write_text(json.dumps(about))
      tokenizer = type('tokenizer', (), {'fingerprint': ''})
      packed.make(tokenizer, path=str(tmp_path))


def test_parts_of_a_checkpoint_stay_in_its_folder(tmp_path, monkeypatch):
  monkeypatch.setattr(
    huggingface, 'shape_of', lambda config: {k: SHAPE[k] for k in SHAPE if k != 'name'}
  )
  (tmp_path / 'config.json').write_text('{}')
  index = {'weight_map': {'x': '../theirs.safetensors'}}
  (tmp_path / 'model.safetensors.index.json').write_text(json.dumps(index))
  with pytest.raises(BadInput, match='no name of a file in this folder'):
    huggingface.load(tmp_path)


class Explodes:
  def __reduce__(self):
    return Path.touch, (Path('theirs/it_ran'),)


def test_rows_are_no_pickles(root):
  folder = root / 'rows'
  folder.mkdir()
  for name in ('tokens', 'segment'):
    np.save(folder / f'{name}-00000.npy', np.array([Explodes()], object), allow_pickle=True)
  with pytest.raises(ValueError, match=r'[Pp]ickle|object'):
    packed.MappedRows(folder, [1])[0]


# Templates of Jinja may be run in its sandbox, and programs in a subprocess that is confined.
NEVER = ('pickle', 'dill', 'joblib', 'marshal', 'shelve', 'yaml', 'cloudpickle', 'torch')


def test_the_package_reads_no_format_that_holds_code():
  for path in Path(artifact.__file__).parent.rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
      names += [node.module or ''] if isinstance(node, ast.ImportFrom) else []
      assert not {name.split('.')[0] for name in names} & {*NEVER}, path
      if path.name != 'sandbox.py':  # tests/text/sandbox_test.py tries to get out of it
        assert not any(name.split('.')[0] == 'jinja2' for name in names), path
      if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        if path.parts[-2:] != ('confined', 'child.py'):  # tests/rewards/sandbox_test.py tries it
          assert called not in ('eval', 'exec', 'compile', 'os.system'), (path, node.lineno)
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert given.get('shell') is None, (path, node.lineno)
        if called == 'np.load':
          assert given.get('allow_pickle') == 'False', (path, node.lineno)


def test_the_page_on_security_names_what_is_there():
  page = (Path(artifact.__file__).parents[1] / 'docs' / 'security.md').read_text()
  named = re.findall(r'`(llm_jax/[\w/]+)\.py:(\w+)`', page)
  assert len(named) > 10
  for path, name in named:
    assert hasattr(importlib.import_module(path.replace('/', '.')), name), (path, name)
