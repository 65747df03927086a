"""Every command of the README and of CONTRIBUTING works: its config builds, its fields exist."""

import io
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
  assert first.endswith('-m llm_jax.main --config=configs/pipeline.py:gpt')
  test = re.search(r'-m (pytest .*)$', second).group(1)
  assert f'python -m {test}' in (ROOT / '.ci' / 'run').read_text()


@pytest.mark.slow
def test_the_first_command_makes_an_assistant_one_can_chat_with(tmp_path, monkeypatch, capsys):
  """The main job itself, on all of its text and conversations, for a few steps; then the chat."""
  monkeypatch.chdir(ROOT)
  config = parse(commands('README.md')[0])
  config.workdir, config.mesh.fsdp = str(tmp_path / 'gpt'), 1
  for name in ('pretrain', 'sft', 'reward', 'ppo'):
    stage = config[name]
    for shape in (stage.model.get('policy'), stage.model.get('critic'), stage.model):
      if shape is not None and 'dim' in shape:
        shape.update(dim=64, num_layers=1)
    stage.total_steps = stage.checkpoint_every = stage.eval_every = 30 if name == 'pretrain' else 6
    stage.batch_size, stage.accumulate, stage.optimizer.warmup_steps = 8, 1, 2
    stage.evaluate.max_rows, stage.log_every = 16, 2
  config.pretrain.eval_every = 15
  config.report.update(max_questions=8, max_rows=16, sampled=8, batch_size=8, max_new=8)
  main.run(config)
  told = capsys.readouterr().out
  bits = [float(b) for b in re.findall(r'validation: .*bits per byte (\d+\.\d+)\n', told)]
  assert bits[1] < bits[0]
  page = (tmp_path / 'gpt' / 'report.html').read_text()
  assert 'Rollouts: ppo' in page and 'data:image/svg+xml' in page
  assert (tmp_path / 'gpt' / 'pretrain' / 'loss.png').stat().st_size > 1000
  (chat,) = [line for line in commands('README.md') if 'configs/chat.py' in line]
  config = parse(chat)
  config.artifact, config.max_new = str(tmp_path / 'gpt' / 'ppo'), 8
  monkeypatch.setattr('sys.stdin', io.StringIO('What does `os.path.join` do?\n'))
  main.run(config)
  assert re.search(r'stage ppo, .*\n\d+ tokens', capsys.readouterr().out, re.DOTALL)
  (sample,) = [line for line in commands('README.md') if 'Return a list of' in line]
  config = parse(sample)
  config.artifact, config.sample.max_new = str(tmp_path / 'gpt' / 'pretrain'), 8
  main.run(config)
  assert capsys.readouterr().out.startswith('Return a list of')
