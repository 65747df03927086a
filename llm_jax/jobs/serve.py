"""Job `serve`: trained models behind an HTTP interface that clients of OpenAI's speak."""

import asyncio
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax

import llm_jax
from llm_jax import options
from llm_jax.clean.extra import library
from llm_jax.files import check_writable
from llm_jax.find import call, find
from llm_jax.jobs import answering
from llm_jax.jobs.trust import trusted
from llm_jax.models.compute import Compute
from llm_jax.options import Place, PlaceOrNone, Seconds, TopP, within
from llm_jax.parallel.mesh import make_mesh
from llm_jax.sampling.calls import Tools
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.runner import keep_programs
from llm_jax.serving import page
from llm_jax.serving.app import App
from llm_jax.serving.feedback import Feedback
from llm_jax.serving.limits import Keys, Limits, short
from llm_jax.serving.models import served
from llm_jax.serving.server import Server, listen
from llm_jax.text.terminal import say
from llm_jax.tools import make_tools
from llm_jax.types import BadInput

LOOPBACK = ('127.0.0.1', '::1', 'localhost')
METRICS_KEY = 'LLM_JAX_METRICS_KEY'
SUPPLIED = ('waiting', 'mesh')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
  """The fields of a config of this job.

  Attributes:
    job: 'serve'.
    artifact: folder of the model; clients ask for it by the name of the folder.
    artifacts: name -> folder of several models, in the place of `artifact`.
    host: the address to listen on; 127.0.0.1 is reached from this machine alone.
    port: to listen on; 0 takes a free one.
    key_file: a file with an API key in each line; '' for none.
    key_env: the environment variable with API keys, divided by commas; '' for none.
    public: whether everybody who reaches another host than this machine may ask without a key.
    hosts: names by which the server may be called, beside those of this machine; for a server
      without keys.
    events: an SQLite file for what people do with answers; '' keeps nothing.
    grace: seconds that running answers have to end after SIGTERM.
    log: whether each response is a line on stderr, which has no text of anybody.
    engine: slots and other options of the engine.
    sampling: how tokens are picked where a request does not say it.
    tools: what the model may call while it answers, run by this server: a file of tools/ -> its
      options. A request that brings tools of its own gets its calls back instead.
    limits: of requests.
    mesh: sizes of the axes of the device mesh.
    compute: how the models are run.
    trust: modules of yours that the artifacts may name as their model, such as 'mine.model'; other
      code than llm_jax's own is not imported because an artifact names it.
  """

  job: str
  artifact: Place
  artifacts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  host: str
  port: Annotated[int, within(0, 65535)]
  key_file: PlaceOrNone = ''
  key_env: str = ''
  public: bool = False
  hosts: Sequence[str] = ()
  events: PlaceOrNone = ''
  grace: Seconds = 30.0
  log: bool = True
  engine: Mapping[str, Any]
  sampling: Mapping[str, Any]
  limits: Mapping[str, Any]
  tools: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  mesh: Mapping[str, Any]
  compute: Mapping[str, Any] | None = None
  trust: Sequence[str] = ()


def sampling(
  *, temperature: Annotated[float, within(0, 2)] = 1.0, top_p: TopP = 1.0
) -> dict[str, float]:
  """How tokens are picked where a request does not say it.

  Args:
    temperature: logits are divided by it; 0 always takes the likeliest token.
    top_p: only the likeliest tokens that together have this probability.
  """
  return {'temperature': temperature, 'top_p': top_p}


def groups(config: Any) -> Iterator[tuple[str, Callable[..., Any], Sequence[str]]]:
  """(group of the config, the function that its options are for, those that the job fills in)."""
  yield 'engine', Engine, SUPPLIED
  yield 'sampling', sampling, ()
  yield 'limits', Limits, ()
  yield 'mesh', make_mesh, ('devices',)
  yield 'compute', Compute, ()
  for name in config.get('tools', {}):
    yield f'tools.{name}', find('tools', name).make, ()


