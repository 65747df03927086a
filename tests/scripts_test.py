"""The scripts of scripts/: they are well formed, and go on where machines are taken away."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llm_jax.jobs.command import read_config
from llm_jax.parallel.cluster import NAMES

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / 'scripts'
SHELL = ['tpu.sh', 'slurm.sbatch']


@pytest.mark.parametrize('name', SHELL)
def test_shell_is_clean(name):
  checker = Path(sys.executable).parent / 'shellcheck'
  command = [str(checker) if checker.exists() else 'shellcheck', str(SCRIPTS / name)]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout


def write(path, text):
  path.write_text(f'#!/usr/bin/env bash\n{text}')
  path.chmod(0o755)


# A TPU that is given at the second look, and taken away while the command first runs.
GCLOUD = r"""
echo "$*" >>"$FAKE/log"
state=$(cat "$FAKE/state" 2>/dev/null)
case "$*" in
  *'queued-resources describe'*)
    [[ $state ]] || exit 1
    echo "$state"
    if [[ $state == WAITING_FOR_RESOURCES ]]; then echo ACTIVE >"$FAKE/state"; fi ;;
  *'queued-resources create'*) echo WAITING_FOR_RESOURCES >"$FAKE/state" ;;
  *'queued-resources delete'*) rm -f "$FAKE/state" ;;
  *'tpu-vm describe'*) [[ $state == ACTIVE ]] && echo READY || echo PREEMPTED ;;
  *'tpu-vm ssh'*llm_jax\ --config*)
    echo run >>"$FAKE/runs"
    if [[ $MISTAKE ]]; then echo 'llm_jax status 1'; exit 1; fi
    if (($(wc -l <"$FAKE/runs") == 1)); then echo SUSPENDED >"$FAKE/state"; exit 255; fi ;;
