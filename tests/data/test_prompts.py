from __future__ import annotations

import json

import pytest

from polar_adapter.data import DIRECT_ANSWER, DIRECT_CHOICE, PromptTemplate
from polar_adapter.errors import ConfigError
from polar_adapter.search.records import Example

EXAMPLE = Example("1", r"What is {half} of \frac{1}{2}?", "0.25")
CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% if enable_thinking is false %}<nothink>{% endif %}{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
)


def tokenizer(chat_template=None):
    """A word tokenizer that puts [BOS] before every text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[BOS]": 1, "[UNK]": 2, "a": 3, "b": 4}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="[BOS] $A", special_tokens=[("[BOS]", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", bos_token="[BOS]", unk_token="[UNK]", chat_template=chat_template
    )


def test_plain_renders_the_question_verbatim():
    assert PromptTemplate.plain().render(EXAMPLE) == EXAMPLE.prompt
    assert PromptTemplate.plain().render(EXAMPLE, tokenizer(CHATML)) == EXAMPLE.prompt


def test_default_asks_for_a_direct_boxed_answer():
    text = PromptTemplate().render(EXAMPLE, tokenizer())
    assert r"\boxed{ANSWER}" in text
    assert text.endswith(f"Problem: {EXAMPLE.prompt}\nAnswer:")
    assert r"\boxed{LETTER}" in PromptTemplate(DIRECT_CHOICE).render(EXAMPLE)


def test_few_shot_and_system_without_a_chat_template():
    template = PromptTemplate("Q: {question}\nA:", system="Be brief.", few_shot=[("1+1?", "2"), ("2+2?", "4")])
    assert template.render(Example("1", "3+3?", "6")) == ("Be brief.\n\nQ: 1+1?\nA: 2\n\nQ: 2+2?\nA: 4\n\nQ: 3+3?\nA:")


def test_chat_template_gets_roles_generation_prompt_and_no_thinking():
    template = PromptTemplate("Q: {question}", system="Be brief.", few_shot=[("1+1?", "2")])
    expected = (
        "<|system|>Be brief.<|end|><|user|>Q: 1+1?<|end|><|assistant|>2<|end|><|user|>Q: 3+3?<|end|><|assistant|>"
    )
    example = Example("1", "3+3?", "6")
    assert template.render(example, tokenizer(CHATML)) == expected + "<nothink>"
    thinking = PromptTemplate("Q: {question}", system="Be brief.", few_shot=[("1+1?", "2")], thinking=True)
    assert thinking.render(example, tokenizer(CHATML)) == expected


def test_chat_can_be_refused_or_required():
    assert PromptTemplate("{question}", chat="never").render(EXAMPLE, tokenizer(CHATML)) == EXAMPLE.prompt
    with pytest.raises(ConfigError, match='no chat template, and chat is "always"'):
        PromptTemplate(chat="always").render(EXAMPLE, tokenizer())


def test_template_without_system_role_says_what_to_do():
    PromptTemplate().render(EXAMPLE, tokenizer(NO_SYSTEM))
    with pytest.raises(ConfigError, match=r"System role not supported.*into the instruction"):
        PromptTemplate(system="Be brief.").render(EXAMPLE, tokenizer(NO_SYSTEM))


def test_encode_pads_left_and_adds_special_tokens_once():
    examples = [Example("1", "a", ""), Example("2", "a b", "")]
    plain = PromptTemplate.plain().encode(examples, tokenizer())
    assert plain["input_ids"].tolist() == [[0, 1, 3], [1, 3, 4]]
    assert plain["attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1]]
    chat = tokenizer("[BOS] {{ messages[-1].content }}")
    assert PromptTemplate("{question}").encode(examples, chat)["input_ids"].tolist() == [[0, 1, 3], [1, 3, 4]]


def test_dict_form_round_trips_through_json():
    template = PromptTemplate(system="s", few_shot=[("q", "a")], chat="never", thinking=True)
    assert PromptTemplate.from_dict(json.loads(json.dumps(template.to_dict()))) == template
    assert template.to_dict()["instruction"] == DIRECT_ANSWER


def test_bad_templates_are_refused():
    with pytest.raises(ConfigError, match=r"add \{question\}"):
        PromptTemplate("no place for it")
    with pytest.raises(ConfigError, match="'auto', 'always', 'never'"):
        PromptTemplate(chat="sometimes")
