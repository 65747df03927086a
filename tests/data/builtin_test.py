"""The documentation of Python as a corpus: the same bytes everywhere, and no leak across splits."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from llm_jax.data import builtin, documentation
from llm_jax.types import BadInput

ROOT = Path(__file__).parents[2]
# Prints the hash of the corpus and the modules that making it has imported.
DIGEST = """
import hashlib, sys
from llm_jax.data import builtin
before = set(sys.modules)
text = '\\0'.join(text for split in builtin.SPLITS for text in builtin.documents(split))
print(hashlib.sha256(text.encode()).hexdigest(), *sorted(set(sys.modules) - before))
"""


@pytest.fixture(scope='module')
def texts():
  return {split: builtin.documents(split) for split in builtin.SPLITS}


def start(folder, seed):
  environment = {**os.environ, 'PYTHONHASHSEED': seed, 'PYTHONPATH': f'{folder}:{ROOT}'}
  run = [sys.executable, '-c', DIGEST]
  return subprocess.Popen(run, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)


def test_same_bytes_in_every_process_and_nothing_runs(tmp_path, texts, capsys):
  (tmp_path / '_lsprof.py').write_text('raise SystemExit("the file of a user")')
  processes = [start(tmp_path, '1'), start(ROOT, '2')]
  exec(DIGEST, {})  # here, where pytest and its plugins are loaded
  here = capsys.readouterr().out.split()[0]
  for process in processes:
    there, *imported = process.communicate()[0].split()
    assert there == here
    assert {'pydoc_data.topics', '_lsprof'} <= {*imported}
    assert not {'turtle', 'webbrowser', 'antigravity', 'this', 'tkinter', 'readline'} & {*imported}


def test_size(texts):
  size = {split: sum(map(len, found)) for split, found in texts.items()}
  assert size['train'] > 1_500_000
  assert 0.04 < size['validation'] / sum(size.values()) < 0.07
  assert len(texts['validation']) > 50


def test_what_is_in_it(texts):
  found = texts['train'] + texts['validation']
  starts = [text.split('\n')[0] for text in found]
  assert 'textwrap.dedent(text)' in starts  # Python function
  assert any(start.startswith('class argparse.ArgumentParser(prog=None, ') for start in starts)
  assert 'Module calendar' in starts
  assert 'The "with" statement' in starts or 'Compound statements' in starts  # topics
  assert 'sorted(iterable, /, *, key=None, reverse=False)' in starts  # C
  assert 'class str' in starts
  assert any('\n    >>> ' in text for text in found)


def test_one_document_as_it_reads(texts):
  (text,) = (t for split in texts.values() for t in split if t.startswith('textwrap.indent('))
  assert text == (
    'textwrap.indent(text, prefix, predicate=None)\n\n'
    "Adds 'prefix' to the beginning of selected lines in 'text'.\n\n"
    "If 'predicate' is provided, 'prefix' will only be added to the lines\n"
    "where 'predicate(line)' is True. If 'predicate' is not provided,\n"
    "it will default to adding 'prefix' to all non-empty lines that do not\n"
    'consist solely of whitespace characters.\n'
  )


def test_text_is_clean(texts):
  for text in texts['train'] + texts['validation']:
    assert text.encode() and text.endswith('\n') and text.strip()
    assert not re.search(r'[^\S\n ]|[\x00-\x09\x0b-\x1f\x7f]', text), text
    assert not re.search(r'at 0x[0-9a-fA-F]', text), text
    assert not re.search(r' \n|\n{4}', text), text


def test_no_place_of_this_machine(texts):
  found = '\0'.join(texts['train'] + texts['validation'])
  library = {sysconfig.get_path(name) for name in ('stdlib', 'purelib')}
  for place in {sys.prefix, sys.base_prefix, *library, str(ROOT), str(Path.home()), os.getcwd()}:
    # Every Python's documentation names folders below /usr, where that of Debian is.
    assert len(place) < 4 or place == '/usr' or f'{place}/' not in found


def test_only_the_standard_library(texts):
  for text in texts['train'] + texts['validation']:
    if match := re.match(r'Module (\w+)', text):
      assert match[1] in sys.stdlib_module_names
      assert match[1] not in {'antigravity', 'this', 'idlelib', 'tkinter', 'turtledemo', 'test'}


def shingles(text):
  words = re.findall(r'\w+', text.lower())
  return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def test_no_leak_from_train_to_validation(texts):
  train = [shingles(text) for text in texts['train']]
  owners = defaultdict(list)
  for i, found in enumerate(train):
    for shingle in found:
      owners[shingle].append(i)
  total = known = 0
  for text in texts['validation']:
    mine = shingles(text)
    shared = Counter(i for shingle in mine for i in owners.get(shingle, ()))
    for i, count in shared.items():
      assert count / len(mine | train[i]) < 0.2, (text, texts['train'][i])
      assert count < 12, (text, texts['train'][i])  # no passage of 16 words
    total += len(mine)
    known += sum(shingle in owners for shingle in mine)
  assert known / total < 0.03


def test_no_copies(texts):
  found = texts['train'] + texts['validation']
  bodies = [text.split('\n\n', 1)[-1] for text in found]
  assert len(set(found)) == len(found)
  assert len(set(bodies)) == len(bodies)
  twins = [text for text in found if re.match(r'(posixpath|ntpath)\.split\(', text)]
  assert len(twins) == 1


def test_splits_are_lists_of_their_own(texts):
  builtin.documents('train').clear()
  assert builtin.documents('train') == texts['train']


def test_entries_are_the_documents_with_a_name(texts):
  for split, found in texts.items():
    headers = {'class': 'class ', 'module': 'Module ', 'function': ''}
    rebuilt = [
      f'{headers[kind]}{name}{signature}\n\n{doc}\n'
      for kind, name, signature, doc, _ in builtin.entries(split)
    ]
    assert len(set(rebuilt)) == len(rebuilt) > 0.8 * len(found)
    assert set(rebuilt) <= set(found)
  dedent = next(e for e in builtin.entries('train') if e.name == 'textwrap.dedent')
  assert (dedent.kind, dedent.signature) == ('function', '(text)')
  assert dedent.summary == 'Remove any common leading whitespace from every line in `text`.'


def test_what_is_left_out_is_in_no_document(texts):
  left = {entry.name: entry for entry in builtin.left_out()}
  assert left['os.remove'].doc.startswith('Remove a file (same as unlink()).')
  assert left['os.getcwd'].signature == '()' and len(left) > 500
  entries = [entry for split in builtin.SPLITS for entry in builtin.entries(split)]
  assert not {(e.kind, e.name, e.signature) for e in entries} & {
    (e.kind, e.name, e.signature) for e in left.values()
  }


@pytest.mark.parametrize('read', [builtin.documents, builtin.entries])
def test_unknown_split(read):
  with pytest.raises(BadInput, match=r"^builtin: no split 'valid'; did you mean 'validation'\?$"):
    read('valid')


def test_python_without_its_source(monkeypatch, tmp_path):
  monkeypatch.setattr(documentation.sysconfig, 'get_path', lambda name: str(tmp_path))
  with pytest.raises(BadInput, match=r'no library source in .*use a Python with the \.py files'):
    documentation.read.__wrapped__()


def test_a_method_is_that_of_a_class_or_of_its_first_base_that_has_it():
  source = 'class A(A):\n  def f(self): 0\nclass B(C, A): 0\nclass C(B):\n  def g(self): 0\n'
  classes = {node.name: node for node in ast.parse(source).body}
  found = [documentation._method(classes, 'B', name) for name in ('f', 'g', 'h')]
  assert [method and method.name for method in found] == ['f', 'g', None]


def test_functions_that_are_methods_of_one_object_have_a_page():
  found = {entry.name: entry for entry in builtin.left_out()}
  assert found['random.shuffle'].doc.startswith('Shuffle list x in place')
  assert found['random.randint'].signature == '(a, b)'
  assert 'calendar.month' in found  # a method of a class that this one extends
  names = {document.header.partition('(')[0] for document in documentation.bound()}
  assert not any(part.startswith('_') for name in names for part in name.split('.')[-1:])
