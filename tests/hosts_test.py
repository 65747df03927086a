"""Two hosts of four devices train as one of eight does, and none of them waits for a dead one."""

import os
import shutil
import signal
import socket
import time

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from llm_jax.models.stored import Stored
from tests import resume_test
from tests.resume_test import EVERY, STEPS, Process, Run

pytestmark = pytest.mark.slow
folder, stages = resume_test.folder, resume_test.stages  # fixtures
DEVICES = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=4'


# A pod of two TPU VMs, which nothing but a metadata server knows of.
POD = """
import os

from jax._src.clusters import cloud_tpu_cluster as cloud

METADATA = {
  'worker-network-endpoints': '127.0.0.1,127.0.0.1', 'tpu-env': '',
  'agent-worker-number': os.environ.get('WORKER'),
}
cloud.running_in_cloud_tpu_vm = True
os.environ.pop('TPU_SKIP_MDS_QUERY', None)  # which JAX sets where it sees no TPU
cloud.get_metadata = lambda key: (METADATA[key], 200)
"""


def by_hand(host, port):
  address = f'127.0.0.1:{port}'
  return dict(JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES='2', JAX_PROCESS_ID=host)


def by_srun(host, port):
  return dict(
    SLURM_JOB_ID='1', SLURM_NTASKS='2', SLURM_STEP_NODELIST='127.0.0.1', SLURM_PROCID=host,
    SLURM_LOCALID=host, SLURM_STEP_TASKS_PER_NODE='2', JAX_COORDINATOR_PORT=port,
  )  # fmt: skip


def by_pod(host, port):
  return dict(WORKER=host, JAX_COORDINATOR_PORT=port)


class Hosts:
  """The same command on two hosts, as processes of this machine."""

  def __init__(self, folder, name, stage='pretrain', options=(), started=by_hand, **environ):
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      port = str(free.getsockname()[1])
    self.runs = [
      Process(
        folder, name, 8, stage, options, **started(str(host), port), **environ,
        LLM_JAX_STORAGE=str(folder / f'host{host}'), XLA_FLAGS=DEVICES,
      )
      for host in range(2)
    ]  # fmt: skip

  def finished(self):
    said = []
    for run in self.runs:
      status, told = run.wait()
      said.append(told)
      assert status == 0, '\n'.join(said)
    assert 'finished' not in said[1]  # one host speaks
    return self.runs[0]


def assert_near(run, other):
  """The same numbers, but for the order in which floats are added up."""
  ours, theirs = run.losses(), other.losses()
  assert [x[:2] for x in ours] == [x[:2] for x in theirs] != []
  losses = ([x[2] for x in run.losses()] for run in (run, other))
  np.testing.assert_allclose(*losses, rtol=1e-5, atol=1e-6)
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4)
  jax.tree.map(close, run.params(), other.params())


@pytest.fixture(scope='module')
def whole(folder):
  return Run(folder, 'whole', 8).finished()[0]


@pytest.mark.parametrize('stage', ['grpo', 'ppo'])
def test_two_hosts_align_as_one(stages, stage):
  short = ('--config.total_steps=4', '--config.eval_every=4')
  run = Hosts(stages, f'{stage}-hosts', stage, short, by_srun).finished()
  other, _ = Run(stages, f'{stage}-one', 8, stage, short).finished()
  assert_near(run, other)
  assert len(run.losses()) == 4 + 1


def test_a_host_that_dies_ends_the_job_and_one_host_goes_on(folder, whole):
  hosts = Hosts(folder, 'dies', TO_BE_KILLED='yes', LLM_JAX_HEARTBEAT_SECONDS='10')
  first, second = hosts.runs
  first.wait_for(STEPS // 2 + EVERY)
  second.process.send_signal(signal.SIGKILL)
  second.wait()
  began = time.monotonic()
  status, said = first.wait()
  assert status in (os.EX_TEMPFAIL, -signal.SIGABRT) and time.monotonic() - began < 60
  # JAX ends a process itself that waits for others at the coordinator, as after a checkpoint.
  assert 'another host' in said or 'another task died' in said, said[-2000:]
  run, said = Run(folder, 'dies', 8).finished()
  assert 'resuming' in said
  assert_near(run, whole)


def test_a_host_of_a_pod_that_is_told_to_stop_tells_the_others(folder, whole):
  shutil.rmtree(folder / 'tokens-there', ignore_errors=True)  # two hosts write them once
  (folder / 'pod.py').write_text(POD + (folder / 'pretrain.py').read_text())
  hosts = Hosts(folder, 'told', 'pod', started=by_pod, TO_BE_KILLED='yes')
  first, second = hosts.runs
  first.wait_for(EVERY + 1)
  second.process.send_signal(signal.SIGTERM)
  last = []
  for run in hosts.runs:
    status, said = run.wait()
    assert status == os.EX_TEMPFAIL and 'Traceback' not in said, said
    last.append(next(line for line in said.splitlines() if 'SIGTERM: saved step' in line))
  assert last[0] == last[1]
  run = Hosts(folder, 'told', 'pod', started=by_pod).finished()
  assert_near(run, whole)
  # Each part of an array is a file there, which the export reads as it reads the store of one host.
  params = flatten_dict(run.params(), sep='/')
  stored = Stored(run.workdir / 'params', list(params))
  for path, array in params.items():
    np.testing.assert_array_equal(stored.read(path), array)


def test_a_host_with_bad_input_stops_them_all(folder):
  text = (folder / 'pretrain.py').read_text()
  (folder / 'wrong.py').write_text(text.replace('c.update(', 'c.model.num_heads = 3\n  c.update('))
  hosts = Hosts(folder, 'wrong', 'wrong')
  for run in hosts.runs:
    status, said = run.wait()
    assert status == 1 and 'error: ' in said and 'Traceback' not in said, said
