"""Mistakes that people make, and whether each is answered in one line.

python -m experiments.reliability.mistakes --count=300 --seed=0

A mistake is a command line, with files, an environment and what is typed around it. It runs through
`llm_jax.main.main` as a user's would, except that a job which accepts it is not begun. It has to be
refused in one line that names what is wrong. README.md has the counts.
"""

import argparse
import builtins
import contextlib
import errno
import io
import json
import os
import random
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from ml_collections import ConfigDict

from llm_jax import main
from llm_jax.find import find

JOBS = ('chat', 'evaluate', 'pipeline', 'plan', 'sample', 'tokenize', 'train')


class Mistake(NamedTuple):
  """A command that cannot work.

  Attributes:
    kind: of mistake.
    words: of the command line.
    parts: of the line that has to answer it.
    files: name -> content, written below the folder in which the command runs.
    environment: of the process.
    runs: whether the job is begun, because the mistake shows only then.
    around: what goes wrong meanwhile.
  """

  kind: str
  words: Sequence[str]
  parts: Sequence[str] = ()
  files: Mapping[str, str | bytes] = {}
  environment: Mapping[str, str] = {}
  runs: bool = False
  around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


class Accepted(Exception):
  """The job would have begun."""


def outcome(mistake: Mistake, root: Path) -> str:
  """'' where the mistake is answered as it should be, else what happened; it runs in `root`."""
  for name, content in mistake.files.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode('utf-8'))
  before = Path.cwd()
  with contextlib.ExitStack() as stack:
    if not mistake.runs:
      for job in JOBS:
        stack.enter_context(mock.patch.object(find('jobs', job), 'main', _accept))
    stack.enter_context(mock.patch.dict(os.environ, dict(mistake.environment)))
    stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
    stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
    stack.enter_context(mistake.around())
    os.chdir(root)
    try:
      main.main(['main', *mistake.words])
      return 'accepted'
    except Accepted:
      return 'accepted'
    except SystemExit as stop:
      said = str(stop.code)
    except BaseException as error:
      return 'traceback: ' + ''.join(traceback.format_exception_only(error)).strip()
    finally:
      os.chdir(before)
  if '\n' in said or not said.strip():
    return f'no single line: {said!r}'
  missing = [part for part in mistake.parts if part not in said]
  return f'says nothing of {missing}: {said}' if missing else ''


def _accept(config: Any) -> None:
  del config
  raise Accepted


# --- options -----------------------------------------------------------------------------------

STAGES = ('pretrain', 'tokenize', 'sft', 'reward', 'dpo', 'kto', 'simpo', 'orpo', 'grpo', 'dapo')
STAGES += ('ppo', 'rejection', 'distill', 'sample', 'chat', 'evaluate', 'best_of_n')
NUMBERS = (
  'nan',
  'inf',
  '-inf',
  '-1',
  '-0.5',
  '1e39',
  '1e-50',
  str(2**63),
  '9' * 30,
  "'x'",
  "'nan'",
)
NUMBERS += ("('a', None)", '{}', 'True')


def options(base: str) -> Iterator[Mistake]:
  """Numbers out of range, for every option of every stage that is a number.

  Args:
    base: folder of an artifact, which stands for all that a stage starts from.
  """

  from llm_jax.jobs import option_list
  from llm_jax.options import _advice

  for stage in STAGES:
    words = [f'--config={stage}', *start_of(stage, base)]
    config = main.read_config(['main', *words])
    for rows in option_list.sections(config).values():
      for row in rows:
        if row.option is None or 'number' not in row.option.type or row.option.kinds:
          continue
        inner: Any = config
        for part in row.path.split('.')[:-1]:
          inner = inner.get(part, ConfigDict())
        there = inner.get(row.path.split('.')[-1])
        known = isinstance(there, (int, float))
        for text in NUMBERS:
          value = _value(text)
          if isinstance(there, float) and isinstance(value, int):
            value = float(value)  # as ml_collections reads it
          if not _advice(row.option.hint, value) or (known and text in ("'nan'", 'True')):
            continue
          field = row.path.rpartition('.')[2]
          yield Mistake('option', [*words, f'--config.{row.path}={text}'], [field])


