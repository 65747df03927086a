"""Every command of the README and of CONTRIBUTING works: its config builds, its fields exist."""

import re
import shlex
from pathlib import Path

import pytest

from llm_jax import main

ROOT = Path(__file__).parents[1]
PAGES = (
  'README.md',
  'CONTRIBUTING.md',
  *(str(p.relative_to(ROOT)) for p in ROOT.glob('experiments/*/README.md')),
)


def commands(page):
  """The shell lines of a page, with continuation lines joined."""
  text = (ROOT / page).read_text()
  blocks = re.findall(r'```bash\n(.*?)```', text, re.DOTALL)
  lines = '\n'.join(blocks).replace('\\\n', ' ').splitlines()
  return [line for line in lines if line.strip() and not line.strip().startswith('#')]


def runs_of_main():
  return [
    pytest.param(line, id=f'{page}: {line[-40:]}')
    for page in PAGES
    for line in commands(page)
    if 'llm_jax.main' in line
  ]


def parse(line):
  """The config that a command line of `llm_jax.main` gives."""
  words = shlex.split(line.split('&&')[-1], comments=True)
  return main.read_config(words[words.index('llm_jax.main') :])


@pytest.mark.parametrize('line', runs_of_main())
def test_the_command_builds_its_config(line, monkeypatch):
  monkeypatch.chdir(ROOT)
  assert parse(line).job in {p.stem for p in (ROOT / 'llm_jax' / 'jobs').glob('*.py')}


def test_the_readme_opens_with_two_commands_and_they_are_those_of_ci():
  first, second = commands('README.md')[:2]
  assert first.endswith('-m llm_jax.main --config=configs/pretrain.py')
  test = re.search(r'-m (pytest .*)$', second).group(1)
  assert f'python -m {test}' in (ROOT / '.ci' / 'run').read_text()


@pytest.mark.slow
def test_the_first_command_ends_with_an_artifact_that_writes(tmp_path, monkeypatch, capsys):
  """The main job itself, on all of its text, for a few steps; then the README's sample command."""
  monkeypatch.chdir(ROOT)
  config = parse(commands('README.md')[0])
  config.workdir, config.tokenize.workdir = str(tmp_path / 'run'), str(tmp_path / 'tokens')
  config.total_steps, config.batch_size, config.accumulate = 30, 8, 1
  config.optimizer.warmup_steps, config.eval_every, config.evaluate.max_rows = 5, 15, 32
  config.model.num_layers = 1
  main.run(config)
  told = capsys.readouterr().out
  bits = [float(b) for b in re.findall(r'bits per byte (\d+\.\d+)\n', told)]
  assert len(bits) == 2
  assert bits[1] < bits[0]
  assert (tmp_path / 'run' / 'loss.png').stat().st_size > 1000
  assert (tmp_path / 'run' / 'artifact.json').exists()
  sample, *_ = [line for line in commands('README.md') if 'configs/sample.py' in line]
  config = parse(sample)
  config.artifact, config.sample.max_new = str(tmp_path / 'run'), 8
  main.run(config)
  assert capsys.readouterr().out.startswith('Return a list of')
