"""``PolarTrainer``: ``transformers.Trainer`` for routers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from transformers import EvalPrediction, Trainer, TrainingArguments

from ..adapter.routed import RoutedModel
from ..data import PromptTemplate
from ..errors import ConfigError
from ..executor import unwrap
from ..program import Program
from ..routers import MenuRouter, RoutingOptions
from ..search.records import SearchRecord, is_valid
from .supervision import RouterCollator, RouterExample, router_examples


class PolarTrainer(Trainer):
    """Trains the active adapter's router; the base stays frozen and is not run.

    Everything of ``Trainer`` works as usual: arguments, callbacks, resuming, distribution. Checkpoints hold the adapter
    only. Do not select one by ``eval_loss``: for the segment router it is least where every choice is the standard
    pass. A menu router reports ``eval_pass@1``, ``eval_mean_depth`` and ``eval_identity_rate`` instead.

    Args:
        model: A model with a polar adapter, from :func:`polar_adapter.get_polar_model`.
        args: Ordinary ``TrainingArguments``.
        train_dataset: Search records, or examples made from them by :func:`router_examples`.
        eval_dataset: The same, held out.
        processing_class: The base's tokenizer.
        template: How questions become prompts; the one the records were made with.
        **kwargs: As for ``Trainer``.

    Raises:
        ConfigError: If the model has no active polar adapter, or a static one.
        RecordsError: If the records do not fit the adapter.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments | None = None,
        train_dataset: Iterable[SearchRecord] | Iterable[RouterExample] | None = None,
        eval_dataset: Iterable[SearchRecord] | Iterable[RouterExample] | None = None,
        processing_class: Any = None,
        template: PromptTemplate | None = None,
        **kwargs: Any,
    ) -> None:
        base = unwrap(model)
        layer = base._active_layer() if isinstance(base, RoutedModel) else None
        if layer is None:
            raise ConfigError("the model has no active polar adapter; wrap it with get_polar_model() first.")
        if not layer.active_router.reads_prompt:
            raise ConfigError("a static router has nothing to train; use router_type='menu' or 'segment'.")
        self.router_layer = layer
        args = args or TrainingArguments(output_dir="polar-router")
        # Examples are not dictionaries of model inputs: the collator makes those.
        args.remove_unused_columns = False
        args.label_names = ["program_labels"]
        if isinstance(layer.active_router, MenuRouter):
            kwargs.setdefault("compute_metrics", self._menu_metrics)
        kwargs.setdefault("data_collator", RouterCollator(processing_class, template or PromptTemplate()))
        super().__init__(
            model=model,
            args=args,
            train_dataset=self._examples(train_dataset),
            eval_dataset=self._examples(eval_dataset),
            processing_class=processing_class,
            **kwargs,
        )

    def _examples(self, data: Any) -> Any:
        if data is None or isinstance(data, Dataset):
            return data
        if isinstance(data, dict):
            return {name: self._examples(part) for name, part in data.items()}
        data = list(data)
        if data and isinstance(data[0], SearchRecord):
            return router_examples(data, self.router_layer.active_config)
        return data

    def _menu_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """What choosing by the config's cost and margin would have scored."""
        import torch

        router, options = self.router_layer.active_router, self.router_layer.options({})
        logits, labels = torch.as_tensor(prediction.predictions), np.asarray(prediction.label_ids)
        return choice_metrics(router, logits, labels, options)


def choice_metrics(router: Any, logits: Any, labels: np.ndarray, options: RoutingOptions) -> dict[str, float]:
    """Accuracy, depth and share of standard passes of a menu router's first choices.

    Args:
        router: The menu router.
        logits: Its logits, (questions, programs).
        labels: Score of every program on every question, (questions, programs).
        options: How to choose.
    """
    chosen: list[Program] = [row[0].program for row in router.rank(logits, 1, options)]
    columns = {program: i for i, program in enumerate(router.programs)}
    right = [is_valid(labels[row, columns[program]]) for row, program in enumerate(chosen)]
    return {
        "pass@1": float(np.mean(right)),
        "mean_depth": float(np.mean([program.depth for program in chosen])),
        "identity_rate": float(np.mean([program.is_identity for program in chosen])),
    }
