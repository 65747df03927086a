"""Search through an HTTP service that answers with JSON, as SearXNG or a retrieval server does."""

import json
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any, Literal

from llm_jax.options import Count, Seconds, checked
from llm_jax.text.quotes import Quoting, quoted
from llm_jax.tools.fetch import Refused, fetch, parsed
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
  timeout: Seconds = 5.0,
  private: bool = False,
  quotes: Quoting = 'free',
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
    timeout: seconds for all of it, from the name of the host to the last byte.
    private: whether the host of the url may be in a private network although it is a name, as in
      'http://searxng:8080'; `localhost` and numbers say that of themselves. Nobody is asked there
      because a service redirects to it.
    quotes: what a model may put between quotation marks behind a result: anything ('free'); or, as
      they stand there, its 'words' or its whole 'sentences', to the end of the answer. See
      `llm_jax.text.quotes`.

  Returns:
    A function from a question to results. It raises ValueError for an empty or overlong question,
    and OSError (TimeoutError if it was too slow) if the service does not answer as it should.

  Raises:
    BadInput: an option that cannot be used.
  """
  try:
    host = parsed(url).host
  except Refused as error:
    raise BadInput(f'web_search: url {error}') from None

  def search(call: str) -> str:
    question = call.strip()
    if not 0 < len(question) <= _LONGEST_CALL:
      raise ValueError(f'web_search: give a question of 1 to {_LONGEST_CALL} characters')
    where = f'web_search: {host}'
    limits: Any = dict(timeout=timeout, largest=_LARGEST, private=private)
    try:
      body = fetch(**_request(url, method, parameter, question), **limits)
    except OSError as error:
      raise type(error)(f'{where} {error}') from None
    results = _below(_json(body, where), field, where)
    shown = [_shown(result, text)[:max_chars].rstrip() for result in results[:top]]
    return '\n\n'.join(one for one in shown if one) or 'Nothing was found.'

  return quoted(search, quotes)


def _request(url: str, method: str, parameter: str, question: str) -> dict[str, Any]:
  """What `fetch` is asked for."""
  headers = {'Accept': 'application/json', 'User-Agent': 'llm_jax'}
  question = question.encode('utf-8', 'replace').decode()  # a model may say half a character
  if method == 'POST':
    body = json.dumps({parameter: question}).encode()
    headers['Content-Type'] = 'application/json'
    return {'url': url, 'body': body, 'headers': headers, 'method': method}
  parts = urllib.parse.urlsplit(url)
  query = [*urllib.parse.parse_qsl(parts.query, keep_blank_values=True), (parameter, question)]
  full = parts._replace(query=urllib.parse.urlencode(query), fragment='')
  return {'url': urllib.parse.urlunsplit(full), 'headers': headers}


def _json(body: bytes, where: str) -> Any:
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
