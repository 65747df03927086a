"""The one door: `python -m llm_jax.main --config=FILE` runs `jobs/<config.job>.py`.

`--help` says what can be run, and with a config all of its options; `--print` shows the config.
"""

import sys

if __name__ == '__main__' and not __package__:  # as a file; types.py would hide Python's own
  sys.exit('error: main.py is a part of a package; run it as python -m llm_jax.main')

import contextlib
import errno
import os
import re
import signal
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

if __name__ == '__main__':  # at once: an import that Ctrl-C breaks off may say anything
  signal.signal(signal.SIGINT, lambda *_: (os.write(2, b'SIGINT: stopped\n'), os._exit(130)))

from absl import logging
from absl.flags import FLAGS
from ml_collections import ConfigDict

from llm_jax import __version__
from llm_jax.jobs.command import read_config
from llm_jax.parallel import flags
from llm_jax.text.terminal import guard, say, shown


def run(config: Any) -> None:
  """Completes a config from the artifacts it starts from, runs the jobs it requires, then its own.

  Args:
    config: a ConfigDict; `job` names a file in `jobs/` (or a dotted module), `requires` names
      groups of the config that are whole configs of other jobs, which come first. A job that is
      finished returns at once. A job with a function `check` sees its config before any of that.
  """
  from llm_jax import storage
  from llm_jax.jobs import running

  if (hosts := _hosts()) == 1:
    if not storage.localized(config, left=_elsewhere):
      return running.run(config)
    with storage.pushing():
      return running.run(config)
  import jax

  from llm_jax.parallel.hosts import barrier

  storage.join(host=jax.process_index(), hosts=hosts)
  idle = ('tokenize',) if jax.process_index() else ()  # what the first host does alone
  if not storage.localized(config, idle=idle, left=_elsewhere):
    return running.run(config)
  barrier()  # so that all have read the same
  with storage.pushing():
    running.run(config)
  barrier()  # the first one has pushed


def _elsewhere(config: Any) -> Sequence[str]:
  """The fields of a config whose URLs are for machines that its job starts, as its file says."""
  from llm_jax.find import find

  if 'job' not in config:  # a group
    return ()
  job = find('jobs', config.job)
  return job.elsewhere(config) if hasattr(job, 'elsewhere') else ()


STOPPED = 'SIGINT: stopped; give the same command again, and what was finished is kept'
SIGNAL = f'{STOPPED}\n'.encode()  # made before, as a handler of signals does little
# What would help, by the number of an error of the system.
CURES = {
  **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), 'make room and give the same command again'),
  errno.EFBIG: 'raise the limit of file sizes (ulimit -f), or choose another folder',
  errno.EROFS: 'choose a folder that can be written to, such as another --config.workdir',
  **dict.fromkeys((errno.EACCES, errno.EPERM), 'allow it (chmod, chown), or choose another folder'),
  errno.ENOENT: 'it is missing, or was removed while it was needed; give the same command again',
  **dict.fromkeys(
    (errno.ENOTDIR, errno.EEXIST), 'there is a file where a folder should be; choose another folder'
  ),
  errno.EISDIR: 'there is a folder where a file should be; choose another name',
  errno.ENAMETOOLONG: 'choose a shorter name',
  errno.EMFILE: 'raise the limit of open files (ulimit -n)',
  errno.EIO: 'the disk does not answer; copy the folder to another one',
}
SMALLER = (
  'make it smaller: batch_size or more config.accumulate, the length of rows, config.model, or use '
  'more devices'
)
# What JAX says where another process no longer answers.
GONE = 'UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|Gloo|heartbeat|Connection'


def _rounds(config: ConfigDict) -> bool:
  """Whether some model of a config, or of one inside of it, has products of bfloat16 or int8."""
  groups = (value for value in config.values() if isinstance(value, ConfigDict))
  whole = config.get('products') == 'int8'
  return whole or bool(config.get('product_dtype')) or any(_rounds(group) for group in groups)


def main(argv: Sequence[str]) -> None:
  """Reads the config, starts JAX on every host, runs the job.

  Whatever goes wrong that is no mistake of this program ends here, in one line; see `told`.
  """
  try:
    _main(argv)
  except (Exception, KeyboardInterrupt) as error:
    if (line := told(error)) is None:
      raise
    leave(line, status(error))


def _main(argv: Sequence[str]) -> None:
  asked = [word for word in argv[1:] if word in ('--help', '-h', '--print', '--version')]
  rest = [word for word in argv if word not in asked]
  if asked or len(rest) == 1:
    return _tell(asked[0] if asked else '--help', rest)
  config = read_config(argv)
  flags.tune_cpu(rounds=_rounds(config))
  import jax

  from llm_jax.parallel import cluster

  logging.set_verbosity(logging.FATAL)  # what Orbax logs as an error it raises as well
  if not jax.config.values['jax_compilation_cache_dir']:
    cache = os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')
    jax.config.update('jax_compilation_cache_dir', str(Path(cache) / 'llm_jax' / 'compilation'))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
  _start(cluster, config)
  run(config)


def _start(cluster: Any, config: ConfigDict) -> None:
  """Sets the flags of XLA for this machine, and meets the other processes where there are any."""
  tell = lambda line: say(shown(line, lines=False), file=sys.stderr)
  place, kinds = cluster.find(tell), flags.accelerators()
  several = place is not None or len(kinds) > 1
  said = flags.set_flags(kinds[0], several=several) if kinds else None
  if place is not None:
    cluster.join(place, {'llm_jax': __version__, 'config': config.to_dict()}, tell)
  if said and (place is None or place.index == 0):
    tell(said)


