"""Chat templates of tiny checkpoints: with the structure of the published ones, in words of their own."""

from __future__ import annotations

#: Shows what a message holds; `IMAGE` is replaced by what a model type writes for a picture.
_SHOW = """\
{%- macro show(content) -%}
{%- if content is string -%}{{ content }}{%- else -%}
{%- for part in content -%}
{%- if part['type'] == 'image' -%}{{ 'IMAGE' }}{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
"""
#: ChatML; `SYSTEM` is replaced by what a model type writes before the first message.
CHAT = _SHOW + """\
{%- for message in messages -%}
SYSTEM{{ '<|im_start|>' + message['role'] + '\\n' + show(message['content']) + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
#: The system text that Qwen2-VL says of itself when none is given.
HELPFUL = """\
{%- if loop.first and message['role'] != 'system' -%}
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif -%}
"""
#: LLaVA-1.5: roles in capitals, nothing at the end of an answer.
COLON = _SHOW + """\
{%- for message in messages -%}
{%- if message['role'] != 'system' -%}{{ message['role'] | upper + ': ' }}{%- endif -%}
{{ show(message['content']) + ' ' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}
"""
#: LLaVA-NeXT on Mistral.
INST = _SHOW + """\
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}{{ ' ' + show(message['content']) + eos_token }}
{%- elif message['role'] == 'system' -%}{{ '<<SYS>>\\n' + show(message['content']) + '\\n<</SYS>>\\n\\n' }}
{%- else -%}{{ '[INST] ' + show(message['content']) + ' [/INST]' }}{%- endif -%}
{%- endfor -%}
"""
#: Idefics3 and SmolVLM.
UTTERANCE = _SHOW + """\
{{- bos_token -}}
{%- for message in messages -%}
{%- set first = message['content'][0] -%}
{{ message['role'] | capitalize + (':' if first is mapping and first['type'] == 'image' else ': ') }}
{{- show(message['content']) + '<end_of_utterance>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}
"""
#: Gemma 3: the system text stands in the first question, texts are trimmed.
TURN = _SHOW + """\
{{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}
{%- set head = show(messages[0]['content']) + '\\n\\n' -%}{%- set talk = messages[1:] -%}
{%- else -%}{%- set head = '' -%}{%- set talk = messages -%}{%- endif -%}
{%- for message in talk -%}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
{{ '<start_of_turn>' + role + '\\n' + (head if loop.first else '') }}
{{- show(message['content']) | trim + '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}
"""
#: PaliGemma: pictures, one question, one answer.
PREFIX = """\
{%- for message in messages -%}
{%- for part in message['content'] if part['type'] == 'image' -%}{{ '<image>' }}{%- endfor -%}
{%- if message['role'] == 'user' -%}{{ bos_token if loop.first else '' }}{%- endif -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}
{{ eos_token if message['role'] == 'assistant' else '\\n' }}
{%- endfor -%}
"""
#: DeepSeek-VL.
SEEK = _SHOW + """\
{%- if messages[0]['role'] != 'system' -%}
{{ 'You are a helpful language and vision assistant.\\n\\n' }}
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}{{ show(message['content']) + '\\n\\n' }}
{%- elif message['role'] == 'user' -%}{{ 'User: ' + show(message['content']) + '\\n\\n' }}
{%- else -%}{{ 'Assistant: ' + show(message['content']) + eos_token }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}
"""
#: Aya Vision: tokens for roles, and for both ends of an answer.
RESPONSE = _SHOW + """\
{{- bos_token -}}
{%- for message in messages -%}
{{ '<|START_OF_TURN_TOKEN|>' }}
{%- if message['role'] == 'assistant' -%}
{{ '<|CHATBOT_TOKEN|><|START_RESPONSE|>' + show(message['content']) + '<|END_RESPONSE|>' }}
{%- else -%}
{{ '<|' + message['role'] | upper + '_TOKEN|>' + show(message['content']) }}
{%- endif -%}
{{ '<|END_OF_TURN_TOKEN|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>' }}{%- endif -%}
"""


def write_template(frame: str, image: str = "<image>", system: str = "") -> str:
    """A template with what a model type writes for a picture, and before the first message."""
    return frame.replace("IMAGE", image).replace("SYSTEM", system)
