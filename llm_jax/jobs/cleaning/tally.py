"""What is counted of the pages of a run, for its summary and its report, in parts that add up."""

import dataclasses
import hashlib
import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from llm_jax.clean.page import Fate, Limit
from llm_jax.jobs.cleaning.phases import READ

SAMPLES = 20  # pages shown on each side of a limit
EXCERPT = 500  # characters of them
TEXTS = 200  # different texts, such as languages, that are counted of a value
CHARACTERS = 'characters'
COUNTERS = ('pages', 'characters', 'reasons', 'clusters')
NESTED = ('histogram', 'texts')  # of counters


@dataclasses.dataclass
class Tally:
  """Counts of pages.

  Attributes:
    steps: names of all steps, in order.
    limits: step -> its limits.
    kept: pages that were kept.
    pages: (source, step) -> pages that reached the step and passed it.
    characters: (source, step) -> of these pages, behind the step.
    reasons: (source, step, reason) -> pages that were dropped.
    histogram: value -> rounded number -> pages.
    sums: value -> sum over pages.
    texts: value -> text -> pages, for values that are texts.
    samples: (step, reason, kept) -> the pages nearest to the limit: (distance, order, number, text,
      url), largest distance first, as a heap.
    clusters: first page of a cluster -> pages of it that were dropped.
  """

  steps: Sequence[str] = ()
  limits: Mapping[str, Sequence[Limit]] = dataclasses.field(default_factory=dict)
  kept: int = 0
  pages: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)
  characters: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)
  reasons: Counter[tuple[str, str, str]] = dataclasses.field(default_factory=Counter)
  histogram: dict[str, Counter[float]] = dataclasses.field(default_factory=dict)
  sums: dict[str, float] = dataclasses.field(default_factory=dict)
  texts: dict[str, Counter[str]] = dataclasses.field(default_factory=dict)
  samples: dict[tuple[str, str, bool], list[Any]] = dataclasses.field(default_factory=dict)
  clusters: Counter[int] = dataclasses.field(default_factory=Counter)

  def count(self, source: str, position: int, fate: Fate) -> None:
    """Adds a page."""
    size = int(fate.values.get(READ, 0))
    self.pages[source, ''] += 1
    self.characters[source, ''] += size
    for step in self.steps:
      if step == fate.step:
        self.reasons[source, step, fate.reason] += 1
        break
      size = int(fate.values.get(f'{step}.{CHARACTERS}', size))
      self.pages[source, step] += 1
      self.characters[source, step] += size
    else:
      self.kept += 1
    for name, value in fate.values.items():
      if isinstance(value, str):
        self.texts.setdefault(name, Counter())[value] += 1
      else:
        self.histogram.setdefault(name, Counter())[float(f'{value:.2g}')] += 1
        self.sums[name] = self.sums.get(name, 0) + value
    cluster = fate.values.get(f'{fate.step}.cluster')
    if isinstance(cluster, int):
      self.clusters[cluster] += 1
    self._sample(position, fate)

  def _sample(self, position: int, fate: Fate) -> None:
    """Keeps the page where it is among the nearest to a limit."""
    for step in [fate.step] if fate.step else self.steps:
      for limit in self.limits.get(step, ()):
        value = fate.values.get(f'{step}.{limit.value}')
        if isinstance(value, str) or value is None or fate.reason not in ('', limit.reason):
          continue
        if not limit.ends:
          continue
        distance = min(abs(value - end) for end in limit.ends)
        heap = self.samples.setdefault((step, limit.reason, not fate.step), [])
        # Ties, of which zero has many, are broken by a hash, not by who came first.
        if len(heap) == SAMPLES and -distance < heap[0][0]:
          continue
        order = hashlib.blake2b(str(position).encode(), digest_size=4).hexdigest()
        shown = (fate.page.text[:EXCERPT], fate.page.url)
        push = heapq.heappush if len(heap) < SAMPLES else heapq.heappushpop
        push(heap, (-distance, order, value, *shown))

  def add(self, other: 'Tally') -> None:
    """Adds what another process counted."""
    self.steps, self.limits = other.steps, other.limits
    self.kept += other.kept
    for name, value in other.sums.items():
      self.sums[name] = self.sums.get(name, 0) + value
    for name in COUNTERS:
      getattr(self, name).update(getattr(other, name))
    for name in NESTED:
      for key, counter in getattr(other, name).items():
        getattr(self, name).setdefault(key, Counter()).update(counter)
    for key, counter in self.texts.items():
      if len(counter) > 2 * TEXTS:
        best = sorted(counter.items(), key=lambda pair: (-pair[1], pair[0]))
        self.texts[key] = Counter(dict(best[:TEXTS]))
    for key, theirs in other.samples.items():
      heap = self.samples.setdefault(key, [])
      for entry in theirs:
        (heapq.heappush if len(heap) < SAMPLES else heapq.heappushpop)(heap, entry)

  def plain(self) -> dict[str, Any]:
    """All of it as JSON: what has a key that is no text becomes pairs."""
    found = {name: getattr(self, name) for name in ('kept', *COUNTERS, 'sums')}
    found |= {name: [*found[name].items()] for name in COUNTERS}
    for name in NESTED:
      found[name] = {key: [*counter.items()] for key, counter in getattr(self, name).items()}
    return found | {'samples': [*self.samples.items()]}

  @classmethod
  def of(
    cls, steps: Sequence[str], limits: Mapping[str, Sequence[Limit]], plain: Mapping[str, Any]
  ) -> 'Tally':
    """The tally that `plain` told of."""
    hashed = lambda key: tuple(key) if isinstance(key, list) else key
    counter = lambda pairs: Counter({hashed(key): count for key, count in pairs})
    found: dict[str, Any] = {name: counter(plain[name]) for name in COUNTERS}
    for name in NESTED:
      found[name] = {key: counter(pairs) for key, pairs in plain[name].items()}
    found['samples'] = {tuple(key): [*map(tuple, heap)] for key, heap in plain['samples']}
    return cls(steps, limits, plain['kept'], sums=dict(plain['sums']), **found)
