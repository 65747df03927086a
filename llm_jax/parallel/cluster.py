"""The cluster: whether this process is one of several, and how it joins the others.

JAX knows clusters (SLURM, Open MPI, TPU pods on GCE and GKE, Kubernetes) as classes that look at
the environment or ask a metadata server. They are asked here, before JAX starts, since JAX itself
does not say whether there is more than one process, and ends with a stack trace where another one
does not come.
"""

import hashlib
import importlib.util
import json
import os
import queue
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax

from llm_jax.parallel.hosts import exchange
from llm_jax.types import BadInput

T = TypeVar('T')
PATIENCE = 15.0  # seconds, for all that a cluster is asked; a metadata server takes milliseconds
NAMES = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
BY_HAND = f'set {NAMES[0]}=HOST:PORT, {NAMES[1]} and {NAMES[2]}, or JAX_NUM_PROCESSES=1 to go alone'


class Place(NamedTuple):
  """Of a process among all.

  Attributes:
    address: host and port of the first, where all meet.
    count: processes.
    index: of this one, from 0.
    devices: of the machine, which are this process's; None stands for all that it sees.
  """

  address: str
  count: int
  index: int
  devices: tuple[int, ...] | None = None


def find(tell: Callable[[str], None]) -> Place | None:
  """The place of this process among several, or None where it is alone: then it never waits.

  Args:
    tell: prints a line to a person.

  Raises:
    BadInput: there are others, and something is missing to join them.
  """
  _seconds(), _heartbeat()  # refused before anybody is met
  address, count, index = map(os.environ.get, NAMES)
  if count and _number(NAMES[1]) == 1:
    return None
  if address and count and index:
    return _placed(address, _number(NAMES[1]), _number(NAMES[2]))
  cluster = _asked(_present, tell)
  if cluster is None:
    return _unnamed(address, tell)
  try:
    number = _asked(lambda: _count(cluster), tell)
    if number is None or number == 1:
      return None
    port = os.environ.get('JAX_COORDINATOR_PORT')
    found = cluster.get_process_id(), address or cluster.get_coordinator_address(_seconds(), port)
  except Exception as error:  # of an environment that says half of it, or of a service
    raise BadInput(
      f'hosts: this is a worker of several ({cluster.__name__}), and the others cannot be found: '
      f'{_line(error)}; {BY_HAND}'
    ) from error
  return _placed(found[1], number, found[0])


def join(place: Place, command: Mapping[str, Any], tell: Callable[[str], None]) -> None:
  """Meets the other processes, all of them within LLM_JAX_START_SECONDS (300).

  If one is silent for LLM_JAX_HEARTBEAT_SECONDS (60) later, the job ends on all of them.

  Args:
    place: from `find`.
    command: what all have to be told alike, such as the config.
    tell: prints a line to a person.

  Raises:
    BadInput: they cannot meet, or were told other things.
  """
  seconds, heartbeat = _seconds(), _heartbeat()

  def late() -> None:
    tell(
      f'stopped: worker {place.index} of {place.count} waited {seconds} s for all to meet at '
      f'{place.address}; start the same command on each within LLM_JAX_START_SECONDS, let them '
      'reach this port, and look at what the others said'
    )
    os._exit(os.EX_TEMPFAIL)

  watch = threading.Timer(seconds, late)
  watch.daemon = True
  watch.start()
  try:
    jax.distributed.initialize(
      *place[:3],
      local_device_ids=None if place.devices is None else [*place.devices],
      cluster_detection_method='deactivate',  # it has been asked
      initialization_timeout=seconds + 60,  # after `late`, which says more than JAX does
      heartbeat_timeout_seconds=heartbeat,
    )
  except (RuntimeError, ValueError) as error:
    raise BadInput(
      f'hosts: cannot join at {place.address}: {_line(error)}; '
      f'another JAX_COORDINATOR_PORT may be free, or {BY_HAND}'
    ) from error
  finally:
    watch.cancel()
  _agree(place, command)


