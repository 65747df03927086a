"""Option `profile` of job `train`: steps that are traced, and a page that says where time went."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from llm_jax import artifact
from llm_jax.jobs import page
from llm_jax.jobs.page import Block, Heading, Table, Text
from llm_jax.jobs.rollout_rules import reuse_of
from llm_jax.text.terminal import say
from llm_jax.training.loop import Hook
from llm_jax.training.metrics import Log
from llm_jax.training.profile import Profile, Profiled, traced
from llm_jax.training.step import TrainState
from llm_jax.types import BadInput

MOST = 15  # operations that the page lists
HOW = (
  'Every moment belongs to one part. While the device computes, that is the part whose name the '
  'operation has; the compiler may join operations, which then have the name of one of them. '
  'Annotators are waited for while this is measured. While nothing is computed, a moment belongs '
  'to what the host is at, such as waiting for data, and otherwise to "idle". "rest" is what has '
  'no other name, such as residual connections and copies.'
)


def check(config: Any) -> None:
  """Raises BadInput where a run is too short for the steps that are to be traced."""
  steps = config.get('profile')
  if steps and (last := traced(steps, 0, reuse_of(config))[1]) > config.total_steps:
    raise BadInput(
      f'profile: {steps} steps would be traced by step {last}, and config.total_steps is '
      f'{config.total_steps}; choose fewer, or a longer run'
    )


@contextlib.contextmanager
def hooks(
  config: Any, start_step: int, log: Log, text: Callable[[TrainState], str]
) -> Iterator[Sequence[Hook]]:
  """The hooks, to come after all others, of a run that is traced; none of one that is not."""
  if not config.get('profile'):
    yield ()
    return
  hook = Profile(
    Path(config.workdir) / 'profile',
    steps=config.profile,
    start_step=start_step,
    total_steps=config.total_steps,
    reuse=reuse_of(config),
    text=text,
    log=log,
    tell=write,
  )
  try:
    yield (hook,)
  finally:
    hook.close()


def write(found: Profiled) -> None:
  """Writes report.html, report.md and report.json beside the trace, and says what takes longest."""
  steps = found.last - found.first + 1
  whole = sum(found.divided.parts.values())
  parts = sorted(found.divided.parts.items(), key=lambda one: -one[1])
  time = lambda seconds: (f'{1000 * seconds / steps:,.3f}', f'{seconds / whole:.1%}')
  known = sorted(found.divided.operations.items(), key=lambda one: -one[1])[:MOST]
  title = f'Where the time of steps {found.first} to {found.last} went'
  device = jax.devices()[0].device_kind
  opens = f'xprof --logdir={found.folder} shows the trace'
  if found.perfetto:
    opens += f', and https://ui.perfetto.dev the file {found.perfetto.relative_to(found.folder)}'
  blocks: list[Block] = [
    Heading(title, 1),
    Text(f'A step took {1000 * found.seconds / steps:,.3f} ms on {jax.device_count()} x {device}.'),
    Table(('part', 'ms a step', 'share'), [(name, *time(seconds)) for name, seconds in parts]),
    Text(HOW),
    Heading('What took longest'),
    Table(
      ('operation', 'part', 'ms a step', 'share'),
      [(name, part, *time(seconds)) for (name, part), seconds in known],
    ),
    Text(f'{opens}.'),
  ]
  facts: dict[str, Any] = {
    'first': found.first,
    'last': found.last,
    'seconds': found.seconds,
    'parts': dict(parts),
    'operations': [
      {'operation': name, 'part': part, 'seconds': seconds} for (name, part), seconds in known
    ],
    'device': device,
    'commit': artifact.commit(),
  }
  page.write(found.folder, blocks, title, facts)
  told = ', '.join(f'{name} {time(seconds)[1]}' for name, seconds in parts)
  say(f'profile: a step takes {1000 * found.seconds / steps:,.1f} ms: {told}')
  say(f'profile: {found.folder}/report.html, and the trace beside it')
