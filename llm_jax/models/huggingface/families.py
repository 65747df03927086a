"""All families of Hugging Face transformers that are read and written.

Layouts are those of the public transformers library (models/<family>/modeling_<family>.py). A new
family is a row in one of the four files: what its configuration class assumes, the rules that read
and write config.json, and the table from the names of its arrays to our parameter paths.
"""

from llm_jax.models.huggingface import experts, gemma, gpt, llama
from llm_jax.models.huggingface.family import Family

# In the order in which they are offered for a model that several of them have.
FAMILIES: dict[str, Family] = {
  **llama.FAMILIES,
  **experts.FAMILIES,
  **gemma.FAMILIES,
  **gpt.FAMILIES,
}
