"""What a client is told when its request cannot be answered, in OpenAI's form."""

from collections.abc import Mapping
from typing import Any

# Of all answers that are worth a second try: seconds to wait, by code.
RETRY = {'rate_limit_exceeded': 1, 'queue_full': 1, 'loading': 5, 'shutting_down': 5}


class ApiError(Exception):
  """A refusal, or a failure, with its status.

  >>> error = ApiError(400, 'n is 0; choose from 1 to 16', code='invalid_value', param='n')
  >>> error.body()['error']['type'], error.headers
  ('invalid_request_error', {})

  Args:
    status: of HTTP.
    message: for the person who wrote the request.
    code: what went wrong, in a word that programs know.
    param: the field, such as 'messages[2].role'.
    headers: more of them.
  """

  def __init__(
    self,
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
  ) -> None:
    super().__init__(message)
    self.status, self.message, self.code, self.param = status, message, code, param
    self.headers = dict(headers or {})
    if code in RETRY:
      self.headers.setdefault('retry-after', str(RETRY[code]))

  @property
  def type(self) -> str:
    """The kind of the error, which follows from its status."""
    if self.status == 429:
      return 'rate_limit_error'
    return 'server_error' if self.status >= 500 else 'invalid_request_error'

  def body(self) -> dict[str, Any]:
    """The JSON of a response, or of an event in a stream that has begun."""
    fields = {'message': self.message, 'type': self.type, 'param': self.param, 'code': self.code}
    return {'error': fields}


def invalid(param: str | None, message: str) -> ApiError:
  """A field that is not what it has to be."""
  return ApiError(400, message, code='invalid_value', param=param)


def unsupported(param: str, message: str) -> ApiError:
  """A field that is known, and that this server cannot honour."""
  return ApiError(400, message, code='unsupported_parameter', param=param)


def too_long(param: str, message: str) -> ApiError:
  """More tokens than the model has positions."""
  return ApiError(400, message, code='context_length_exceeded', param=param)