def check(config: Any) -> None:
  """Whether there are models that can answer, and the server may listen where it is told to.

  Raises:
    BadInput: naming the field or the folder.
  """
  options.check(Fields, config, where='config')
  library('uvicorn', 'job serve', 'serve')
  for name, function, supplied in groups(config):
    if name in ('engine', 'sampling', 'limits') or name.startswith('tools.'):
      options.check(function, _group(config, name), where=name, supplied=supplied)
  call(make_mesh, config.mesh, where='mesh')
  for name, path in _artifacts(config).items():
    if not name or not name.isascii() or not name.isprintable():
      raise BadInput(f'serve: config.artifacts has the name {name!r}; use letters and digits')
    answering.model_of(path, job='serve')
  keys = _keys(config)
  if wrong := short(keys):
    raise BadInput(f'serve: {wrong}; python -c "import secrets; print(secrets.token_urlsafe(32))"')
  if config.host not in LOOPBACK and not keys and not config.get('public'):
    raise BadInput(
      f'serve: on host {config.host} others reach this server, and it has no API keys; set '
      'config.key_file or config.key_env, or config.public=True to answer everybody'
    )
  if config.get('events'):
    check_writable(Path(config.events).parent, 'events')


def _group(config: Any, name: str) -> Any:
  group, _, one = name.partition('.')
  return config[group][one] if one else config[group]


def main(config: Any) -> None:
  """Serves until SIGTERM or SIGINT."""
  if jax.process_count() > 1:
    raise BadInput('serve: this job runs on one host; give the command on each of them')
  keep_programs()
  sock = listen(config.host, config.port)
  asyncio.run(_serve(config, sock))


async def _serve(config: Any, sock: Any) -> None:
  host, port = sock.getsockname()[:2]
  url = f'http://{f"[{host}]" if ":" in host else host}:{port}'
  names = _artifacts(config)
  ready = lambda line: say(f'{line}: {url}/v1 serves {", ".join(names)}; Ctrl-C ends it')
  limits = call(Limits, config.limits, where='limits')
  server = Server(grace=config.get('grace', 30.0), limits=limits, say=ready)
  mesh = call(make_mesh, config.mesh, where='mesh')
  shared: Any = dict(
    mesh=mesh,
    engine={k: v for k, v in options.resolve(Engine, config.engine).items() if k not in SUPPLIED},
    limits=limits,
    sampling=call(sampling, config.sampling, where='sampling'),
    tools=Tools(make_tools(config.tools, where='tools')) if config.get('tools') else None,
    compute=config.get('compute'),
    trust=trusted(config),
    failed=server.fail,
  )
  models = [served(name, path, **shared) for name, path in names.items()]
  feedback = Feedback(config.events) if config.get('events') else None
  keys = _keys(config)
  metrics_key = os.environ.get(METRICS_KEY)
  app = App(
    models,
    limits=limits,
    keys=Keys(keys),
    metrics_key=Keys([metrics_key] if metrics_key else []),
    hosts=None if keys or config.host not in LOOPBACK else _hosts(config),
    pages=page.pages(),
    feedback=feedback,
    log=(lambda line: say(line, file=sys.stderr)) if config.get('log', True) else lambda line: None,
  )
  say(f'llm_jax {llm_jax.__version__}: {url} listens, and loads {", ".join(names.values())}')
  try:
    await server.run(app, models, sock)
  finally:
    if feedback is not None:
      feedback.close()
  say('ended')


def _artifacts(config: Any) -> dict[str, str]:
  """Folders by the names that clients ask for."""
  several = dict(config.get('artifacts') or {})
  return several or {Path(config.artifact).name: config.artifact}


def _hosts(config: Any) -> set[str]:
  given = config.get('hosts') or ()
  own = (given,) if isinstance(given, str) else given
  return {*LOOPBACK, '[::1]', *(name.lower() for name in own)}


def _keys(config: Any) -> list[str]:
  """The API keys of file and environment.

  Raises:
    BadInput: the file cannot be read.
  """
  found: list[str] = []
  if config.get('key_file'):
    try:
      lines = Path(config.key_file).read_text(encoding='utf-8').splitlines()
    except (OSError, ValueError) as error:
      why = getattr(error, 'strerror', None) or 'it is not UTF-8'
      raise BadInput(f'serve: config.key_file {config.key_file!r} cannot be read: {why}') from None
    found += [line.strip() for line in lines if line.strip() and not line.startswith('#')]
    if not found:
      raise BadInput(f'serve: config.key_file {config.key_file!r} has no key; write one in a line')
  if config.get('key_env'):
    given = os.environ.get(config.key_env, '')
    found += [key.strip() for key in given.split(',') if key.strip()]
  return found
