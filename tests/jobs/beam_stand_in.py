"""As much of Apache Beam as job `clean` uses, in one process, for machines that do not have it.

Elements are pickled between transforms, and the values of a key come in a random order.
"""

import pickle
import random
from pathlib import Path
from types import SimpleNamespace

DRAW = random.Random(0)


class Collection:
  """A list of elements."""

  def __init__(self, elements):
    self.elements = [pickle.loads(pickle.dumps(element)) for element in elements]

  def __or__(self, transform):
    return transform(self)


class Transform:
  """A function of a collection, or of what else stands in front of it."""

  def __init__(self, function):
    self.function = function

  def __call__(self, given):
    return Collection(self.function(given))

  def __rrshift__(self, label):
    return self

  def __ror__(self, given):  # a list or a dict of collections
    return self(given)


def flat_map(function, *args):
  def apply(given):
    sides = [arg() if callable(arg) else arg for arg in args]
    return [out for element in given.elements for out in function(element, *sides)]

  return Transform(apply)


def group(pairs):
  """[(key, [values])], both in a random order."""
  found = {}
  for key, value in pairs:
    found.setdefault(key, []).append(value)
  groups = [*found.items()]
  DRAW.shuffle(groups)
  for _, values in groups:
    DRAW.shuffle(values)
  return groups


def meet(collections):
  pairs = [(key, (name, v)) for name, some in collections.items() for key, v in some.elements]
  return [
    (key, {name: [v for n, v in values if n == name] for name in collections})
    for key, values in group(pairs)
  ]


class Pipeline:
  """What transforms are applied to first."""

  def __init__(self, options):
    self.options = options

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass

  def __or__(self, transform):
    return transform(None)


class Files:
  """`FileSystems`, of this machine."""

  @staticmethod
  def create(path, compression_type):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return open(path, 'wb')

  @staticmethod
  def open(path, compression_type):
    return open(path, 'rb')

  @staticmethod
  def match(patterns):
    place = Path(patterns[0])
    found = [SimpleNamespace(path=str(path)) for path in place.parent.glob(place.name)]
    return [SimpleNamespace(metadata_list=found)]

  @staticmethod
  def exists(path):
    return Path(path).exists()

  @staticmethod
  def delete(paths):
    for path in paths:
      for file in Path(path).iterdir():
        file.unlink()
      Path(path).rmdir()


class Options:
  """`PipelineOptions` that know two names."""

  def __init__(self, given):
    self.given = given

  from_dictionary = classmethod(lambda cls, given: cls(given))

  def get_all_options(self, retain_unknown_options=False):
    known = {'runner': '', 'temp_location': ''}
    return known | dict(self.given) if retain_unknown_options else known


BEAM = SimpleNamespace(
  Pipeline=Pipeline,
  Create=lambda elements: Transform(lambda _: elements),
  FlatMap=flat_map,
  Map=lambda function, *args: flat_map(lambda *given: [function(*given)], *args),
  GroupByKey=lambda: Transform(lambda given: group(given.elements)),
  CoGroupByKey=lambda: Transform(meet),
  Flatten=lambda: Transform(lambda given: [e for some in given for e in some.elements]),
  Reshuffle=lambda: Transform(lambda given: DRAW.sample(given.elements, len(given.elements))),
  Distinct=lambda: Transform(lambda given: [*dict.fromkeys(given.elements)]),
  WithKeys=lambda key: Transform(lambda given: [(key, element) for element in given.elements]),
  pvalue=SimpleNamespace(
    AsSingleton=lambda given, default_value: lambda: [*given.elements, default_value][0],
    AsMultiMap=lambda given: lambda: dict(group(given.elements)),
  ),
)
MODULES = {
  'apache_beam': BEAM,
  'apache_beam.io.filesystems': SimpleNamespace(FileSystems=Files),
  'apache_beam.options.pipeline_options': SimpleNamespace(PipelineOptions=Options),
  'apache_beam.runners.runner': SimpleNamespace(create_runner=lambda name: None),
}