def _present() -> Any:
  """The class of the cluster that this process runs in, or None."""
  from jax._src.clusters import ClusterEnv

  for cluster in ClusterEnv._cluster_types:
    # A pod of Kubernetes that is no task of an indexed job is alone.
    asked = cluster.__name__ != 'K8sCluster' or _indexed()
    try:
      if asked and not cluster.opt_in_only_method and cluster.is_env_present():
        return cluster
    except Exception:  # a service that does not answer is not there
      continue
  return None


def _count(cluster: Any) -> int:
  """Processes that run the same command."""
  if cluster.__name__ == 'SlurmCluster':
    # The shell of `salloc` is a step of one task, and has the SLURM_NTASKS of the whole job.
    return _number('SLURM_STEP_NUM_TASKS', cluster.get_process_count())
  # Where variables name one host, as on Colab, slices would be looked for in vain.
  listed = cluster.__name__ == 'GkeTpuCluster' and not os.environ.get('MEGASCALE_NUM_SLICES')
  if listed and len(cluster._get_worker_list_in_slice()) == 1:
    return 1
  return cluster.get_process_count()


def _indexed() -> bool:
  """Whether this is a task of an indexed job of Kubernetes that JAX can ask about it."""
  if 'KUBERNETES_SERVICE_HOST' not in os.environ or 'JOB_COMPLETION_INDEX' not in os.environ:
    return False
  return importlib.util.find_spec('kubernetes') is not None


def _unnamed(address: str | None, tell: Callable[[str], None]) -> Place | None:
  """The place of a process in a cluster that JAX does not recognise."""
  tasks = _number('OMPI_COMM_WORLD_SIZE', 1)
  if address and tasks > 1:
    return _placed(address, tasks, _number('OMPI_COMM_WORLD_RANK'))
  if address:
    raise BadInput(
      f'hosts: JAX_COORDINATOR_ADDRESS is set, and no cluster is there to say the rest; {BY_HAND}'
    )
  if tasks > 1:  # from Open MPI 5 on it does not say where the first process is
    raise BadInput(
      f'hosts: one of {tasks} processes of mpirun, which names no address; add '
      '-x JAX_COORDINATOR_ADDRESS=HOST:PORT, of the first host and of any free port'
    )
  if 'JOB_COMPLETION_INDEX' in os.environ and 'KUBERNETES_SERVICE_HOST' in os.environ:
    raise BadInput(
      f'hosts: a task of an indexed job of Kubernetes; pip install kubernetes, or {BY_HAND}, '
      'as scripts/jobset.yaml does'
    )
  tasks = _number('SLURM_NTASKS', 1)
  nodes = _number('SLURM_JOB_NUM_NODES', tasks)  # in a job it is set
  if tasks > 1 and nodes > 1:
    raise BadInput(
      f'hosts: a job of SLURM with {tasks} tasks on {nodes} nodes, and this is none of the tasks; '
      'start all of them with srun, or go alone with JAX_NUM_PROCESSES=1'
    )
  if tasks > 1:
    tell(f'hosts: none of the {tasks} tasks of this job of SLURM; going on alone, without srun')
  return None


def _placed(address: str, count: int, index: int) -> Place:
  if not 0 <= index < count:
    raise BadInput(f'hosts: worker {index} of {count}; they are numbered 0 to {count - 1}')
  if not re.fullmatch(r'\S+:\d+', address):
    raise BadInput(f'hosts: the address {address!r} has no port; write HOST:PORT')
  return Place(address, count, index, _devices())


