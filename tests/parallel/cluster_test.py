"""A process finds out whether it is one of several, whoever started it, and never waits alone."""

import json
import os
import subprocess
import sys
import time

import jax
import pytest
from jax._src import clusters
from jax._src.clusters import cloud_tpu_cluster

from llm_jax.parallel import cluster
from llm_jax.parallel.cluster import Place, find
from llm_jax.types import BadInput

SLURM = dict(
  SLURM_JOB_ID='4242', SLURM_NTASKS='16', SLURM_JOB_NUM_NODES='2', SLURM_STEP_NUM_TASKS='16',
  SLURM_STEP_NODELIST='node[07-08]', SLURM_STEP_TASKS_PER_NODE='8(x2)', SLURM_PROCID='11',
  SLURM_LOCALID='3', SLURM_NODEID='1',
)  # fmt: skip
OMPI = dict(
  OMPI_COMM_WORLD_SIZE='4', OMPI_COMM_WORLD_RANK='2',
  OMPI_COMM_WORLD_LOCAL_RANK='0', OMPI_COMM_WORLD_LOCAL_SIZE='2',
)  # fmt: skip
OMPI_4 = OMPI | dict(OMPI_MCA_orte_hnp_uri='1531576320.0;tcp://10.96.0.1,10.148.0.1:34911')
BY_HAND = dict(JAX_COORDINATOR_ADDRESS='h0:1234', JAX_NUM_PROCESSES='2', JAX_PROCESS_ID='1')
TASK = dict(KUBERNETES_SERVICE_HOST='10.0.0.1', JOB_COMPLETION_INDEX='1')


def found(monkeypatch, environ):
  """The place that an environment gives, and what was said on the way."""
  words = ('SLURM', 'OMPI', 'JAX_COORD', 'JAX_NUM', 'JAX_PROC', 'TPU', 'MEGA', 'KUBER', 'JOB_')
  for name in [*os.environ]:
    if name.startswith((*words, 'CUDA_VISIBLE')):
      monkeypatch.delenv(name)
  for name, value in environ.items():
    monkeypatch.setenv(name, value)
  said = []
  return find(said.append), said


def without(environ, *names):
  return {name: value for name, value in environ.items() if name not in names}


STEP = ('SLURM_STEP_NUM_TASKS', 'SLURM_STEP_NODELIST', 'SLURM_STEP_TASKS_PER_NODE')
GPUS = dict(CUDA_VISIBLE_DEVICES='0,1,2,3,4,5,6,7', SLURM_GPUS_ON_NODE='8')
FIRST = 'node07:61586'  # 61440 + 4242 mod 4096
SHELL = SLURM | dict(SLURM_STEP_NUM_TASKS='1', SLURM_PROCID='0')  # of salloc, on many clusters


@pytest.mark.parametrize(
  ('environ', 'place'),
  [
    ({}, None),
    (BY_HAND, Place('h0:1234', 2, 1)),
    (BY_HAND | dict(JAX_NUM_PROCESSES='1'), None),
    (SLURM | dict(JAX_NUM_PROCESSES='1'), None),
    (SLURM, Place(FIRST, 16, 11, (3,))),
    (SLURM | GPUS, Place(FIRST, 16, 11, (3,))),
    (SLURM | dict(JAX_COORDINATOR_ADDRESS='ib07:9'), Place('ib07:9', 16, 11, (3,))),
    (SLURM | GPUS | dict(SLURM_STEP_TASKS_PER_NODE='12,4'), Place(FIRST, 16, 11, (6, 7))),
    # One task on its node has all of it, and one that was dealt its GPUs has those.
    (SLURM | GPUS | dict(SLURM_STEP_TASKS_PER_NODE='15,1'), Place(FIRST, 16, 11)),
    (SLURM | GPUS | dict(CUDA_VISIBLE_DEVICES='3'), Place(FIRST, 16, 11)),
    (SHELL, None),
    (SLURM | dict(SLURM_NTASKS='1', SLURM_STEP_NUM_TASKS='1'), None),
    (OMPI_4, Place('10.96.0.1:62624', 4, 2, (0,))),
    (OMPI | dict(JAX_COORDINATOR_ADDRESS='h0:1'), Place('h0:1', 4, 2, (0,))),
    (OMPI | dict(OMPI_COMM_WORLD_SIZE='1'), None),
    (BY_HAND | TASK, Place('h0:1234', 2, 1)),
    (without(TASK, 'JOB_COMPLETION_INDEX'), None),  # a notebook, say
    (TASK | dict(JAX_NUM_PROCESSES='1'), None),
  ],
)
def test_who_is_one_of_several(monkeypatch, environ, place):
  assert found(monkeypatch, environ) == (place, [])


