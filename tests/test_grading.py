from __future__ import annotations

import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

import polar_adapter
from polar_adapter.errors import ConfigError, PolarError
from polar_adapter.grading import MathGrader, RewardGrader, exact_match, get_grader, multiple_choice
from polar_adapter.grading.answers import boxed, choice_letter, final_answer, plain_number
from polar_adapter.search.records import Example

SAMPLES = Path(__file__).parent / "samples"
ADVERSARIAL = {
    "power tower": r"\boxed{9^9^9^9}",
    "factorial": r"\boxed{100000!!}",
    "factorials": r"\boxed{(10^9)!}",
    "nested braces": "\\boxed{" + "{" * 20_000 + "}" * 20_000 + "}",
    "nested fractions": "\\boxed{" + "\\frac{1}{1+" * 300 + "1" + "}" * 300 + "}",
    "parentheses": "(" * 50_000,
    "open boxes": "\\boxed{" * 50_000,
    "digits": "9" * 200_000,
    "empty": "",
    "empty box": r"\boxed{}",
    "white space": " \n\t ",
    "lone surrogate": "\ud800 is the answer",
    "null byte": "\0",
    "unicode": "答えは七十二です 🎉 \u202e27",
    "line breaks": "\r\n\u2028\n" * 1000,
}


def example(answer: str, prompt: str = "?") -> Example:
    return Example(id="1", prompt=prompt, answer=answer)


@pytest.fixture(scope="module")
def grader():
    with MathGrader(timeout=10.0) as grader:
        yield grader


@pytest.fixture(scope="module")
def impatient():
    with MathGrader(timeout=1.0) as grader:
        yield grader


def test_exact_match_ignores_white_space_only():
    assert exact_match([" 12\n", "12.", "1 2"], [example("12")] * 3) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "completion",
    [
        "C",
        "(C)",
        "C.",
        "C) 12 cm",
        r"\boxed{C}",
        r"\boxed{\text{C}}",
        r"$\boxed{(C)}$",
        r"\boxed{C. 12 cm}",
        "The answer is C.",
        "The answer is (C) because of B.",
        "**Answer:** C",
        "Answer: C\n\nExplanation: not (B).",
        "A long way round, and so we choose (C).",
        "First (B), no: (C)",
    ],
)
def test_choice_is_found(completion):
    assert choice_letter(completion) == "C"
    assert multiple_choice([completion], [example("C")]) == [1.0]
    assert multiple_choice([completion], [example("D")]) == [0.0]


@pytest.mark.parametrize("completion", ["A train leaves at noon.", "I think so", "", "12", r"\boxed{}", "none"])
def test_no_choice_is_wrong(completion):
    assert choice_letter(completion) is None
    assert multiple_choice([completion], [example("A")]) == [0.0]


def test_last_balanced_box_counts():
    assert boxed(r"\boxed{1} then \boxed{\frac{1}{2}}") == r"\frac{1}{2}"
    assert boxed(r"\boxed{72} then \boxed{8") == "72"
    assert boxed(r"\fbox{3}, and $\boxed 5$") == "5"
    assert boxed("no box") is None


def test_final_answer_prefers_explicit_forms():
    assert final_answer("48+24=<<48+24=72>>72 clips\n#### 72\n") == ("72", False)
    assert final_answer("I answer the call.\nThe answer is:\n 72 clips\nMore text") == ("72 clips", False)
    assert final_answer(" 72 ") == ("72", False)
    assert final_answer(r"#### 71, \boxed{72}") == ("72", True)


def test_plain_numbers():
    same = ["1000", "1,000", "1{,}000", "1000.00", "$1,000", r"\$1000", "1000.", "$1000$", "+1000", " 1000 "]
    assert {plain_number(text) for text in same} == {1000}
    assert plain_number("−5") == -5
    assert plain_number(".5") == plain_number("0.50") != plain_number("0.05")
    for text in ["", ".", "-", "1,00", "1/2", "5%", "1e5", "72 clips", "٣", "9" * 31]:
        assert plain_number(text) is None


