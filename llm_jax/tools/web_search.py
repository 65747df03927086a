"""Search through an HTTP service that answers with JSON, as SearXNG or a retrieval server does."""

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, Literal

from llm_jax.options import Count, Positive, checked
from llm_jax.types import BadInput

_LARGEST = 4 * 2**20  # bytes of a response
_LONGEST_CALL = 1000


@checked(where='web_search')
def make(
  *,
  url: str,
  method: Literal['GET', 'POST'] = 'GET',
  parameter: str = 'q',
  field: str = 'results',
  text: Sequence[str] = ('title', 'content'),
  top: Count = 3,
  max_chars: Count = 400,
  timeout: Positive = 5.0,
) -> Callable[[str], str]:
  """A function that sends each call to a search service, as one request without retries.

  Args:
    url: an http or https address, with any other parameters that the service needs:
      'http://localhost:8080/search?format=json'.
    method: 'GET' adds the question to the url; 'POST' sends it as a JSON object.
    parameter: the name of the parameter that holds the question.
    field: where the list of results is in the response; a dot goes one level down, as in 'data.0'.
    text: the fields of a result that are shown, one a line. A result that is a string is shown
      as it is.
    top: how many results are shown, with a blank line between them.
    max_chars: characters after which a result is truncated.
    timeout: seconds to wait for the connection, and for the whole answer.

  Returns:
    A function from a question to results. It raises ValueError for an empty or overlong question,
    and OSError (TimeoutError if it was too slow) if the service does not answer as it should.

  Raises:
    BadInput: an option that cannot be used.
  """
  parts = urllib.parse.urlsplit(url)
  if parts.scheme not in ('http', 'https') or not parts.hostname:
    raise BadInput(f'web_search: url {url!r} is not a web address; use http://host/path')

  def search(call: str) -> str:
    question = call.strip()
    if not 0 < len(question) <= _LONGEST_CALL:
      raise ValueError(f'web_search: give a question of 1 to {_LONGEST_CALL} characters')
    where = f'web_search: {parts.hostname}'
    answer = _ask(_request(url, method, parameter, question), timeout, where)
    results = _below(answer, field, where)
    shown = [_shown(result, text)[:max_chars].rstrip() for result in results[:top]]
    return '\n\n'.join(one for one in shown if one) or 'Nothing was found.'

  return search


def _request(url: str, method: str, parameter: str, question: str) -> urllib.request.Request:
  headers = {'Accept': 'application/json', 'User-Agent': 'llm_jax'}
  if method == 'POST':
    body = json.dumps({parameter: question}).encode()
    headers['Content-Type'] = 'application/json'
    return urllib.request.Request(url, data=body, headers=headers, method='POST')
  parts = urllib.parse.urlsplit(url)
  query = [*urllib.parse.parse_qsl(parts.query, keep_blank_values=True), (parameter, question)]
  full = parts._replace(query=urllib.parse.urlencode(query), fragment='')
  return urllib.request.Request(urllib.parse.urlunsplit(full), headers=headers)


def _ask(request: urllib.request.Request, timeout: float, where: str) -> Any:
  """The parsed response."""
  end, body, piece = time.monotonic() + timeout, b'', b'more'
  try:
    with urllib.request.urlopen(request, timeout=timeout) as response:
      # In pieces, because the timeout of a socket starts anew with every byte that comes.
      while piece and len(body) <= _LARGEST and time.monotonic() < end:
        piece = response.read1(2**16)
        body += piece
  except urllib.error.HTTPError as error:
    raise OSError(f'{where} answered with HTTP status {error.code}') from None
  except (OSError, http.client.HTTPException) as error:
    reason = getattr(error, 'reason', error)
    if isinstance(reason, TimeoutError):
      raise TimeoutError(f'{where} took longer than {timeout:g} seconds') from None
    raise OSError(f'{where} cannot be reached: {reason}') from None
  if len(body) > _LARGEST:
    raise OSError(f'{where} answered with more than {_LARGEST} bytes')
  if piece:
    raise TimeoutError(f'{where} took longer than {timeout:g} seconds')
  try:
    return json.loads(body)
  except (ValueError, RecursionError):
    raise OSError(f'{where} did not answer with JSON; does the url ask for it?') from None


def _below(answer: Any, field: str, where: str) -> list:
  """The list of results in a response."""
  for name in field.split('.'):
    try:
      answer = answer[int(name) if isinstance(answer, list) else name]
    except (KeyError, IndexError, TypeError, ValueError):
      raise OSError(f'{where} answered without the field {field!r}') from None
  if not isinstance(answer, list):
    raise OSError(f'{where}: the field {field!r} of its answer is no list')
  return answer


def _shown(result: Any, text: Sequence[str]) -> str:
  if isinstance(result, str):
    return result.strip()
  fields = result if isinstance(result, dict) else {}
  return '\n'.join(str(fields[name]).strip() for name in text if fields.get(name))
