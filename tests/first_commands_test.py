"""What somebody types who has just got the program, and what helps them: one table.

Each command is given in a folder with a text, a picture of a run and nothing else, so that none of
them trains: it is answered by what it asked for, or by one line that says what would work.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm_jax import main

ROOT = Path(__file__).parents[1]
# The words after `llm_jax`, and a part of what helps.
ANSWERED = [
  # What there is.
  ('', '--config=dpo --help'),
  ('--help', 'pipeline '),
  ('-h', 'recipes: gpt'),
  ('--version', 'llm_jax '),
  ('--config=sft --help', 'optimizer.learning_rate'),
  # A config by its name, its path from a clone that is not here, or with spaces.
  ('--config=sft.py --print', "job = 'train'"),
  ('--config=SFT --print', "job = 'train'"),
  ('--config=configs/pipeline.py:gpt --print', "job = 'pipeline'"),
  ('--config sft --config.seed 3 --print', 'seed = 3'),
]
REFUSED = [
  # A word that is no option.
  ('help', 'did you mean --help?'),
  ('--hlep', 'did you mean --help?'),
  ('sft', 'did you mean --config=sft?'),
  ('pipeline:gpt', 'did you mean --config=pipeline:gpt?'),
  ('run', '--help lists what can be run'),
  ('--confg=sft', 'did you mean --config=sft?'),
  ('--config=sft --confg.seed=1', 'did you mean --config.seed=1?'),
  ('--config=sft --batch_size=8', 'did you mean --config.batch_size=8?'),
  # A config that there is not.
  ('--config=pretran', "did you mean 'pretrain'?"),
  ('--config=train', "'train' is a job, which configs name"),
  ('--config=runs/gpt', "'runs/gpt' is a folder"),
  ('--config=notes.txt', 'is no Python file'),
  ('--config=sft:7b', 'choose from: tiny, 15m'),
  ('--config=pipeline:gtp', 'choose from: gpt'),
  # A field that there is not, or a value that it cannot have.
  ('--config=sft --config.lr=1e-3', "did you mean 'optimizer.learning_rate'?"),
  ('--config=sft --config.mesh.fsdp=1 --config.optimizer.lr=1', "did you mean 'learning_rate'?"),
  ('--config=pipeline:gpt --config.lr=1', "'pretrain.optimizer.learning_rate'"),
  ('--config=sft --config.totl_steps=3', "did you mean 'total_steps'?"),
  ('--config=sft --config.workdir', 'write --config.workdir=...'),
  ('--config=pretrain --config.model.dim=abc', 'is a whole number, such as 128'),
  ('--config=pretrain --config.loss.name=croos_entropy', "did you mean 'cross_entropy'?"),
  # Something that is not there, or is something else.
  ('--config=chat', 'run the stage that writes it first, which is --config=sft:tiny,'),
  ('--config=chat --config.artifact=notes.txt', "'notes.txt' is a file; give the folder"),
  ('--config=chat --config.artifact=runs/gpt', 'give one of them: runs/gpt/sft'),
  ('--config=pretrain --config.workdir=notes.txt', 'is a file, and no folder'),
  ('--config=tokenize --config.sources.text=my.txt', 'my.txt: no such file in'),
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('new')
  (folder / 'notes.txt').write_text('not a config')
  (folder / 'runs/gpt/sft').mkdir(parents=True)
  (folder / 'runs/gpt/seconds.json').write_text('{}')
  about = {'stage': 'sft', 'step': 1, 'model': {}, 'config': {}, 'files': {}}
  (folder / 'runs/gpt/sft/artifact.json').write_text(json.dumps(about))
  return folder


@pytest.mark.parametrize(('words', 'helps'), ANSWERED)
def test_a_command_is_answered_by_what_it_asked_for(words, helps, folder, monkeypatch, capsys):
  monkeypatch.chdir(folder)
  main.main(['llm_jax', *words.split()])
  assert helps in capsys.readouterr().out


@pytest.mark.parametrize(('words', 'helps'), REFUSED)
def test_a_command_that_cannot_be_gets_one_line_that_helps(words, helps, folder, monkeypatch):
  monkeypatch.chdir(folder)
  with pytest.raises(SystemExit) as stop:
    main.main(['llm_jax', *words.split()])
  said = str(stop.value)
  assert said.startswith('error: ') and helps in said and '\n' not in said


def test_an_extra_that_is_not_installed_is_named(folder, monkeypatch):
  monkeypatch.chdir(folder)
  monkeypatch.setitem(sys.modules, 'uvicorn', None)
  with pytest.raises(SystemExit, match=r"pip install 'llm_jax\[serve\]'"):
    main.main(['llm_jax', '--config=serve', '--config.artifact=runs/gpt/sft'])


@pytest.mark.parametrize(
  ('command', 'helps'),
  [
    (['-m', 'llm_jax', '--version'], 'llm_jax '),
    ([str(ROOT / 'llm_jax' / 'main.py'), '--help'], 'run it as python -m llm_jax.main'),
  ],
)
def test_ways_to_start_it(command, helps, folder):
  done = subprocess.run(
    [sys.executable, *command],
    cwd=folder,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    timeout=120,
  )
  said = done.stdout + done.stderr
  assert helps in said and 'Traceback' not in said
