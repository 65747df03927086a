"""Words as white space parts them, marks and all: what Gopher, Dolma and RefinedWeb count."""


def split(text: str) -> list[str]:
  """The words of a text.

  >>> split('Yes, "it is".')
  ['Yes,', '"it', 'is".']
  """
  return text.split()
