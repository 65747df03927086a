"""The chat templates of `llm_jax.text.chat` as Jinja, for Hugging Face tokenizers.

They write what `chat.pieces` writes and put what is trainable inside of {% generation %}, so that
`apply_chat_template(..., return_assistant_tokens_mask=True)` gives the same ids and mask. One thing
differs: with these, a control token that a user types becomes that token.
"""

# A content is a string, a list of parts or (beside tool calls) nothing.
_TEXT = """
{%- if message.content is string %}{% set text = message.content %}
{%- else %}{% set text = (message.content or []) | map(attribute='text') | join %}{% endif %}
"""

_CALL = """
{%- set call = call.function or call %}
{%- set arguments = call.arguments if call.arguments is string else call.arguments | tojson %}
"""

_LLM_JAX = (
  """
{{- bos_token }}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '<|im_sep|>' }}"""
  + _TEXT
  + """
{%- if message.role == 'tool' %}{{ '<RESULT_START>' + text + '<RESULT_END><|im_end|>' }}
{%- elif message.role != 'assistant' %}{{ text + '<|im_end|>' }}
{%- else %}
{%- set thinking = message.thinking or message.reasoning_content or message.reasoning %}
{%- if thinking %}
{%- generation %}{{ '<THINK_START>' + thinking + '<THINK_END>' }}{% endgeneration %}
{%- endif %}
{%- if message.content is string %}
{%- generation %}{{ text }}{% endgeneration %}
{%- else %}
{%- for part in message.content or [] %}
{%- if part.type == 'result' %}{{ '<RESULT_START>' + part.text + '<RESULT_END>' }}
{%- elif part.type == 'thinking' %}
{%- generation %}{{ '<THINK_START>' + part.text + '<THINK_END>' }}{% endgeneration %}
{%- elif part.type == 'search' %}
{%- generation %}{{ '<SEARCH_START>' + part.text + '<SEARCH_END>' }}{% endgeneration %}
{%- else %}
{%- generation %}{{ part.text }}{% endgeneration %}
{%- endif %}
{%- endfor %}
{%- endif %}
{%- for call in message.tool_calls or [] %}"""
  + _CALL
  + """
{%- generation %}
{{- '<SEARCH_START>{"name": "' + call.name + '", "arguments": ' + arguments + '}<SEARCH_END>' }}
{%- endgeneration %}
{%- endfor %}
{%- generation %}{{ '<|im_end|>' }}{% endgeneration %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""
)

_CHATML = (
  """
{%- for message in messages %}"""
  + _TEXT
  + """
{%- if message.role == 'tool' %}
{%- if loop.first or loop.previtem.role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
{{- '\\n<tool_response>\\n' + text + '\\n</tool_response>' }}
{%- if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\\n' }}{% endif %}
{%- elif message.role != 'assistant' %}
{{- '<|im_start|>' + message.role + '\\n' + text + '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>assistant\\n' }}
{%- generation %}
{%- set thinking = message.thinking or message.reasoning_content or message.reasoning %}
{%- if thinking %}{{ '<think>\\n' + thinking + '\\n</think>\\n\\n' }}{% endif %}
{%- if message.content is string %}{{ text }}
{%- else %}
{%- for part in message.content or [] %}
{%- if part.type == 'thinking' %}{{ '<think>\\n' + part.text + '\\n</think>\\n\\n' }}
{%- else %}{{ part.text }}
{%- endif %}
{%- endfor %}
{%- endif %}
{%- for call in message.tool_calls or [] %}"""
  + _CALL
  + """
{%- if text or not loop.first %}{{ '\\n' }}{% endif %}
{{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' + arguments + '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>' }}
{%- endgeneration %}
{{- '\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
)

_LLAMA3 = (
  """
{{- bos_token }}
{%- for message in messages %}"""
  + _TEXT
  + """
{%- if message.thinking or message.reasoning_content or message.reasoning %}
{{- raise_exception('thinking has no form here') }}
{%- endif %}
{%- set role = 'ipython' if message.role == 'tool' else message.role %}
{{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}
{%- if message.role != 'assistant' %}{{ text | trim + '<|eot_id|>' }}
{%- else %}
{%- generation %}
{%- if message.tool_calls %}
{%- if message.tool_calls | length > 1 or text | trim %}
{{- raise_exception('one tool call without text, please') }}
{%- endif %}
{%- for call in message.tool_calls %}"""
  + _CALL
  + """
{{- '{"name": "' + call.name + '", "parameters": ' + arguments + '}' }}
{%- endfor %}
{%- else %}{{ text | trim }}
{%- endif %}
{{- '<|eot_id|>' }}
{%- endgeneration %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""
)

_GEMMA = (
  """
{{- bos_token }}
{%- set turns = messages %}
{%- set state = namespace(prefix='') %}
{%- if messages and messages[0].role == 'system' %}
{%- set turns = messages[1:] %}
{%- set message = messages[0] %}"""
  + _TEXT
  + """
{%- set state.prefix = text + '\\n\\n' %}
{%- endif %}
{%- for message in turns %}"""
  + _TEXT
  + """
{%- if message.role != ('assistant' if loop.index0 % 2 else 'user') %}
{{- raise_exception('user and assistant have to take turns') }}
{%- endif %}
{%- if message.tool_calls or message.thinking or message.reasoning_content or message.reasoning %}
{{- raise_exception('thinking and tool calls have no form here') }}
{%- endif %}
{%- if message.role == 'user' %}
{{- '<start_of_turn>user\\n' + (state.prefix if loop.first else '') + text | trim }}
{{- '<end_of_turn>\\n' }}
{%- else %}
{{- '<start_of_turn>model\\n' }}
{%- generation %}{{ text | trim + '<end_of_turn>' }}{% endgeneration %}
{{- '\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
)

_PLAIN = (
  """
{{- bos_token }}
{%- for message in messages %}"""
  + _TEXT
  + """
{%- if message.role != ('assistant' if loop.last and not add_generation_prompt else 'user') %}
{{- raise_exception('a prompt and an answer, please') }}
{%- endif %}
{%- if message.role == 'user' %}{{ text }}
{%- else %}
{%- generation %}{{ text + eos_token }}{% endgeneration %}
{%- endif %}
{%- endfor %}"""
)

JINJA = {
  'llm_jax': _LLM_JAX.strip(),
  'chatml': _CHATML.strip(),
  'llama3': _LLAMA3.strip(),
  'gemma': _GEMMA.strip(),
  'plain': _PLAIN.strip(),
}