def _value(text: str) -> Any:
  from llm_jax.jobs.command import literal

  return float(text) if text in ('nan', 'inf', '-inf') else literal(text)


SHAPE = ('vocab_size=300', 'dim=16', 'num_heads=2', 'num_layers=1')


def start_of(stage: str, base: str) -> list[str]:
  """Words that let a stage start from `base`."""
  config = main.read_config(['main', f'--config={stage}'])
  words = ['--config.mesh.fsdp=1'] * ('mesh' in config)
  for name in config.get('init', ()):
    words += [f'--config.init.{name}={base}'] * (name != 'fresh')
  for name, group in config.get('annotate', {}).items():
    if name in config.annotate.steps and 'path' in group:
      words.append(f'--config.annotate.{name}.path={base}')
  if base and 'name' in config.get('model', {}):
    inner = '.policy' if 'policy' in config.model else ''
    for part in (inner, '.critic') if inner else ('',):
      words += [f'--config.model{part}.{name}' for name in SHAPE]
  words += [f'--config.artifact={base}'] * ('artifact' in config)
  words += [f'--config.artifacts=("{base}",)'] * ('artifacts' in config)
  return words


# --- the command line and places ---------------------------------------------------------------

NO_PLACES = ('', ' ', 's3://bucket/run', 'gs://bucket/run', 'file:///runs/a', 'https://x.org/a')


def words(base: str) -> Iterator[Mistake]:
  """Words that say nothing, or name a place that is none."""
  short, one = '--config=pretrain', '--config.mesh.fsdp=1'
  for bad, parts in (
    (['--config=pretrian'], ['did you mean']),
    (['--config=pretrain:huge'], ['huge']),
    (['--config=s3://bucket/pretrain.py'], ['s3://bucket/pretrain.py']),
    ([short, '--config.seed'], ['seed']),
    ([short, '--config.sead=1'], ['sead']),
    ([short, '--config.model.dim.x=1'], ['dim']),
    ([short, '--config.model=5'], ['model']),
    ([short, '--config.init.params=5'], ['params']),
    ([short, '--config.init.fresh=(1,)'], ['fresh']),
    ([short, '--config.annotate.steps=(1, 2)'], ['steps']),
    ([short, '--config.annotate.steps=unset'], ['steps']),
    ([short, '--config.requires=("nothing",)'], ['nothing']),
    ([short, '--config.requires=(1,)'], ['requires']),
    ([short, '--config.evals.validation=5'], ['validation']),
    ([short, '--config.evals.validation.name=none_such'], ['none_such']),
    ([short, '--config.evals.more.max_rows=3'], ['name']),
    ([short, '--config.stop.loss=nan'], ['stop']),
    ([short, '--config.stop.nothing=1.0'], ['nothing']),
    ([short, '--config.next={workdr}'], ['next']),
    ([short, '--config.next={'], ['next']),
    ([short, '--config.mesh.data=0'], ['mesh']),
    ([short, '--config.mesh.data=-2'], ['mesh']),
    ([short, '--config.mesh.data=1000000'], ['devices']),
    ([short, '--config.batch_size=4000000000', '--config.accumulate=1'], ['memory']),
    ([short, '--config.model.dim=16777216'], ['memory']),
    ([short, '--config.model.layers=(1,)'], ['layers']),
    ([short, '--config.model.layers=("local",)'], ['window']),
    ([short, '--config.model.rope_scaling.factr=8.0'], ['rope_scaling']),
    ([short, '--config.model.rope_scaling.factor=0'], ['rope_scaling']),
    ([short, '--config.model.lora.targets=('], ['targets']),
    ([short, '--config.tokenize.length=100000'], ['max_length']),
    (
      ['--config=sft', f'--config.init.params={base}', '--config.data.length=100000'],
      ['max_length'],
    ),
    (['--config=sft', f'--config.init.params={base}/none'], ['none']),
    (['--config=evaluate', '--config.artifacts=(1,)'], ['artifacts']),
    (['--config=evaluate', '--config.artifacts=()'], ['artifacts']),
    (['--config=grpo', *start_of('grpo', base), '--config.annotate.sample.group=1'], ['group']),
    (
      ['--config=grpo', *start_of('grpo', base), '--config.annotate.verify.rewards=(1,)'],
      ['rewards'],
    ),
    (
      ['--config=grpo', *start_of('grpo', base), "--config.annotate.verify.weights=('a',)"],
      ['weights'],
    ),
    (
      ['--config=grpo', *start_of('grpo', base), '--config.annotate.verify.weights=(1e400,)'],
      ['weights'],
    ),
  ):
    first = [one] * (bad[0] in (short, '--config=sft'))
    yield Mistake('words', [bad[0], *first, *bad[1:]], parts)
  alone = (short, one)
  for place in (*NO_PLACES, 'a\0b'):
    yield Mistake('place', [*alone, f'--config.workdir={place}'], ['workdir'])
    # A store is a place too, and needs its package.
    stored = place.startswith(('s3:', 'gs:'))
    needs = 'llm_jax[' if stored else 'of this machine'
    told = 'params: storage' if stored else 'artifact'
    yield Mistake('place', [*alone, f'--config.tokenize.workdir={place}'], [needs])
    yield Mistake('place', ['--config=sft', one, f'--config.init.params={place}'], [told])
    yield Mistake('place', ['--config=chat', f'--config.artifact={place}'], ['artifact'])
    yield Mistake('place', ['--config=evaluate', f'--config.output={place}'], ['output'])
    if '://' in place:
      text = [*alone, f'--config.tokenize.sources.text={place}/a.jsonl']
      yield Mistake('place', text, [needs], runs=True)
  long = 'x' * 5000
  yield Mistake('place', [*alone, f'--config.workdir=runs/{long}'], ['too long'])
  for below in ('taken', 'taken/run'):
    yield Mistake('place', [*alone, f'--config.workdir={below}'], ['taken'], files={'taken': 'x'})