@pytest.mark.parametrize(
    ("reference", "completion"),
    [
        ("72", "72.0"),
        ("1000", r"\boxed{1,000}"),
        (r"\frac{1}{2}", r"\boxed{0.5}"),
        (r"\frac{1}{2}", "The answer is 1/2"),
        ("2x + 1", r"so $\boxed{1+2x}$"),
        ("(1,2)", r"\boxed{(1, 2)}"),
        ("56/9", r"\boxed{\frac{56}{9}}"),
        ("10", "It costs 5 + 5, so the answer is $10."),
        ("5, 15", r"\boxed{5,15}"),
        ("72", r"\boxed{72 \text{ clips}}"),
        ("72", "72 clips"),
        (r"Half of it: \boxed{36}", "36"),
        (r"\text{Bryan}", r"\boxed{\text{Bryan}}"),
    ],
)
def test_math_accepts_equal_answers(grader, reference, completion):
    assert grader([completion], [example(reference)]) == [1.0]


@pytest.mark.parametrize(
    ("reference", "completion"),
    [
        ("72", "73"),
        ("72", r"72, no: \boxed{73}"),
        ("1000", "1,00"),
        (r"\frac{1}{2}", r"\boxed{\frac{1}{3}}"),
        ("2x + 1", r"\boxed{2x - 1}"),
        ("2x + 1", r"\boxed{1}"),
        ("(1,2)", r"\boxed{(2, 1)}"),
        ("72", "no number"),
        ("", ""),
    ],
)
def test_math_refuses_other_answers(grader, reference, completion):
    assert grader([completion], [example(reference)]) == [0.0]


def test_boxed_only_scores_unboxed_answers_zero():
    with MathGrader(boxed_only=True) as strict:
        assert strict(["72", r"\boxed{72}"], [example("72")] * 2) == [0.0, 1.0]


def test_gsm8k_answers_in_usual_forms():
    rows = [json.loads(line) for line in (SAMPLES / "gsm8k.jsonl").read_text().splitlines()]
    forms = ["#### {}", r"\boxed{{{}}}", "The answer is {}.", "{}.0", "{:,}", r"So it is $\boxed{{{:,}}}$ in all."]
    with MathGrader() as grader:
        for row in rows:
            right = int(final_answer(row["answer"]).text.replace(",", ""))
            for form in forms:
                assert grader.equivalent(form.format(right), row["answer"]), form
                assert not grader.equivalent(form.format(right + 1), row["answer"]), form
                assert not grader.equivalent(form.format(right * 10), row["answer"]), form


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_answers_score_zero_in_time(impatient, name):
    started = time.monotonic()
    assert impatient([ADVERSARIAL[name]], [example("72")]) == [0.0]
    assert time.monotonic() - started < 60.0
    assert impatient.equivalent(r"\boxed{\frac13}", "1/3"), "grading must go on afterwards"


def test_worker_is_replaced_after_a_kill_and_timeouts_are_counted_once():
    with MathGrader(timeout=1.0) as grader:
        endless, half = r"\boxed{(10^9)!}", r"\boxed{\frac12}"
        scores = grader([half, endless, half, endless, r"\boxed{\frac13}"], [example("0.5")] * 5)
        assert scores == [1.0, 0.0, 1.0, 0.0, 0.0]
        assert grader.timeouts == 1  # the second was remembered


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="the system cannot stop a process")
def test_clock_limits_what_the_processor_timer_does_not():
    with MathGrader(timeout=0.3) as grader:
        assert grader.equivalent(r"\boxed{\frac12}", "0.5")
        os.kill(grader._worker._process.pid, signal.SIGSTOP)
        assert not grader.equivalent(r"\boxed{\frac13}", "1/3")
        assert grader.timeouts == 1


def test_worker_killed_from_outside_is_replaced():
    with MathGrader() as grader:
        assert grader.equivalent(r"\boxed{\frac12}", "0.5")
        grader._worker._process.kill()
        grader._worker._process.wait()
        assert grader.equivalent(r"\boxed{\frac13}", "1/3")


def test_plain_numbers_start_no_worker():
    with MathGrader() as grader:
        assert grader(["72", "1,000", "3"], [example("72.0"), example("1000"), example("4")]) == [1.0, 1.0, 0.0]
        assert grader._worker is None


def test_works_from_many_threads():
    with MathGrader(timeout=10.0) as grader:
        results: dict[int, bool] = {}

        def work(index: int) -> None:
            results[index] = grader.equivalent(rf"\boxed{{\frac{{{index}}}{{7}}}}", f"{index}/7")

        threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == {index: True for index in range(8)}


def test_close_and_collection_end_the_worker():
    grader = MathGrader()
    grader.equivalent(r"\boxed{\frac12}", "0.5")
    process = grader._worker._process
    grader.close()
    assert process.returncode is not None
    assert grader.equivalent(r"\boxed{\frac13}", "1/3"), "a closed grader starts another worker"
    process = grader._worker._process
    del grader
    gc.collect()
    assert process.returncode is not None