@pytest.mark.parametrize(
  ('environ', 'message'),
  [
    (without(BY_HAND, 'JAX_PROCESS_ID'), 'no cluster is there to say the rest; set JAX_COORD'),
    (BY_HAND | dict(JAX_PROCESS_ID='2'), 'worker 2 of 2; they are numbered 0 to 1'),
    (BY_HAND | dict(JAX_NUM_PROCESSES='two'), "JAX_NUM_PROCESSES 'two': use a whole number"),
    (BY_HAND | dict(JAX_COORDINATOR_ADDRESS='h0'), "the address 'h0' has no port"),
    (without(SLURM, *STEP), '16 tasks on 2 nodes, and this is none of the tasks; .* with srun'),
    (
      SLURM | dict(SLURM_PROCID='x'),
      r'several \(SlurmCluster\), .* set JAX_COORDINATOR_ADDRESS=HOST',
    ),
    (OMPI, 'which names no address; add -x JAX_COORDINATOR_ADDRESS=HOST:PORT'),
    (TASK, r'pip install kubernetes, or set JAX_COORDINATOR_ADDRESS.*scripts/jobset\.yaml'),
  ],
)
def test_what_is_missing_is_said_in_one_line(monkeypatch, environ, message):
  with pytest.raises(BadInput, match=f'^hosts: .*{message}') as error:
    found(monkeypatch, environ)
  assert '\n' not in str(error.value)


def test_a_shell_on_one_node_goes_on_alone_and_says_so(monkeypatch):
  environ = without(SLURM, *STEP, 'SLURM_PROCID') | dict(SLURM_JOB_NUM_NODES='1')
  place, (said,) = found(monkeypatch, environ)
  assert place is None and 'none of the 16 tasks' in said


@pytest.mark.parametrize(
  ('worker', 'endpoints', 'environ', 'place'),
  [
    ('1', '127.0.0.1,10.0.0.2', {}, Place('127.0.0.1:8482', 2, 1)),
    ('1', 'a:0:127.0.0.1,b:1:10.0.0.2', {}, Place('127.0.0.1:8482', 2, 1)),
    ('0', '10.0.0.1', {}, None),
    # The second of two slices of two hosts each.
    (
      *('1', '10.0.0.3,10.0.0.4'),
      dict(MEGASCALE_COORDINATOR_ADDRESS='127.0.0.1:80', MEGASCALE_NUM_SLICES='2',
           MEGASCALE_SLICE_ID='1'),
      Place('127.0.0.1:8482', 4, 3),
    ),
  ],
)  # fmt: skip
def test_a_pod_of_tpu_vms(monkeypatch, worker, endpoints, environ, place):
  """What `gcloud compute tpus tpu-vm create` makes: no variable says it, a metadata server does."""
  metadata = {
    'agent-worker-number': worker, 'worker-network-endpoints': endpoints, 'tpu-env': '',
  }  # fmt: skip
  monkeypatch.setattr(cloud_tpu_cluster, 'running_in_cloud_tpu_vm', True)
  monkeypatch.setattr(cloud_tpu_cluster, 'get_metadata', lambda key: (metadata[key], 200))
  assert found(monkeypatch, environ) == (place, [])


