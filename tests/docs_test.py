"""The docs site builds strictly, loads nothing from elsewhere, and says what is true."""

import ast
import contextlib
import doctest
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import llm_jax
from experiments.reliability import mistakes
from llm_jax import find, main

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / 'docs').rglob('*.md'))
ROOMS = ('losses', 'annotate', 'data', 'models', 'evals', 'rewards', 'judges', 'compress', 'tools')


def blocks(page, language):
  return re.findall(rf'^```{language}\n(.*?)^```', page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope='module')
def site(tmp_path_factory):
  if importlib.util.find_spec('material') is None:
    pytest.skip("mkdocs-material is not installed: pip install -e '.[docs]'")
  folder = tmp_path_factory.mktemp('site')
  command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(folder)]
  around = {**os.environ, 'NO_MKDOCS_2_WARNING': '1', 'PYTHONPATH': str(ROOT)}
  done = subprocess.run(command, cwd=ROOT, env=around, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return folder


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(site):
  pages = list(site.rglob('*.html'))
  assert len(pages) > len(PAGES)
  loads = (
    r'<(?:script|img|iframe|link rel="(?:stylesheet|preload|preconnect))[^>]*(?:https?:)?//[^>]*>'
  )
  for page in pages:
    assert not re.findall(loads, re.sub(r'"data:[^"]*"', '', page.read_text())), page
    assert '<!-- room' not in page.read_text() and '<!-- options' not in page.read_text(), page


@pytest.mark.parametrize('room', ROOMS)
def test_the_reference_has_every_file_that_a_config_can_name(site, room):
  text = ''.join(page.read_text() for page in (site / 'reference').glob('*.html'))
  missing = [name for name in find.names(room) if f'<h2 id="{name}">' not in text]
  assert not missing


def test_every_row_of_a_table_belongs_to_one():
  """A blank line before a row, or a cell too few, shows as text with bars in it."""
  for page in [*PAGES, *ROOT.glob('*.md'), *ROOT.glob('experiments/*/README.md')]:
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for table in re.findall(r'(?:^\|.*\n)+', text, re.MULTILINE):
      bars = [len(re.findall(r'(?<!\\)\|', line)) for line in table.splitlines()]
      below = table.splitlines()[1:2]
      assert below and re.fullmatch(r'[\s|:-]+', below[0]), f'{page}: {table[:100]}'
      assert len(set(bars)) == 1, f'{page}: {table[:100]}'


def test_every_job_has_a_page_with_its_options():
  told = ''.join(page.read_text() for page in PAGES)
  named = re.findall(r'<!-- options: (\S+) -->', told)
  jobs = {main.read_config(['', f'--config={name}']).job for name in named}
  there = {name for name in find.names('jobs') if hasattr(find.find('jobs', name), 'Fields')}
  assert jobs == there


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_examples_at_the_prompt_say_what_they_say(page):
  for i, code in enumerate(blocks(page, 'pycon')):
    example = doctest.DocTestParser().get_doctest(code, {}, page.name, str(page), i)
    told = io.StringIO()
    assert not doctest.DocTestRunner().run(example, out=told.write).failed, told.getvalue()


@pytest.fixture(scope='module')
def home(tmp_path_factory):
  """Where a new user is: in an empty folder with one small artifact."""
  folder = tmp_path_factory.mktemp('home')
  mistakes.make_base(str(folder / 'runs' / 'tiny' / 'pretrain'))
  return folder


def transcripts():
  text = '\n'.join(blocks(ROOT / 'docs' / 'faq.md', 'console'))
  return re.findall(r'^\$ (.*)\n((?:[^$\n].*\n)*)', text, re.MULTILINE)


@pytest.mark.parametrize(('command', 'told'), transcripts())
def test_a_mistake_is_answered_as_the_page_says(command, told, home, monkeypatch):
  monkeypatch.chdir(home)
  if 'llm_jax.main' not in command:
    subprocess.run(command, shell=True, check=True)
    return
  words = shlex.split(command)
  start = words.index('python')
  for word in words[:start]:
    monkeypatch.setenv(*word.split('=', 1))
  with contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as stop:
    main.main(['main', *words[start + 3 :]])
  assert str(stop.value).replace(str(home), '/home/me') == told.strip()


def test_the_citation_names_this_version():
  text = (ROOT / 'CITATION.cff').read_text()
  assert re.search(r'^version: (.+)$', text, re.MULTILINE)[1] == llm_jax.__version__


def test_an_extra_that_a_page_installs_is_one():
  setup = (ROOT / 'setup.py').read_text()
  for page in (*PAGES, ROOT / 'README.md', ROOT / 'CONTRIBUTING.md'):
    for names in re.findall(r'pip install [^\n]*(?:llm_jax|\.)\[([\w,]+)\]', page.read_text()):
      assert all(re.search(rf"'{name}'", setup) for name in names.split(',')), (page, names)


def test_every_option_is_described_where_the_others_are():
  """The site shows an option with its line of `Args`; one without a line would be a bare name."""
  missing = []
  for path in sorted((ROOT / 'llm_jax').rglob('*.py')):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.FunctionDef) and 'Args:' in (doc := ast.get_docstring(node) or ''):
        names = [option.arg for option in node.args.kwonlyargs]
        told = re.findall(r'^ {2,}(\w+(?:, \w+)*)(?: \([^)]*\))?:', doc, re.MULTILINE)
        told = {name for line in told for name in line.split(', ')}
        missing += [f'{path.name} {node.name}: {name}' for name in names if name not in told]
  assert not missing