def test_no_worker_outlives_a_script_without_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            r"""
            import sys, types
            package = types.ModuleType("polar_adapter")  # spares the test the imports of the whole package
            package.__path__ = [sys.argv[1]]
            sys.modules["polar_adapter"] = package
            from polar_adapter.grading import MathGrader
            grader = MathGrader()
            assert grader.equivalent(r"\boxed{\frac12}", "0.5")
            print(grader._worker._process.pid)
            """
        )
    )
    command = [sys.executable, str(script), str(Path(polar_adapter.__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert len(done.stdout.split()) == 1, "the worker must not run the script again"
    assert not Path("/proc", done.stdout.strip()).exists()


def test_worker_imports_neither_torch_nor_this_package():
    from polar_adapter.grading import math_grader

    code = f"import runpy, sys; runpy.run_path({str(math_grader._WORKER)!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert not {"torch", "polar_adapter", "transformers"} & set(done.stdout.split())


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no timers")
def test_worker_whose_parent_is_gone_ends_by_itself():
    from polar_adapter.grading import math_grader

    command = [sys.executable, str(math_grader._WORKER), "0.1", str(2 << 30)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout.readline() == "ready\n"
        worker.stdin.write(json.dumps({"reference": "1", "answer": r"\boxed{(10^9)!}"}) + "\n")
        worker.stdin.flush()
        try:
            assert worker.wait(timeout=10) == -signal.SIGPROF
        finally:
            worker.kill()


def test_interrupted_exchange_does_not_answer_the_next_question(monkeypatch):
    with MathGrader() as grader:
        assert grader.equivalent(r"\boxed{\frac12}", "0.5")
        worker = grader._worker

        def interrupt(seconds):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(worker, "_read", interrupt)
            with pytest.raises(KeyboardInterrupt):
                grader.equivalent(r"\boxed{\frac13}", "1/3")
        assert not grader.equivalent(r"\boxed{\frac14}", "1/3")


def test_math_grader_pickles_without_its_worker():
    with MathGrader(timeout=2.0, boxed_only=True) as grader:
        grader.equivalent(r"\boxed{\frac12}", "0.5")
        copy = pickle.loads(pickle.dumps(grader))
    assert (copy.timeout, copy.boxed_only, copy._worker) == (2.0, True, None)


def test_missing_math_verify_names_the_extra(monkeypatch):
    monkeypatch.setattr("polar_adapter.grading.math_grader.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install polar-adapter\[grade\]"):
        MathGrader()


def test_reward_function_is_called_as_trl_calls_it():
    seen = {}

    def reward(prompts, completions, solution, **columns):
        seen.update(prompts=prompts, completions=completions, solution=solution, columns=columns)
        return [1.0, None]

    grader = RewardGrader(reward, columns={"solution": "answer", "level": "level"})
    assert grader(["a", "b"], [Example("1", "p", "x", "3"), Example("2", "q", "y")]) == [1.0, 0.0]
    assert seen == {
        "prompts": ["p", "q"],
        "completions": ["a", "b"],
        "solution": ["x", "y"],
        "columns": {"level": ["3", None]},
    }


def test_trl_accuracy_reward_grades():
    rewards = pytest.importorskip("trl.rewards")
    grader = RewardGrader(rewards.accuracy_reward, columns={"solution": "answer"}, conversational=True)
    assert grader([r"\boxed{\frac{1}{3}}", r"\boxed{2}"], [example(r"$\frac{1}{3}$")] * 2) == [1.0, 0.0]


@pytest.mark.parametrize(("rewards", "message"), [([1.0], "1 rewards for 2"), ([1.0, -0.5], r"returned -0\.5")])
def test_bad_rewards_are_refused(rewards, message):
    with pytest.raises(PolarError, match=message):
        RewardGrader(lambda **_: rewards)(["a", "b"], [example("x")] * 2)


def test_graders_by_name():
    assert get_grader("exact") is exact_match
    assert get_grader("choice") is multiple_choice
    assert isinstance(get_grader("math"), MathGrader)
    with pytest.raises(ConfigError, match="'exact', 'choice', 'math'"):
        get_grader("maths")


def test_timeout_must_be_positive():
    with pytest.raises(ConfigError, match="above 0"):
        MathGrader(timeout=0)