# --- a config file of the user's ---------------------------------------------------------------

GOOD = (
  'from configs import pretrain\ndef get_config():\n  c = pretrain.get_config(); c.mesh.fsdp = 1\n'
)
CONFIGS = (
  ('def get_config(:\n', 'mine.py:1'),
  ('import nothing_of_that_name\n', 'mine.py:1'),
  (f'{GOOD}  return undefined\n', 'mine.py:4'),
  (f'{GOOD}  c.nothing.x = 1\n', 'mine.py:4'),
  (f'{GOOD}  raise RuntimeError("two\\nlines")\n', 'mine.py:4'),
  (f'{GOOD}  raise ValueError("no")\n', 'mine.py'),
  (f'{GOOD}  assert False\n', 'mine.py:4'),
  (f'{GOOD}  return get_config()\n', 'mine.py'),
  (f'{GOOD}  open("none_such.json")\n', 'mine.py:4'),
  (f'{GOOD}  int("9" * 5000)\n', 'mine.py'),
  (f'{GOOD}  return 5\n', 'ConfigDict'),
  (f'{GOOD}', 'ConfigDict'),
  (f'{GOOD}  del c.job\n  return c\n', 'job'),
  (f'{GOOD}  c.job = "none_such"\n  return c\n', 'none_such'),
  (f'{GOOD}  c.job = 5\n  return c\n', '5'),
  (f'{GOOD}  c.seed = None\n  return c\n', 'seed'),
  (f'{GOOD}  c.total_steps = "ten"\n  return c\n', 'total_steps'),
  (f'{GOOD}  c.optimizer.learning_rate = float("nan")\n  return c\n', 'learning_rate'),
  (f'{GOOD}  c.loss.name = "lost"\n  return c\n', 'lost'),
  (f'{GOOD}  del c.loss.name\n  return c\n', 'name'),
  (f'{GOOD}  del c.data\n  return c\n', 'data'),
  (f'{GOOD}  del c.annotate.steps\n  return c\n', 'steps'),
  (f'{GOOD}  c.annotate.steps = (None,)\n  return c\n', 'steps'),
  (f'{GOOD}  c.evals = 5\n  return c\n', 'evals'),
  ('x = 1\n', 'get_config'),
  ('\0', 'mine.py'),
  (b'\xff\xfe\x00', 'mine.py'),
  ('', 'get_config'),
)


