"""The model card of an adapter, and pushing it to the Hub."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData
from peft import PeftModel

from .config import PolarConfig
from .errors import ConfigError
from .version import __version__

CITATION = """@inproceedings{li2026polar,
  title = {Skip a Layer or Loop It? Learning Program-of-Layers in {LLMs}},
  author = {Li and Li and Zhou},
  booktitle = {ICML},
  year = {2026},
  eprint = {2606.06574},
  archivePrefix = {arXiv}
}"""


def model_card(
    config: PolarConfig,
    evaluation: dict[str, Any] | None = None,
    training_data: str | None = None,
    figure: str | None = None,
    repo_id: str = "path/to/this/adapter",
) -> ModelCard:
    """Write the card of an adapter.

    Args:
        config: Its config.
        evaluation: ``Evaluation.to_dict()`` on held-out questions.
        training_data: What it was trained on, in a sentence.
        figure: File name of a program figure in the same folder.
        repo_id: Where the adapter will be loaded from.
    """
    base = config.base_model_name_or_path
    data = ModelCardData(
        library_name="polar_adapter",
        base_model=base if base and not os.path.isabs(base) else None,
        base_model_relation="adapter",
        pipeline_tag="text-generation",
        tags=["polar", "peft", "program-of-layers", "dynamic-depth"],
    )
    menu = "\n".join(f"- `{program}`" for program in config.menu or []) or "- predicted segment by segment"
    sections = [
        f"# Program-of-Layers adapter for {base or 'its base model'}",
        f"For each prompt a small {config.router_type} router chooses which of the base's {config.num_layers} layers "
        "to skip, keep or repeat (arXiv:2606.06574); the base's weights are untouched.",
        "## Use",
        "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\nimport polar_adapter\n\n"
        f'base = AutoModelForCausalLM.from_pretrained("{base}")\n'
        f'model = PeftModel.from_pretrained(base, "{repo_id}")\nmodel.generate(**inputs)\n```',
        f"## Programs\n\n{menu}",
    ]
    if training_data:
        sections.append(f"## Training data\n\n{training_data}")
    if evaluation:
        sections.append(f"## Evaluation\n\n{evaluation_markdown(evaluation)}")
    if figure:
        sections.append(f"![Programs by level]({figure})")
    sections += [f"## Citation\n\n```bibtex\n{CITATION}\n```", f"Made with polar_adapter {__version__}."]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")


def evaluation_markdown(evaluation: dict[str, Any]) -> str:
    """An evaluation's JSON form as a Markdown table, accuracies in %."""
    overall = evaluation["overall"]
    lines = [
        f"{evaluation['questions']} held-out questions; intervals are paired, 95 %.",
        "",
        "| policy | accuracy | mean depth | identity rate | minus base |",
        "|---|---|---|---|---|",
    ]
    for name, row in overall.items():
        if "accuracy" in row:
            gap = overall.get(f"{name}_minus_base")
            interval = (
                "" if gap is None else f"{100 * gap['mean']:+.1f} [{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}]"
            )
            lines.append(
                f"| {name} | {100 * row['accuracy']:.1f} | {row['mean_depth']:.1f} | "
                f"{100 * row['identity_rate']:.0f} % | {interval} |"
            )
    return "\n".join(lines)


def save_adapter(
    model: PeftModel,
    folder: str | Path,
    evaluation: dict[str, Any] | None = None,
    training_data: str | None = None,
    figure: str | None = None,
    repo_id: str | None = None,
) -> None:
    """Save an adapter as ``save_pretrained`` does, with this package's card in place of PEFT's.

    Args:
        model: A model with a polar adapter.
        folder: Where to save.
        evaluation: ``Evaluation.to_dict()``; also written as ``evaluation.json``.
        training_data: What it was trained on, in a sentence.
        figure: File name of a program figure in ``folder``.
        repo_id: Hub id for the card; the folder's path by default.
    """
    config = model.active_peft_config
    if not isinstance(config, PolarConfig):
        raise ConfigError(f"the active adapter is a {config.peft_type} adapter; activate a polar adapter first.")
    model.save_pretrained(str(folder), selected_adapters=[model.active_adapter])
    # PEFT gives every adapter but the default one a folder of its own.
    folder = Path(folder) if model.active_adapter == "default" else Path(folder, model.active_adapter)
    if evaluation is not None:
        Path(folder, "evaluation.json").write_text(json.dumps(evaluation, indent=2) + "\n")
    card = model_card(config, evaluation, training_data, figure, repo_id or str(folder))
    card.save(Path(folder, "README.md"))


def push_adapter(
    folder: str | Path,
    repo_id: str,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload Program-of-Layers adapter",
) -> str:
    """Upload a saved adapter folder in one commit: it lands whole or not at all.

    Args:
        folder: What :func:`save_adapter` wrote.
        repo_id: ``user/name`` on the Hub; created if missing.
        private: Whether a new repository is private.
        token: Hub token; the stored one by default.
        revision: Branch to commit to.
        commit_message: Message of the commit.

    Returns:
        URL of the commit.

    Raises:
        AdapterError: If the folder holds no complete adapter.
    """
    from .config import check_adapter_folder

    check_adapter_folder(str(folder))
    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repo_id, folder_path=str(folder), revision=revision, commit_message=commit_message
    )
    return str(commit.commit_url)
