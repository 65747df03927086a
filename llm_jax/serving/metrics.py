"""Counters, gauges and histograms in the text format of Prometheus, version 0.0.4.

Names and units follow its conventions: base units, `_total` on counters. Only the event loop
writes, so nothing here is locked.
"""

import bisect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from llm_jax.sampling.request import Event
from llm_jax.serving.answers import Answer

PREFIX = 'llm_jax_'
SECONDS = (
  *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
  *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)  # fmt: skip


class Counter:
  """A number for each combination of labels, which only grows.

  >>> finished = Counter('finished_total', 'Answers.', ('reason',))
  >>> finished.add(1, 'stop')
  >>> [*finished.lines()][-1]
  'llm_jax_finished_total{reason="stop"} 1'
  """

  def __init__(self, name: str, help: str, labels: Sequence[str] = ()) -> None:
    self._name, self._help, self._labels = f'{PREFIX}{name}', help, tuple(labels)
    self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0}

  def add(self, value: float = 1, *labels: str) -> None:
    """Adds to the number with these labels."""
    self._values[labels] = self._values.get(labels, 0) + value

  def lines(self) -> Iterator[str]:
    """What is exported."""
    yield from _about(self._name, self._help, 'counter')
    for labels, value in self._values.items():
      yield f'{self._name}{_braces(zip(self._labels, labels, strict=True))} {value:.12g}'


class Gauge:
  """A number that is looked up when it is asked for."""

  def __init__(self, name: str, help: str, read: Callable[[], float], kind: str = 'gauge') -> None:
    self._name, self._help, self._read, self._kind = f'{PREFIX}{name}', help, read, kind

  def lines(self) -> Iterator[str]:
    """What is exported."""
    yield from _about(self._name, self._help, self._kind)
    yield f'{self._name} {self._read():.12g}'


class Info:
  """A gauge of 1, whose labels are what is told."""

  def __init__(self, name: str, help: str, told: Sequence[Mapping[str, str]]) -> None:
    self._name, self._help, self._told = f'{PREFIX}{name}', help, told

  def lines(self) -> Iterator[str]:
    """What is exported."""
    yield from _about(self._name, self._help, 'gauge')
    for labels in self._told:
      yield f'{self._name}{_braces(labels.items())} 1'


class Histogram:
  """How often a number of seconds was at most each of SECONDS."""

  def __init__(self, name: str, help: str) -> None:
    self._name, self._help = f'{PREFIX}{name}', help
    self._counts, self._sum = [0] * (len(SECONDS) + 1), 0.0

  def observe(self, seconds: float, times: int = 1) -> None:
    """Counts a number that occurred so often."""
    self._counts[bisect.bisect_left(SECONDS, seconds)] += times
    self._sum += seconds * times

  def lines(self) -> Iterator[str]:
    """What is exported."""
    yield from _about(self._name, self._help, 'histogram')
    total = 0
    for bound, count in zip((*SECONDS, float('inf')), self._counts, strict=True):
      total += count
      most = '+Inf' if bound == float('inf') else f'{bound:g}'
      yield f'{self._name}_bucket{{le="{most}"}} {total}'
    yield f'{self._name}_sum {self._sum:.12g}'
    yield f'{self._name}_count {total}'


class Metrics:
  """All that is measured.

  Args:
    gauges: name -> (help, function) of what is looked up.
    models: the names of the models.
    version: of the package.
  """

  def __init__(
    self, gauges: Mapping[str, tuple[str, Callable[[], float]]], models: Sequence[str], version: str
  ) -> None:
    self.requests = Counter('requests_total', 'Responses by status.', ('endpoint', 'status'))
    self.finished = Counter('finished_total', 'Answers by why they ended.', ('reason',))
    self.prompt_tokens = Counter('prompt_tokens_total', 'Tokens of prompts.')
    self.generation_tokens = Counter('generation_tokens_total', 'Tokens that were sampled.')
    self.cached_tokens = Counter('cached_prompt_tokens_total', 'Tokens of prompts not read again.')
    self.first_token = Histogram('time_to_first_token_seconds', 'From the body to the first token.')
    self.between = Histogram('inter_token_latency_seconds', 'Between two tokens of an answer.')
    self.duration = Histogram('request_duration_seconds', 'From the body to the last token.')
    self.queued = Histogram('queue_time_seconds', 'From the body to the acceptance by the engine.')
    kind = lambda name: 'counter' if name.endswith('_total') else 'gauge'
    looked_up = [Gauge(name, help, read, kind(name)) for name, (help, read) in gauges.items()]
    told = [{'version': version, 'model': model} for model in models]
    info = Info('build_info', 'What is served.', told)
    self._all = [*(one for one in vars(self).values()), *looked_up, info]

  def text(self) -> str:
    """All of it, as it is scraped."""
    return '\n'.join(line for one in self._all for line in one.lines()) + '\n'


class Watch:
  """Measures one response.

  Args:
    metrics: where it is counted.
    began: when its body was there, by `time.monotonic`.
  """

  def __init__(self, metrics: Metrics, began: float) -> None:
    self._metrics, self._began = metrics, began
    self._last: dict[int, float] = {}

  def see(self, number: int, one: Event) -> None:
    """An event of the choice with this number has come."""
    if not one.tokens:
      return
    now, last = time.monotonic(), self._last.get(number)
    if last is not None:
      each = (now - last) / len(one.tokens)
      self._metrics.between.observe(each, len(one.tokens))
    elif not self._last:
      self._metrics.first_token.observe(now - self._began)
    self._last[number] = now

  def finish(self, answer: Answer) -> None:
    """The response has ended, in whatever way."""
    usage = answer.usage()
    self._metrics.duration.observe(time.monotonic() - self._began)
    self._metrics.prompt_tokens.add(usage['prompt_tokens'])
    self._metrics.generation_tokens.add(usage['completion_tokens'])
    self._metrics.cached_tokens.add(usage['prompt_tokens_details']['cached_tokens'])
    for choice in answer.choices:
      self._metrics.finished.add(1, choice.finish or 'abort')


def _about(name: str, help: str, kind: str) -> Iterator[str]:
  yield f'# HELP {name} {help}'
  yield f'# TYPE {name} {kind}'


def _braces(labels: Iterable[tuple[str, str]]) -> str:
  pairs = [f'{name}="{_escaped(value)}"' for name, value in labels]
  return f'{{{",".join(pairs)}}}' if pairs else ''


def _escaped(value: str) -> str:
  return value.replace('\\', '\\\\').replace('"', '\\"').replace('\n', '\\n')