def configs(base: str) -> Iterator[Mistake]:
  """Mistakes inside of a config file; the line is told, as file:line where Python knows it."""
  del base
  for content, part in CONFIGS:
    yield Mistake('config', ['--config=mine.py'], [part], {'mine.py': content})


# --- data --------------------------------------------------------------------------------------

LINES = (
  b'{"text": "half \\ud83d"}',
  b'{"text": "\\udc00 half"}',
  b'{"text": "a", "more": ' + b'[' * 100_000 + b']' * 100_000 + b'}',
  b'{"text": "a", "more": ' + b'9' * 5000 + b'}',
  b'{"text": "a"',
  b'text',
  b'{"text": 5}',
  b'{"text": null}',
  b'{"other": "a"}',
  b'["a"]',
  b'5',
  b'\xff\xfe',
  b'\0',
)
TURNS = (
  b'{"messages": "half \\ud83d"}',
  b'{"messages": [{"role": "user", "content": "half \\ud83d"}]}',
  b'{"messages": 5}',
  b'{"messages": [5]}',
  b'{"messages": [{"role": "nobody", "content": "a"}]}',
  b'{"messages": [{"content": "a"}]}',
  b'{"prompt": "a \\ud83d", "completion": "b"}',
  b'[' * 100_000,
  b'9' * 5000,
  b'5',
  b'"a"',
  b'{',
)


def data(base: str) -> Iterator[Mistake]:
  """Records that cannot be read; the file and the line are told."""
  good = b'{"text": "a cat sat on a mat"}\n'
  run = ['--config=tokenize', '--config.workdir=tokens']
  for line in LINES:
    files = {'mine.jsonl': good * 20 + line + b'\n' + good}
    words = [*run, '--config.sources.text=mine.jsonl', '--config.tokenizer.vocab_size=290']
    yield Mistake('data', words, ['mine.jsonl, line 21'], files, runs=True)
  for name in ('none.jsonl', 'folder', 'empty.jsonl', 'a.xyz', 'bad.parquet', 'bad.jsonl.gz'):
    files = {'folder/a.jsonl': good, 'empty.jsonl': b'', 'a.xyz': b'a', 'bad.parquet': b'PAR1x'}
    files['bad.jsonl.gz'] = b'\x1f\x8b\x08\x00bad'
    words = [*run, f'--config.sources.text={name}', '--config.tokenizer.vocab_size=290']
    yield Mistake('data', words, [name], files, runs=True)
  turn = json.dumps({'prompt': 'What is a cat?', 'completion': 'An animal.'}).encode() + b'\n'
  sft = ['--config=sft', *start_of('sft', base), '--config.data.sources.builtin=']
  sft += ['--config.data.sources.mine=mine.jsonl', '--config.data.length=32']
  sft += ['--config.workdir=run', '--config.batch_size=8', '--config.accumulate=1']
  for line in TURNS:
    yield Mistake(
      'data', sft, ['mine.jsonl, line 4'], {'mine.jsonl': turn * 3 + line + b'\n'}, runs=True
    )


# --- the machine -------------------------------------------------------------------------------


def machine(base: str) -> Iterator[Mistake]:
  """An environment that names hosts that are not there."""
  del base
  short = ['--config=pretrain']
  for environment, part in (
    ({'SLURM_NTASKS': '2', 'SLURM_JOB_ID': '7'}, 'srun'),
    ({'SLURM_NTASKS': 'two'}, 'SLURM_NTASKS'),
    ({'JAX_COORDINATOR_ADDRESS': 'localhost:1'}, 'JAX_NUM_PROCESSES'),
    ({'JAX_COORDINATOR_ADDRESS': 'localhost:1', 'JAX_NUM_PROCESSES': '2'}, 'JAX_PROCESS_ID'),
    ({'OMPI_COMM_WORLD_SIZE': '-2'}, 'OMPI_COMM_WORLD_SIZE'),
    ({'LLM_JAX_HEARTBEAT_SECONDS': 'soon'}, 'LLM_JAX_HEARTBEAT_SECONDS'),
  ):
    yield Mistake('hosts', short, [part], environment=environment)


