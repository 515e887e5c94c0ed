"""The chat format of the post-trained models: who speaks is marked, the system turn is optional."""

from __future__ import annotations

START = "<|im_start|>"
END = "<|im_end|>"

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

SYSTEMS = (
    "",
    "",
    "",
    "",
    "",
    "",
    "You are a helpful assistant.",
    "Please reason step by step, and put your final answer within \\boxed{}.",
)
"""System prompts as the fine-tuning draws them; the empty ones stand for no system turn."""


def prompt(question: str, system: str = "") -> str:
    """The text up to where the assistant begins."""
    head = f"{START}system\n{system}{END}\n" if system else ""
    return f"{head}{START}user\n{question}{END}\n{START}assistant\n"


def chat(question: str, system: str, answer: str) -> tuple[str, str]:
    """A whole exchange in two parts: the prompt, and what the assistant has to write."""
    return prompt(question, system), answer + END