def told(error: BaseException) -> str | None:
  """One line for what the user, the machine or another host did; None for a mistake of ours.

  >>> told(OSError(errno.ENOSPC, 'No space left on device', 'runs/x/metrics.jsonl'))
  'error: runs/x/metrics.jsonl: No space left on device; make room and give the same command again'
  >>> told(KeyError('loss')) is None
  True
  """
  for cause in _causes(error):
    # By name, for the classes are those of modules that import JAX, which may not be there yet.
    kinds, said = [kind.__name__ for kind in type(cause).__mro__], ' '.join(str(cause).split())
    if 'BadInput' in kinds:
      return f'error: {said}'
    if 'Interrupted' in kinds:
      return said
    if isinstance(cause, KeyboardInterrupt):
      return STOPPED
    if isinstance(cause, OSError) and cause.errno is not None:
      where = (
        cause.filename if cause.filename2 is None else f'{cause.filename} -> {cause.filename2}'
      )
      if where is not None or cause.errno in CURES:
        return _disk(where, cause.errno)
    if found := re.search(r""""(/[^"]+)".*os_error_code='(\d+)'""", said):  # tensorstore
      return _disk(found[1], int(found[2]))
    if isinstance(cause, MemoryError) or re.match('RESOURCE_EXHAUSTED: .*emory', said):
      return f'error: out of memory: {said[:200] or "the machine has no more"}; {SMALLER}'
    if 'JaxRuntimeError' in kinds and _hosts() > 1:
      if re.search(GONE, said):
        return f'stopped: another host has left, or cannot be reached; start all again. {said}'
      traceback.print_exception(error)
      return f'stopped: this host failed. {said}'
  return None


def status(error: BaseException) -> int:
  """1 where the same command would fail again; 75 (EX_TEMPFAIL) where it would go on.

  The latter is for whoever starts commands: a signal asked this one to stop, or another host left.
  """
  for cause in _causes(error):
    kinds = [kind.__name__ for kind in type(cause).__mro__]
    gone = 'JaxRuntimeError' in kinds and _hosts() > 1 and re.search(GONE, str(cause))
    if gone or 'Stopped' in kinds:
      return os.EX_TEMPFAIL
  return 1


def _causes(error: BaseException) -> Iterator[BaseException]:
  """An error and what it was raised from; not what was merely being handled at the time."""
  cause: BaseException | None = error
  while cause is not None:
    yield cause
    cause = cause.__cause__


def _disk(where: Any, number: int) -> str:
  """What the system said of a file, and what would help."""
  place = f'{os.fsdecode(where) if isinstance(where, bytes) else where}: ' if where else ''
  cure = CURES.get(number, 'look at the path, and give the same command again')
  return f'error: {place}{os.strerror(number)}; {cure}'


def _hosts() -> int:
  """Processes of the run; 1 where JAX has not been started."""
  jax = sys.modules.get('jax')
  # Counting processes looks for devices, which may take longer than the check that says why.
  return jax.process_count() if jax and jax.distributed.is_initialized() else 1


def _tell(what: str, argv: Sequence[str]) -> None:
  """Prints what is asked about the program or about the config of a command line."""
  from llm_jax.jobs import help

  if what == '--version':
    text = f'llm_jax {__version__}'
  elif what == '--print':
    text = help.resolved(_followed(argv))
  else:
    text = help.usage() if len(argv) == 1 else help.options(_followed(argv))
  try:
    say(text)
  except BrokenPipeError:  # `| head` has read enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _followed(argv: Sequence[str]) -> ConfigDict:
  """The config of a command line as it would run."""
  config = read_config(argv)
  if not _starts(config):
    return config
  from llm_jax.jobs.donors import follow

  return follow(config)


def _starts(config: ConfigDict) -> bool:
  """Whether it, or a config inside of it, starts from a folder that is there."""
  init = config.get('init')
  here = isinstance(init, ConfigDict) and any(os.path.isdir(str(path)) for path in init.values())
  return here or any(_starts(value) for value in config.values() if isinstance(value, ConfigDict))


class Left(SystemExit):
  """The end of a process, with a line that says why.

  Attributes:
    status: of the process.
  """

  def __init__(self, message: str, status: int = 1) -> None:
    super().__init__(message)
    self.status = status


def leave(message: str, status: int = 1) -> NoReturn:
  """Says why and ends the process; one of several without waiting for the others to end too."""
  if _hosts() == 1:
    raise Left(shown(message, lines=False), status)
  say(shown(message, lines=False), file=sys.stderr)
  sys.stdout.flush()
  os._exit(status)


def _unraisable(found: Any) -> None:
  """Prints an error that nobody can catch, as Python does."""
  # Where a file of Orbax fails, those that are written beside it report to a loop that is closed.
  if str(found.exc_value) != 'Event loop is closed':
    sys.__unraisablehook__(found)


def command() -> None:
  """What `llm_jax` and `python -m llm_jax.main` run; both find modules in this directory."""
  if not {'', os.getcwd()} & set(sys.path):
    sys.path.insert(0, os.getcwd())
  guard()
  # Whatever a signal ends here is written whole or not at all, as for a process that is killed.
  signal.signal(signal.SIGINT, lambda *_: (os.write(2, SIGNAL), os._exit(130)))
  sys.unraisablehook = _unraisable
  logging.get_absl_handler().python_handler.stream = sys.stderr
  FLAGS.mark_as_parsed()  # nothing is left for absl to parse; libraries ask whether it did
  try:
    main(sys.argv)
  except SystemExit as stop:
    if not isinstance(stop.code, str):
      raise
    say(stop.code, file=sys.stderr)
    with contextlib.suppress(OSError):
      sys.stdout.flush()
    # What libraries do at exit adds lines of its own, on a full disk for instance.
    os._exit(stop.status if isinstance(stop, Left) else 1)


if __name__ == '__main__':
  command()
