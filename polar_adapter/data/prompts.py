"""From a question to the text a model reads: instruction, system prompt, solved examples, chat template.

The paper asks for the answer at once, without chain of thought, in ``\\boxed{}``, with at most 50 new tokens
(arXiv:2606.06574, App. D). The wording here is ours; scores depend on it, so records carry the template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

    from ..search.records import Example

QUESTION = "{question}"
"""Where an instruction takes the question in."""

DIRECT_ANSWER = (
    "Give the answer to this problem directly, with no reasoning before it. "
    "Write nothing but the final answer, in the form \\boxed{ANSWER}.\n\n"
    "Problem: {question}\nAnswer:"
)
"""Direct-answer instruction for questions with a short mathematical answer."""

DIRECT_CHOICE = (
    "Choose the right option directly, with no reasoning before it. "
    "Write nothing but its letter, in the form \\boxed{LETTER}.\n\n"
    "Question: {question}\nAnswer:"
)
"""Direct-answer instruction for multiple choice."""

_CHAT = ("auto", "always", "never")


@dataclass(frozen=True)
class PromptTemplate:
    r"""How a question becomes a prompt.

    Args:
        instruction: Text around the question; ``{question}`` stands for it. Braces need no escape.
        system: System prompt; without a chat template it comes first, on its own.
        few_shot: Solved questions as (question, answer) pairs, shown before the question in the same form.
        chat: Whether to use the tokenizer's chat template: "auto" if it has one, "always", or "never".
        thinking: Passed to chat templates that can open a chain of thought (``enable_thinking``); others ignore it.

    Raises:
        ConfigError: If the instruction does not take the question in, or ``chat`` is none of the three.

    Example:
        >>> template = PromptTemplate(few_shot=[("1 + 1 = ?", r"\boxed{2}")])
        >>> batch = template.encode(examples, tokenizer)
    """

    instruction: str = DIRECT_ANSWER
    system: str | None = None
    few_shot: Sequence[tuple[str, str]] = ()
    chat: str = "auto"
    thinking: bool = False

    def __post_init__(self) -> None:
        if QUESTION not in self.instruction:
            raise ConfigError(f"instruction {self.instruction!r} does not say where the question goes: add {QUESTION}.")
        if self.chat not in _CHAT:
            raise ConfigError(f"chat is {self.chat!r}; it is one of {', '.join(map(repr, _CHAT))}.")
        object.__setattr__(self, "few_shot", tuple((question, answer) for question, answer in self.few_shot))

    @classmethod
    def plain(cls) -> PromptTemplate:
        """The question verbatim, for bases that read nothing else, such as the embedded one."""
        return cls(instruction=QUESTION, chat="never")

    def uses_chat(self, tokenizer: PreTrainedTokenizerBase | None) -> bool:
        """Whether :meth:`render` goes through the chat template of this tokenizer.

        Raises:
            ConfigError: If ``chat`` is "always" and there is no chat template.
        """
        has_template = getattr(tokenizer, "chat_template", None) is not None
        if self.chat == "always" and not has_template:
            raise ConfigError('the tokenizer has no chat template, and chat is "always"; use "auto" or "never".')
        return has_template and self.chat != "never"

    def render(self, example: Example, tokenizer: PreTrainedTokenizerBase | None = None) -> str:
        """The prompt of one example, up to where the answer begins.

        A text from a chat template holds its special tokens: tokenize it with ``add_special_tokens=False``, or use
        :meth:`encode`.

        Args:
            example: The question.
            tokenizer: Its chat template is used if there is one and ``chat`` allows it.

        Raises:
            ConfigError: If the chat template refuses a system prompt.
        """
        if self.uses_chat(tokenizer):
            return self._through_chat(example.prompt, tokenizer)
        shots = [f"{self._ask(question)} {answer}" for question, answer in self.few_shot]
        return "\n\n".join([*([self.system] if self.system else []), *shots, self._ask(example.prompt)])

    def encode(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> BatchEncoding:
        """Prompts of several examples as left-padded tensors, ready for ``model.generate(**batch)``."""
        return tokenizer(
            [self.render(example, tokenizer) for example in examples],
            add_special_tokens=not self.uses_chat(tokenizer),
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON form, for the header of a records file."""
        return asdict(self) | {"few_shot": [list(shot) for shot in self.few_shot]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PromptTemplate:
        """Inverse of :meth:`to_dict`."""
        return cls(**data)

    def _ask(self, question: str) -> str:
        return self.instruction.replace(QUESTION, question)

    def _through_chat(self, question: str, tokenizer: Any) -> str:
        from jinja2.exceptions import TemplateError

        messages = [{"role": "system", "content": self.system}] if self.system else []
        for shot, answer in self.few_shot:
            messages += [{"role": "user", "content": self._ask(shot)}, {"role": "assistant", "content": answer}]
        messages.append({"role": "user", "content": self._ask(question)})
        try:
            return tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=self.thinking
            )
        except TemplateError as error:
            raise ConfigError(
                f"the tokenizer's chat template refuses this prompt ({error}). Some templates have no system role: put "
                'that text into the instruction, or use chat="never".'
            ) from error
