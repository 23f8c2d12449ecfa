from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from polar_adapter.data import SOURCES, Source, dart_math, load_examples, loading
from polar_adapter.data.loading import example_from_row
from polar_adapter.errors import ConfigError
from polar_adapter.grading import GRADERS
from polar_adapter.search.records import Example

datasets = pytest.importorskip("datasets")

SAMPLES = Path(__file__).parents[1] / "samples"
GSM8K, SVAMP = SAMPLES / "gsm8k.jsonl", SAMPLES / "svamp.json"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def hub(monkeypatch):
    """A Hub with the given datasets; remembers what was asked for."""

    class Hub(dict):
        def __init__(self) -> None:
            super().__init__()
            self.asked: list[tuple] = []

        def load(self, path, *configs, split):
            self.asked.append((path, *configs, split))
            return self[(path, *configs)]

    hub = Hub()
    monkeypatch.setattr(loading, "_load_dataset", hub.load)
    return hub


def rows_of(*rows):
    return datasets.Dataset.from_list(list(rows))


def test_every_source_is_complete():
    for name, source in SOURCES.items():
        assert source.grader in GRADERS, name
        assert source.licence != "unknown", name


def test_gsm8k_sample_through_its_columns():
    examples = load_examples(GSM8K, columns="gsm8k")
    assert len(examples) == 20
    assert examples[0].prompt.startswith("Natalia sold clips to 48")
    assert [example.answer for example in examples[:3]] == ["72", "10", "5"]
    assert examples[0].id == "train-0"
    assert all(example.answer.lstrip("-").isdigit() for example in examples), "thousands commas must go"
    assert any(int(example.answer) >= 1000 for example in examples)
    assert any(int(example.answer) < 0 for example in examples)


def test_svamp_sample_through_its_columns():
    first = load_examples(str(SVAMP), columns="svamp")[0]
    assert first == Example(
        id="chal-1",
        prompt="Each pack of dvds costs 76 dollars. If there is a discount of 25 dollars on each pack. "
        "How much do you have to pay to buy each pack?",
        answer="51",
        level="Subtraction",
    )


def test_hub_sources_ask_for_their_path_configs_and_split(hub):
    gsm8k = [json.loads(line) for line in GSM8K.read_text().splitlines()]
    hub[("openai/gsm8k", "main")] = rows_of(*gsm8k)
    assert load_examples("gsm8k", split="test", limit=1) == [Example("gsm8k-test-0", gsm8k[0]["question"], "72", None)]
    assert hub.asked == [("openai/gsm8k", "main", "test")]


def test_math_reads_all_subjects_and_the_boxed_answer(hub):
    for config in SOURCES["math"].configs:
        hub[("EleutherAI/hendrycks_math", config)] = rows_of(
            {"problem": f"{config}?", "level": "Level 3", "type": "T", "solution": r"So $\boxed{\frac{1}{2}}$."},
            {"problem": f"{config}!", "level": "Level ?", "type": "T", "solution": r"So $\boxed 5$."},
        )
    examples = load_examples("math")
    assert len(examples) == 14
    assert examples[0] == Example("math-train-0", "algebra?", r"\frac{1}{2}", "3")
    assert examples[3] == Example("math-train-3", "counting_and_probability!", "5", None)


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        (
            "asdiv",
            {
                "body": "Seven apples.",
                "question": "How old?",
                "answer": "5 (years old); 15 (years old)",
                "solution_type": "Sum",
                "formula": "5+10",
            },
            Example("0", "Seven apples. How old?", "5, 15", "Sum"),
        ),
        (
            "mawps",
            {
                "id": "mawps__1",
                "question": "How many?",
                "result": "56/9",
                "result_float": 6.2,
                "chain": "",
                "equation": "",
                "expression": "",
            },
            Example("mawps__1", "How many?", "56/9", None),
        ),
        (
            "mmlu-pro",
            {
                "question_id": 70,
                "question": "Which?",
                "options": ["one", "two", "N/A"],
                "answer": "B",
                "answer_index": 1,
                "category": "math",
            },
            Example("70", "Which?\nA. one\nB. two", "B", "math"),
        ),
        (
            "svamp",
            {"ID": "chal-9", "Body": "Two men.", "Question": "How many?", "Answer": "2.5", "Type": "Sum"},
            Example("chal-9", "Two men. How many?", "2.5", "Sum"),
        ),
    ],
)
def test_rows_of_other_sources(name, row, expected):
    assert example_from_row(row, SOURCES[name], "0") == expected


def dart_hub(hub):
    """Forty questions, alternately of two pools; question i fails i times in 40, each with three responses."""
    for offset, pool in enumerate(dart_math.POOLS):
        ids = range(offset, 40, 2)
        hub[(pool,)] = rows_of(
            *(
                {
                    "query_id": f"q{i:02}",
                    "query": f"{i}?",
                    "gt_ans": str(i),
                    "resp": f"r{copy}",
                    "query_metadata": {"level": 1 + i % 5},
                }
                for copy in range(3)
                for i in ids
            )
        )
        # the pools lack some questions that have a pass rate, and the other way round
        rated = [i for i in ids if i != 39] + [100 + offset]
        hub[(f"{pool}-query-info",)] = rows_of(*({"query_id": f"q{i:02}", "pass_rate": 1 - i / 40} for i in rated))
    return hub