def _devices() -> tuple[int, ...] | None:
  """Devices of this process where a launcher starts several on a machine: an equal share of those.

  None, for all that it sees, where it is alone on its machine or the launcher has dealt them out.
  """
  from jax._src.cloud_tpu_init import running_in_cloud_tpu_vm

  given = os.environ.get
  if 'OMPI_COMM_WORLD_LOCAL_RANK' in os.environ:
    here, tasks = _number('OMPI_COMM_WORLD_LOCAL_RANK'), _number('OMPI_COMM_WORLD_LOCAL_SIZE', 1)
  elif 'SLURM_LOCALID' in os.environ:
    here, tasks = _number('SLURM_LOCALID'), _tasks_on_node()
  else:
    return None
  if tasks == 1 or running_in_cloud_tpu_vm or given('JAX_LOCAL_DEVICE_IDS'):
    return None
  visible = len(given('CUDA_VISIBLE_DEVICES', '').split(','))
  if not given('CUDA_VISIBLE_DEVICES'):
    return (here,)
  if visible < max(tasks, _number('SLURM_GPUS_ON_NODE', 0)):
    return None
  share = visible // tasks
  return tuple(range(here * share, here * share + share))


def _tasks_on_node() -> int:
  """Tasks of this step on this node: SLURM writes 8(x2),4 for nodes of 8, 8 and 4."""
  text = os.environ.get('SLURM_STEP_TASKS_PER_NODE', '')
  found = re.findall(r'(\d+)(?:\(x(\d+)\))?', text)
  each = [int(tasks) for tasks, nodes in found for _ in range(int(nodes or 1))]
  node = _number('SLURM_NODEID', 0)
  return each[node] if node < len(each) else 0  # not known: several


def _agree(place: Place, command: Mapping[str, Any]) -> None:
  """Compares what all were told.

  Raises:
    BadInput: naming the first worker that was told otherwise, and in what.
  """
  mine = {'the number of workers': place.count, 'jax': jax.__version__, **_flat(command)}
  text = json.dumps(mine, default=repr, sort_keys=True)
  if len({*exchange(hashlib.sha256(text.encode()).hexdigest(), 'start')}) == 1:
    return
  first, *others = [json.loads(said) for said in exchange(text, 'start')]
  for worker, other in enumerate(others, 1):
    for name in sorted({*first, *other}):
      ours, theirs = (said.get(name, 'nothing') for said in (first, other))
      if ours != theirs:
        raise BadInput(
          f'hosts: worker 0 has {ours!r} as {name}, and worker {worker} has {theirs!r}; '
          'give the same command to all, with the same versions'
        )


def _flat(tree: Mapping[str, Any], above: str = '') -> dict[str, Any]:
  """The leaves of nested mappings, by dotted names."""
  flat: dict[str, Any] = {}
  for name, value in tree.items():
    inner = isinstance(value, Mapping)
    flat |= _flat(value, f'{above}{name}.') if inner else {f'{above}{name}': value}
  return flat


def _asked(question: Callable[[], T], tell: Callable[[str], None]) -> T | None:
  """The answer, or None where there is none in time; whoever asks goes on."""
  answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

  def ask() -> None:
    try:
      answers.put((question(), None))
    except BaseException as error:
      answers.put((None, error))

  threading.Thread(target=ask, daemon=True).start()
  try:
    answer, error = answers.get(timeout=PATIENCE)
  except queue.Empty:
    tell(
      f'hosts: nobody said within {PATIENCE:g} s whether there are other workers; going on alone. '
      f'On a pod, {BY_HAND}'
    )
    return None
  if error is not None:
    raise error
  return answer


def _number(name: str, default: int | None = None) -> int:
  text = os.environ.get(name) or ('' if default is None else str(default))
  if not text.isdecimal():
    raise BadInput(f'hosts: {name} {text!r}: use a whole number')
  return int(text)


def _seconds() -> int:
  return _number('LLM_JAX_START_SECONDS', 300)


def _heartbeat() -> int:
  return _number('LLM_JAX_HEARTBEAT_SECONDS', 60)


def _line(error: Exception) -> str:
  return ' '.join(f'{type(error).__name__}: {error}'.split())
