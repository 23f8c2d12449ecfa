"""What README and docs show is run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def test_links_names_and_commands():
    checked = subprocess.run([sys.executable, "docs/check_references.py"], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.fixture
def qwen(tmp_path):
    """A tiny model in the place of the one the README names: same family, same depth."""
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    from polar_adapter.embedded import BASE_PATH

    sizes = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
    }
    config = Qwen3Config(
        vocab_size=64, num_hidden_layers=36, pad_token_id=0, bos_token_id=None, eos_token_id=1, **sizes
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(tmp_path / "qwen")
    AutoTokenizer.from_pretrained(BASE_PATH).save_pretrained(tmp_path / "qwen")
    return tmp_path / "qwen"


def test_readme_snippets_run(qwen):
    namespace: dict = {}
    for block in blocks("README.md"):
        exec(block.replace("Qwen/Qwen3-8B", str(qwen)), namespace)
    assert namespace["smaller"].config.num_hidden_layers == 24
    assert namespace["model"].last_programs[0].num_layers == 36


def test_the_pipeline_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    for block in blocks("docs/pipeline.md"):
        exec(block, namespace)
    assert 0 <= namespace["evaluation"].to_dict()["overall"]["router"]["accuracy"] <= 1