def test_a_tpu_without_a_metadata_server_is_alone(monkeypatch):
  """Colab and Kaggle: they say so by a variable, or nobody answers."""
  monkeypatch.setattr(cloud_tpu_cluster, 'running_in_cloud_tpu_vm', True)
  never = lambda key: pytest.fail('was asked')
  monkeypatch.setattr(cloud_tpu_cluster, 'get_metadata', never)
  alone = dict(TPU_SKIP_MDS_QUERY='1')
  assert found(monkeypatch, alone) == (None, [])
  assert found(monkeypatch, alone | dict(TPU_WORKER_HOSTNAMES='localhost')) == (None, [])

  def refused(key):
    raise ConnectionError

  monkeypatch.setattr(cloud_tpu_cluster, 'get_metadata', refused)
  assert found(monkeypatch, {}) == (None, [])
  assert found(monkeypatch, dict(TPU_WORKER_HOSTNAMES='localhost')) == (None, [])
  monkeypatch.setattr(cloud_tpu_cluster, 'get_metadata', lambda key: time.sleep(3))
  monkeypatch.setattr(cluster, 'PATIENCE', 0.1)
  began = time.monotonic()
  place, (said,) = found(monkeypatch, {})
  assert place is None and time.monotonic() - began < 1
  assert 'going on alone' in said and 'JAX_COORDINATOR_ADDRESS' in said


def test_a_cluster_that_jax_will_know_is_asked_as_well(monkeypatch):
  monkeypatch.setattr(clusters.ClusterEnv, '_cluster_types', [])

  class Ours(clusters.ClusterEnv):
    name = 'ours'
    is_env_present = classmethod(lambda cls: True)
    get_coordinator_address = classmethod(lambda cls, timeout_secs, port: f'h0:{port}')
    get_process_count = classmethod(lambda cls: 3)
    get_process_id = classmethod(lambda cls: 2)

  assert found(monkeypatch, dict(JAX_COORDINATOR_PORT='7')) == (Place('h0:7', 3, 2), [])
  Ours.get_process_count = classmethod(lambda cls: 1)
  assert found(monkeypatch, {}) == (None, [])
  Ours.get_process_count = classmethod(lambda cls: int(''))
  with pytest.raises(BadInput, match=r'several \(Ours\), and the others cannot be found: ValueE'):
    found(monkeypatch, {})


PROGRAM = """
from llm_jax.parallel.cluster import find, join
tell = lambda line: print(line, flush=True)
join(find(tell), {}, tell)
"""


def test_a_worker_whose_others_do_not_come_says_so_and_ends():
  environ = BY_HAND | dict(JAX_COORDINATOR_ADDRESS='127.0.0.1:9', LLM_JAX_START_SECONDS='1')
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM], env=os.environ | environ, capture_output=True, text=True
  )
  assert done.returncode == os.EX_TEMPFAIL, done.stderr
  (said,) = done.stdout.splitlines()
  assert said.startswith('stopped: worker 1 of 2 waited 1 s for all to meet at 127.0.0.1:9; start')


def test_workers_that_were_told_other_things_all_say_which(monkeypatch):
  place, ours, theirs = Place('h0:1', 2, 0), dict(config=dict(batch_size=8)), dict(seed=1)
  told = lambda command: json.dumps(
    {'the number of workers': 2, 'jax': jax.__version__, **cluster._flat(command)}
  )
  monkeypatch.setattr(
    cluster, 'exchange', lambda text, topic: [text, told(theirs) if text[0] == '{' else 'other']
  )
  with pytest.raises(BadInput) as error:
    cluster._agree(place, ours)
  assert str(error.value) == (
    "hosts: worker 0 has 8 as config.batch_size, and worker 1 has 'nothing'; "
    'give the same command to all, with the same versions'
  )
  monkeypatch.setattr(cluster, 'exchange', lambda text, topic: [text, text])
  cluster._agree(place, ours)