esac
"""
PYTHON = 'mkdir -p "$6"; touch "$6/llm_jax-1-py3-none-any.whl"\n'


@pytest.fixture
def fake(tmp_path, monkeypatch):
  """A folder of commands that come first on PATH."""
  monkeypatch.setenv('PATH', f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
  monkeypatch.setenv('FAKE', str(tmp_path))
  monkeypatch.setenv('MISTAKE', '')
  return tmp_path


def tpu(fake, **environ):
  write(fake / 'gcloud', GCLOUD)
  write(fake / 'python3', PYTHON)
  environ = os.environ | dict(NAME='mine', ZONE='z', TYPE='v6e-16', POLL='0') | environ
  words = ['--config=pretrain:1b', '--config.workdir=gs://b/a run']
  done = subprocess.run(
    [SCRIPTS / 'tpu.sh', *words], env=environ, capture_output=True, text=True, timeout=60
  )
  log = (fake / 'log').read_text().splitlines() if (fake / 'log').exists() else []
  return done, log


def test_a_tpu_that_is_taken_away_is_made_again_and_given_the_same_command(fake):
  done, log = tpu(fake)
  assert done.returncode == 0, done.stderr
  calls = lambda word: [line for line in log if word in line]
  create, again = calls('queued-resources create')
  assert create == again and '--spot' in create and '--accelerator-type=v6e-16' in create
  assert len(calls('tpu-vm scp')) == len(calls('pip install --user')) == 2  # on each machine
  first, second = calls('llm_jax --config')
  assert first == second and '--worker=all' in first
  sent = first.split('--command=')[1].partition(' || ')[0]
  assert shlex.split(sent)[1:] == ['--config=pretrain:1b', '--config.workdir=gs://b/a run']
  assert len(calls('queued-resources delete')) == 2 and 'delete' in log[-1]


def test_a_mistake_is_not_tried_again(fake):
  done, log = tpu(fake, MISTAKE='yes')
  assert done.returncode == 1 and 'the TPU stays. To delete it' in done.stderr
  assert len([line for line in log if 'llm_jax --config' in line]) == 1
  assert not any('delete' in line for line in log)


def test_what_is_missing_is_named(fake):
  done, log = tpu(fake, ZONE='')
  assert done.returncode != 0 and 'ZONE: is not set: where, as' in done.stderr and not log


@pytest.mark.parametrize(
  ('status', 'restarts', 'queued'), [(0, 0, False), (1, 0, False), (75, 0, True), (75, 100, False)]
)
def test_a_job_of_slurm_is_queued_again_where_the_same_command_goes_on(
  fake, tmp_path, status, restarts, queued
):
  write(fake / 'srun', f'printf "%s\\n" "$@" >"$FAKE/srun.log"\nexit {status}\n')
  write(fake / 'scontrol', 'echo "$@" >"$FAKE/scontrol.log"\n')
  environ = os.environ | dict(
    SLURM_JOB_ID='42', SLURM_RESTART_COUNT=str(restarts), SLURM_SUBMIT_DIR=str(tmp_path)
  )
  done = subprocess.run([SCRIPTS / 'slurm.sbatch', '--config=a b'], env=environ)
  assert done.returncode == status
  program = ['--kill-on-bad-exit=1', 'python', '-m', 'llm_jax.main', '--config=a b']
  assert (fake / 'srun.log').read_text().splitlines() == program
  log = fake / 'scontrol.log'
  assert log.exists() == queued
  if queued:
    assert log.read_text() == 'requeue 42\n'


def test_slurm_is_asked_for_a_task_for_each_gpu_and_for_time_to_save():
  options = re.findall(
    r'^#SBATCH --([\w-]+)(?:=(.+))?$', (SCRIPTS / 'slurm.sbatch').read_text(), re.M
  )
  given = dict(options)
  assert given['ntasks-per-node'] == given['gpus-per-node']
  assert given['signal'] == 'TERM@120' and 'requeue' in given and given['open-mode'] == 'append'


def test_the_jobset_names_its_own_first_pod_and_all_its_pods(monkeypatch):
  whole = yaml.safe_load((SCRIPTS / 'jobset.yaml').read_text())
  (group,) = whole['spec']['replicatedJobs']
  job = group['template']['spec']
  (container,) = job['template']['spec']['containers']
  environ = {one['name']: one for one in container['env']}
  assert tuple(environ) == NAMES
  name = whole['metadata']['name']
  host, port = environ['JAX_COORDINATOR_ADDRESS']['value'].split(':')
  assert host == f'{name}-{group["name"]}-0-0.{name}' and whole['spec']['network']
  assert {'containerPort': int(port)} in container['ports']
  assert environ['JAX_NUM_PROCESSES']['value'] == str(job['parallelism']) == str(job['completions'])
  assert 'job-completion-index' in str(environ['JAX_PROCESS_ID']) and group['replicas'] == 1
  assert job['completionMode'] == 'Indexed' and job['backoffLimit'] == 0
  # All start again, but for a mistake.
  (rule,) = job['podFailurePolicy']['rules']
  assert rule['onExitCodes'] == {'containerName': 'llm', 'operator': 'In', 'values': [1, 2]}
  assert job['template']['spec']['restartPolicy'] == 'Never'  # or the rules would not be allowed
  mounted = {one['name'] for one in container['volumeMounts']}
  assert mounted == {one['name'] for one in job['template']['spec']['volumes']}
  monkeypatch.chdir(ROOT)
  assert read_config(['main', *container['args']]).workdir == '/runs/mine'


def test_the_dockerfile_copies_what_the_package_is_built_from_and_runs_it_as_nobody_special():
  text = re.sub(r'^#.*\n', '', (SCRIPTS / 'Dockerfile').read_text(), flags=re.MULTILINE)
  lines = [line.split(maxsplit=1) for line in text.splitlines()]
  assert lines[0] == ['FROM', 'python:3.12-slim']
  copied = {path for word, rest in lines if word == 'COPY' for path in rest.split()[:-1]}
  assert copied >= {'setup.py', 'README.md', 'llm_jax', 'configs'}
  assert all((ROOT / path).exists() for path in copied)
  words = [word for word, _ in lines]
  assert set(words) <= {*('FROM', 'ARG', 'COPY', 'RUN', 'USER', 'WORKDIR', 'STOPSIGNAL')} | {
    'ENTRYPOINT', 'CMD'
  }  # fmt: skip
  assert words.index('USER') > max(i for i, word in enumerate(words) if word == 'RUN')
  assert dict(lines)['ENTRYPOINT'] == '["python", "-m", "llm_jax.main"]'  # gets the signals itself
  extras = dict(lines)['ARG'].partition('=')[2].split(',')
  known = (ROOT / 'setup.py').read_text()
  assert all(f"'{extra}': [" in known for extra in extras)


def test_the_scripts_are_those_that_the_page_names():
  page = (ROOT / 'docs' / 'pods.md').read_text()
  assert {path.name for path in SCRIPTS.iterdir()} == {*re.findall(r'scripts/([\w.]+)', page)}