def test_dart_math_by_fail_rate_cuts_both_pools_into_equal_levels(hub):
    sizes = {"train": 4, "validation": 1, "test": 2}
    splits = {split: dart_math.by_fail_rate(dart_hub(hub).load, split, sizes) for split in sizes}
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 20, "validation": 5, "test": 10}
    ids = [row["query_id"] for rows in splits.values() for row in rows]
    assert len(set(ids)) == 35, "splits must not overlap"
    assert "q39" not in ids
    assert "q101" not in ids
    for rows in splits.values():
        for row in rows:
            number = int(row["query_id"][1:])
            assert row["level"] == str(1 + next(k for k in range(5) if number < round((k + 1) * 39 / 5)))
    assert splits["train"] == dart_math.by_fail_rate(hub.load, "train", sizes)


def test_dart_math_refuses_pools_that_are_too_small_and_unknown_splits(hub):
    with pytest.raises(ConfigError, match="level 1 of DART-Math holds 8 questions, 2000 are needed"):
        dart_hub(hub) and load_examples("dart-math")
    with pytest.raises(ConfigError, match="no split 'dev'; there are train, validation, test"):
        load_examples("dart-math", split="dev")
    with pytest.raises(ConfigError, match="only 'train'"):
        load_examples("dart-math-released", split="test")


def test_dart_math_as_released_takes_responses_by_math_level(hub):
    examples = load_examples("dart-math-released") if dart_hub(hub) else []
    assert {example.id for example in examples} == {f"q{i:02}" for i in range(0, 40, 2)}
    assert {example.level for example in examples} == {"1", "2", "3", "4", "5"}
    assert next(e for e in examples if e.id == "q06") == Example("q06", "6?", "6", "2")
    few = dart_math.by_math_level(hub.load, "train", responses=3)
    assert len(few) == 15, "the first 3 responses of a level are of 3 questions"


def test_limit_and_seed_choose_without_renaming():
    everything = load_examples(GSM8K, columns="gsm8k")
    assert load_examples(GSM8K, columns="gsm8k", limit=3) == everything[:3]
    shuffled = load_examples(GSM8K, columns="gsm8k", seed=1)
    assert shuffled != everything
    assert sorted(shuffled, key=lambda e: e.id) == sorted(everything, key=lambda e: e.id)
    assert load_examples(GSM8K, columns="gsm8k", seed=1, limit=5) == shuffled[:5]
    assert load_examples(GSM8K, columns="gsm8k", seed=2, limit=5) != shuffled[:5]


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet", "jsonl.gz"])
def test_local_files_of_every_kind(tmp_path, ending):
    rows = rows_of(
        {"id": "a", "prompt": "1 + 1 =", "answer": "2", "level": "1"},
        {"id": "b", "prompt": "2 =", "answer": "2", "level": "2"},
    )
    path = tmp_path / f"rows.{ending}"
    if ending == "json":
        path.write_text(json.dumps(list(rows)))
    elif ending.startswith("jsonl"):
        rows.to_json(path, compression="gzip" if ending.endswith("gz") else None)
    elif ending == "parquet":
        rows.to_parquet(path)
    else:
        rows.to_csv(path, sep="\t" if ending == "tsv" else ",")
    assert load_examples(path) == [Example("a", "1 + 1 =", "2", "1"), Example("b", "2 =", "2", "2")]


def test_local_folder_and_mapped_columns(tmp_path):
    shutil.copy(GSM8K, tmp_path / "train.jsonl")
    (tmp_path / "LICENSE").write_text("MIT")
    examples = load_examples(tmp_path, columns={"question": "answer", "answer": "question"}, limit=2)
    assert examples[0].answer.startswith("Natalia")


def test_any_hub_dataset_by_its_usual_columns(hub):
    hub[("someone/data",)] = rows_of({"problem": "p", "target": 7})
    assert load_examples("someone/data") == [Example("train-0", "p", "7", None)]


def test_own_source(hub):
    hub[("me/data",)] = rows_of({"q": "p", "a": "7"})
    source = Source("me/data", question="q", answer=lambda row: row["a"] * 2, split="dev")
    assert load_examples(source) == [Example("dev-0", "p", "77", None)]
    assert hub.asked == [("me/data", "dev")]


@pytest.mark.parametrize("name", ["gsm9k", "no/such/file", "data/missing.jsonl", "./missing"])
def test_unknown_names_list_the_known_ones(name):
    with pytest.raises(ConfigError, match=rf"{name}.*gsm8k, svamp, math, dart-math, "):
        load_examples(name)


def test_missing_columns_are_named_with_those_found(hub):
    hub[("someone/data",)] = rows_of({"text": "p", "label": 7})
    with pytest.raises(ConfigError, match=r"no column 'question'; its columns are 'text', 'label'"):
        load_examples("someone/data")
    with pytest.raises(ConfigError, match=r"no column 'ID'|no column 'Body'"):
        load_examples("someone/data", columns="svamp")
    with pytest.raises(ConfigError, match=r"the keys prompt; it maps question, answer, level, id"):
        load_examples("someone/data", columns={"prompt": "text"})
    with pytest.raises(ConfigError, match="names no known dataset"):
        load_examples("someone/data", columns="swamp")


def test_empty_answers_and_repeated_ids_are_refused(hub):
    hub[("a/b",)] = rows_of({"question": "p", "answer": "1", "id": "x"}, {"question": "q", "answer": " ", "id": "x"})
    with pytest.raises(ConfigError, match=r"row train-1: the answer is empty"):
        load_examples("a/b")
    with pytest.raises(ConfigError, match=r"two questions of a/b have the id 'x'"):
        load_examples("a/b", columns={"answer": "question"})


def test_unreadable_file_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("?")
    with pytest.raises(ConfigError, match=r"notes\.txt.*\.jsonl"):
        load_examples(tmp_path / "notes.txt")


def test_missing_datasets_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install polar-adapter\[train\]"):
        load_examples("gsm8k")
