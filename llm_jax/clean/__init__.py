"""Raw web pages to training text: rules that measure, edit and drop pages. Imports no JAX."""
