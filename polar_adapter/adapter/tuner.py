"""The PEFT tuner: the one place that knows how PEFT builds, saves and switches adapters.

A router is stored as a child of the base model, where transformers' own adapter loading finds it too. Over a model that
already is a PeftModel (LoRA, say) it is a child of the tuner instead, outside of what the inner adapter saves, freezes
and disables. In both places its tensors are saved under the same names, so one file serves both.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import peft
from accelerate import init_empty_weights
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..config import POLAR, PolarConfig
from ..errors import AdapterError, ConfigError, UnsupportedModelError
from ..executor import find_decoder, unwrap
from .layer import RouterLayer
from .routed import install, uninstall

NETWORKS = "program_router.polar_networks."
CHECKPOINT_PREFIX = f"base_model.model.{NETWORKS}"


def get_polar_model(model: nn.Module, config: PolarConfig, adapter_name: str = "default", **kwargs: Any) -> PeftModel:
    """Wrap a model with a Program-of-Layers adapter: the same as ``peft.get_peft_model``.

    Args:
        model: The frozen base, a ``PreTrainedModel``, or a ``PeftModel`` around one, whose adapters stay in place.
        config: What the router is and what it chooses from.
        adapter_name: Name of the adapter.
        **kwargs: As for ``peft.get_peft_model``.

    Returns:
        A stock ``PeftModelForCausalLM``. Before training its router chooses the standard pass.

    Raises:
        ConfigError: If the config does not fit the base.
        UnsupportedModelError: If the base cannot run programs exactly.
    """
    with warnings.catch_warnings():
        # Wrapping a PeftModel is meant, and the adapters do not share state.
        warnings.filterwarnings("ignore", "You are trying to modify a model with PEFT for a second time")
        return peft.get_peft_model(model, config, adapter_name=adapter_name, **kwargs)


class PolarModel(BaseTuner):
    """PEFT's view of the method. Users meet it only as ``peft_model.base_model``.

    Args:
        model: The base, or a PeftModel around it.
        peft_config: One config, or configs by adapter name.
        adapter_name: The adapter to add.
        low_cpu_mem_usage: Create the router on the meta device, to be filled when loading.
        state_dict: Ignored; the config says everything.
    """

    prefix = "polar_"
    tuner_layer_cls = RouterLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 (PEFT's declaration)

    def __init__(
        self,
        model: nn.Module,
        peft_config: PolarConfig | dict[str, PolarConfig],
        adapter_name: str,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, Tensor] | None = None,
    ) -> None:
        # Not BaseTuner.__init__: it takes an inner adapter's configs for its own and overwrites them.
        nn.Module.__init__(self)
        self.model = model
        self.targeted_module_names: list[str] = []
        self.targeted_parameter_names: list[str] = []
        configs: dict[str, Any] = (
            {adapter_name: peft_config} if isinstance(peft_config, PolarConfig) else dict(peft_config)
        )
        if isinstance(model, PeftModel):
            self.peft_config: dict[str, Any] = configs
        else:
            # transformers' own loading keeps adapters of all methods in one table on the model.
            self.peft_config = model.__dict__.get("peft_config", {}) | configs
        self.active_adapter: str | list[str] = adapter_name
        self.inject_adapter(model, adapter_name, low_cpu_mem_usage=low_cpu_mem_usage)
        if not isinstance(model, PeftModel):
            model.__dict__["peft_config"] = self.peft_config

    @property
    def base(self) -> PreTrainedModel:
        """The transformers model under all wrappers."""
        return unwrap(self.model)

    @property
    def router_layer(self) -> RouterLayer:
        """The module that holds the routers."""
        return self.base.program_router  # type: ignore[return-value]

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, Tensor] | None = None,
    ) -> None:
        """Add an adapter's router; freeze the base unless other adapters decide what trains. See PEFT.

        Raises:
            ConfigError: If the config was made for another base.
            UnsupportedModelError: If the base cannot run programs exactly.
        """
        config = self.peft_config[adapter_name]
        decoder = find_decoder(model)
        config.resolve(decoder.num_layers)
        first = not any(isinstance(module, BaseTunerLayer) for module in model.modules())
        layer = install(decoder)
        try:
            with init_empty_weights() if low_cpu_mem_usage else nullcontext():
                layer.add_adapter(adapter_name, config)
        except Exception:
            if not layer.polar_networks:
                uninstall(decoder.model)
            raise
        (self if isinstance(model, PeftModel) else decoder.model)._modules["program_router"] = layer
        if first:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(NETWORKS in name and parameter.requires_grad)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Choose which adapter routes. See PEFT."""
        self.router_layer.set_adapter(adapter_name, inference_mode=inference_mode)
        self.active_adapter = adapter_name

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter. See PEFT."""
        if adapter_name not in self.peft_config:
            raise ConfigError(f"there is no adapter {adapter_name!r}; known are {sorted(self.peft_config)}.")
        self.router_layer.delete_adapter(adapter_name)
        del self.peft_config[adapter_name]
        self.active_adapter = self.router_layer.active_adapters

    def unload(self) -> nn.Module:
        """Give back the model this adapter was put on, as it was."""
        base = self.base
        self._modules.pop("program_router", None)
        uninstall(base)
        if not isinstance(self.model, PeftModel) and "peft_config" in base.__dict__:
            del base.peft_config
        return self.model

    def merge_and_unload(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Refused: a program that depends on the prompt cannot be merged.

        Raises:
            UnsupportedModelError: Always.
        """
        raise UnsupportedModelError(
            "an adapter that chooses a program per prompt cannot be merged into the weights. Build the model of one "
            "program with polar_adapter.materialize(base, program), or remove the adapter with unload()."
        )

    merge_adapter = unmerge_adapter = merge_and_unload  # type: ignore[assignment]

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        """Train or freeze adapters. See PEFT."""
        self.router_layer.set_requires_grad(adapter_names, requires_grad)

    def _enable_adapter_layers(self, enabled: bool = True) -> None:
        self.router_layer.enable_adapters(enabled)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Routers are float32 from the start, whatever the base is."""

    def _create_and_replace(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("the router is one module beside the layers; nothing is replaced.")

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: Any,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list,
    ) -> dict[str, Tensor]:
        return {key: tensor for key, tensor in state_dict.items() if f"{NETWORKS}{adapter_name}." in key}

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        _, found, name = key.partition(f"{NETWORKS}{adapter_name}.")
        return CHECKPOINT_PREFIX + name if found else key

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Name checkpoint tensors as the model does.

        Raises:
            AdapterError: If the file holds other tensors than the router its config describes.
        """
        own = cls._get_adapter_state_dict(model, config, adapter_name, model.state_dict(), [])
        names = {cls._remove_adapter_name_from_key(key, adapter_name): key for key in own}
        given = {k if k.startswith("base_model.model.") else f"base_model.model.{k}": v for k, v in state_dict.items()}
        if given.keys() != names.keys():
            missing, unknown = sorted(names.keys() - given.keys()), sorted(given.keys() - names.keys())
            raise AdapterError(
                f"the adapter's weights do not match its config: {len(missing)} tensors are missing {missing[:3]} and "
                f"{len(unknown)} are unknown {unknown[:3]}. Download or save the adapter again."
            )
        for key, tensor in given.items():
            expected = own[names[key]].shape
            if tensor.shape != expected:
                raise AdapterError(
                    f"tensor {key} of the adapter has shape {tuple(tensor.shape)}, but its config describes "
                    f"{tuple(expected)}. Download or save the adapter again."
                )
        return {names[key]: tensor for key, tensor in given.items()}


assert POLAR.lower() + "_" == PolarModel.prefix  # transformers derives the prefix from the name when deleting adapters