DISKS = (
  (errno.ENOSPC, 'make room'),
  (errno.EDQUOT, 'make room'),
  (errno.EROFS, 'can be written to'),
  (errno.EACCES, 'chmod'),
  (errno.EPERM, 'chmod'),
  (errno.EIO, 'disk'),
  (errno.EMFILE, 'ulimit'),
  (errno.EFBIG, 'ulimit'),
)


def disks(base: str) -> Iterator[Mistake]:
  """Files that cannot be written, from the first or from a later one on."""
  del base
  good = b'{"text": "a cat sat on a mat"}\n' * 40
  words = ['--config=tokenize', '--config.workdir=tokens']
  words += ['--config.sources.text=mine.jsonl', '--config.tokenizer.vocab_size=290']
  for after in (0, 1, 2, 4):
    for number, cure in DISKS:
      around = lambda number=number, after=after: failing(number, after)
      parts = [os.strerror(number), cure]
      yield Mistake('disk', words, parts, {'mine.jsonl': good}, runs=True, around=around)


@contextlib.contextmanager
def failing(number: int, after: int) -> Iterator[None]:
  """Lets `after` files be opened for writing, and no more."""
  real, opened = builtins.open, []

  def opening(file: Any, mode: str = 'r', *args: Any, **how: Any) -> Any:
    if any(letter in mode for letter in 'wax') and not isinstance(file, int):
      opened.append(file)
      if len(opened) > after:
        raise OSError(number, os.strerror(number), os.fspath(file))
    return real(file, mode, *args, **how)

  with mock.patch('builtins.open', opening), mock.patch('io.open', opening):
    yield


KINDS = (options, words, configs, data, machine, disks)


def mistakes(base: str, count: int, seed: int) -> list[Mistake]:
  """`count` of them, of every kind alike as far as there are so many."""
  draw = random.Random(seed)
  each = [draw.sample(found, len(found)) for kind in KINDS if (found := list(kind(base)))]
  chosen: list[Mistake] = []
  while len(chosen) < count and any(each):
    for found in each:
      if found and len(chosen) < count:
        chosen.append(found.pop())
  return chosen


def tried(base: str, chosen: Sequence[Mistake]) -> Iterator[tuple[Mistake, str]]:
  """Each mistake and its `outcome`, in a folder of its own."""
  for mistake in chosen:
    with tempfile.TemporaryDirectory() as root:
      yield mistake, outcome(mistake, Path(root))


def run(folder: Path, count: int, seed: int) -> int:
  """Tries them and prints what was not answered; returns how many that were."""
  base = str(folder / 'base')
  make_base(base)
  total: Counter[str] = Counter()
  wrong: Counter[str] = Counter()
  for mistake, found in tried(base, mistakes(base, count, seed)):
    total[mistake.kind] += 1
    if found:
      wrong[mistake.kind] += 1
      print(f'{mistake.kind}: {" ".join(mistake.words)!r}\n  {found[:300]}', flush=True)
  for kind, of in sorted(total.items()):
    print(f'{kind:8} {of:5} mistakes, {wrong[kind]} not answered in one line')
  return sum(wrong.values())


def make_base(folder: str) -> None:
  """An untrained model of the shape `SHAPE`, in `folder`."""
  import jax
  import jax.numpy as jnp

  from llm_jax import artifact
  from llm_jax.text.tokenizer import Tokenizer

  texts = [f'a cat and {i} dogs sat on a mat, or ran' for i in range(200)]
  shape = {name: int(size) for name, _, size in (word.partition('=') for word in SHAPE)}
  group = {'name': 'transformer', 'max_length': 512, **shape}
  model = artifact.build(group)
  params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  tokenizer = Tokenizer.train(texts, vocab_size=shape['vocab_size'])
  config = {'model': group, 'data': {}}
  artifact.save(folder, artifact.Artifact(model, params, tokenizer, config, stage='sft'))


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--count', type=int, default=300)
  parser.add_argument('--seed', type=int, default=0)
  asked = parser.parse_args()
  with tempfile.TemporaryDirectory() as place:
    sys.exit(1 if run(Path(place), asked.count, asked.seed) else 0)
