"""How every test sees JAX: eight small CPU devices, and compiled programs kept between runs.

All of it is environment, set before the first import of jax, so that the processes which tests
start inherit it. What is already set stays, so `JAX_PLATFORMS=cuda pytest` runs on a GPU.
"""

import gc
import os
from pathlib import Path

import pytest
from absl import logging

from llm_jax.parallel.flags import tune_cpu
from tests.processes import seldom

# Tests compile much and compute little, so the compiler leaves the code as it finds it and writes
# loops in the older and quicker of its two ways: a sixth of the time, for code half as fast. Two
# workers share two cores: one thread a computation, one part a program. Eight devices on a busy
# machine may keep each other waiting in a collective for longer than the 40 s after which XLA would
# abort.
FLAGS = {
  '--xla_backend_optimization_level': '0',
  '--xla_backend_extra_options': 'xla_cpu_disable_new_fusion_emitters',
  '--xla_cpu_parallel_codegen_split_count': '1',
  '--xla_force_host_platform_device_count': '8',
  '--xla_cpu_multi_thread_eigen': 'false',
  '--xla_cpu_collective_call_terminate_timeout_seconds': '600',
}
tune_cpu()  # as every process of the command line does
given = os.environ.get('XLA_FLAGS', '').split()
named = [flag.split('=')[0] for flag in given]
os.environ['XLA_FLAGS'] = ' '.join(
  [*given, *(f'{name}={value}' for name, value in FLAGS.items() if name not in named)]
)

DEFAULTS = {
  'JAX_PLATFORMS': 'cpu',
  # Most of a test's time is compilation, so even what compiles in a blink is worth keeping.
  'JAX_COMPILATION_CACHE_DIR': str(Path(__file__).parents[1] / '.cache' / 'jax'),
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
  'OMP_NUM_THREADS': '1',
  'OPENBLAS_NUM_THREADS': '1',
  'TF_CPP_MIN_LOG_LEVEL': '2',
  'MPLBACKEND': 'agg',
}
for name, value in DEFAULTS.items():
  os.environ.setdefault(name, value)

# Processes that tests start find the package compiled, also where a shell says otherwise.
os.environ.pop('PYTHONDONTWRITEBYTECODE', None)

logging.set_verbosity(logging.WARNING)

# Files that take longest, which begin first so that workers end together.
LONGEST = (
  'readme', 'hosts', 'pipeline', 'compare', 'resume', 'compare_shards', 'reinforcement',
  'post_training', 'train', 'notebooks', 'plan', 'feedback', 'chat_page', 'engine', 'label_page',
)  # fmt: skip


def pytest_collection_modifyitems(items):
  order = {f'{name}_test': i for i, name in enumerate(LONGEST)}
  items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_collection_finish():
  gc.collect()
  seldom()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
  """A file stays on one worker, which makes what its tests share once."""
  from xdist.scheduler import LoadFileScheduling

  config.option.loadscopereorder = False
  return LoadFileScheduling(config, log)
