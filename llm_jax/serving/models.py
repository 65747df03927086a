"""An artifact as a model that is served."""

import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from llm_jax import artifact
from llm_jax.files import sha256
from llm_jax.sampling.calls import Tools
from llm_jax.sampling.engine import Engine
from llm_jax.serving.conversation import Conversation
from llm_jax.serving.driver import Driver
from llm_jax.serving.limits import Limits
from llm_jax.serving.openai import About
from llm_jax.serving.served import Served
from llm_jax.text import chat


def served(
  name: str,
  path: str,
  *,
  mesh: Any,
  engine: Mapping[str, Any],
  limits: Limits,
  sampling: Mapping[str, float],
  tools: Tools | None = None,
  compute: Mapping[str, Any] | None = None,
  trust: Collection[str] = (),
  failed: Callable[[BaseException], None] = lambda error: None,
) -> Served:
  """A model that its driver will load; of the event loop alone.

  Args:
    name: that clients ask for.
    path: of the artifact.
    mesh: devices.
    engine: arguments of `Engine`.
    limits: of requests.
    tools: that the server runs for it.
    sampling: temperature and top_p where a request names none.
    compute: how the model is run.
    trust: modules that the artifact may name.
    failed: is called when the engine cannot go on.
  """

  def build() -> Engine:
    made = artifact.load(path, mesh, compute, trust=trust)
    options: Any = {**engine, 'waiting': limits.waiting}
    ours = Engine(made.model, made.params, made.tokenizer, mesh=mesh, **options)
    most = limits.prompt or ours.length
    about = About(made.tokenizer.vocab_size, ours.length, most, limits.choices, **sampling)
    # A model that never saw a conversation is asked in the way of the text it knows.
    template = chat.find_template(made.template or 'plain', made.tokenizer)
    ours.warm()
    size = made.model.shape.vocab_size
    one.conversation = Conversation(made.tokenizer, template, about, size, tools)
    return ours

  file = Path(path) / artifact.FILE
  created = int(file.stat().st_mtime) if file.is_file() else int(time.time())
  driver = Driver(
    build,
    capacity=engine['slots'] + limits.waiting,
    unread=limits.unread,
    failed=failed,
  )
  fingerprint = sha256(file) if file.is_file() else ''
  one = Served(name, driver, created, fingerprint, positions=positions(path, engine))
  return one


def positions(path: str, engine: Mapping[str, Any]) -> int | None:
  """Of a prompt with its answer, as far as files tell it before the model is loaded."""
  if engine.get('length'):
    return engine['length']
  if not (Path(path) / artifact.FILE).is_file():
    return None
  shape = artifact.describe(path)['model']
  known = [shape.get(name) for name in ('max_length', 'moves_after')]
  return min((size for size in known if isinstance(size, int)), default=None)
