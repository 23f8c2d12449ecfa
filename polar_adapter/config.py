"""``PolarConfig``: everything an adapter needs to know, readable by a person, serialised as ``adapter_config.json``."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig, TaskType
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open

from .errors import AdapterError, ConfigError
from .program import MAX_EXECUTIONS, Program


class PolarPeftType(str):
    """The key of this method in PEFT's tables, shaped like a member of ``peft.PeftType``."""

    @property
    def value(self) -> str:
        return str(self)

    @property
    def name(self) -> str:
        return str(self)


POLAR = PolarPeftType("POLAR")


@dataclass
class PolarConfig(PeftConfig):
    """Configuration of a Program-of-Layers adapter (arXiv:2606.06574).

    Args:
        router_type: ``"menu"`` predicts for each program of a small menu how likely it is to answer the prompt
            correctly; ``"segment"`` is the paper's network, which predicts segments and their operations; ``"static"``
            always runs the one program of its menu.
        menu: Programs in text form, such as ``["0-11", "0-3 6-11"]``. For ``"menu"`` the choices, to which the identity
            is added if missing; for ``"static"`` the program.
        num_layers: Depth D of the base. Filled in from the base model, and checked against it when loading.
        encoder: ``"base"`` reads the prompt with the frozen base itself; otherwise the Hub id or folder of a frozen
            text encoder (the paper's is Qwen/Qwen3-Embedding-0.6B), loaded when first needed and never saved.
        encoder_revision: Revision of an encoder from the Hub.
        encoder_layers: With ``encoder="base"``, how many of the base's first layers run before the router reads; 0
            reads the token embeddings.
        feature_size: Width of the token features. Filled in.
        max_prompt_tokens: The router reads the last this many tokens of a prompt; the base always reads all.
        router_dim: Width d of the router, 256 in the paper.
        router_heads: Attention heads of the router, 4 in the paper.
        router_blocks: Transformer blocks over the layer positions, 2 in the paper.
        router_dropout: Dropout in the router, 0.1 in the paper.
        max_segment_length: Longest segment K_max, 4 in the paper.
        max_executions: Most executions of a repeated segment that the segment router may choose, 2 in the paper.
        cost_weight: Price of running all D layers once, in units of probability. The menu router maximises
            P(correct) − cost_weight · depth / D. Also an argument of ``generate()`` and ``route()``.
        identity_margin: The menu router leaves the standard pass only for a program better by more than this, in the
            same units. Also an argument of ``generate()`` and ``route()``.
        max_depth: Hard limit on executed layers, None for no limit. Also an argument of ``generate()`` and ``route()``.

    Raises:
        ConfigError: If a value is out of range or two contradict each other.
        ProgramError: If a menu program cannot be read.
    """

    router_type: str = field(default="menu", metadata={"help": "menu, segment or static"})
    menu: list[str] | None = field(default=None, metadata={"help": "programs to choose from, in text form"})
    num_layers: int | None = field(default=None, metadata={"help": "depth of the base model"})
    encoder: str = field(default="base", metadata={"help": "'base', or a frozen text encoder"})
    encoder_revision: str | None = field(default=None, metadata={"help": "revision of the text encoder"})
    encoder_layers: int = field(default=0, metadata={"help": "layers of the base run before the router reads"})
    feature_size: int | None = field(default=None, metadata={"help": "width of the token features"})
    max_prompt_tokens: int = field(default=512, metadata={"help": "the router reads the last tokens of a prompt"})
    router_dim: int = field(default=256, metadata={"help": "width of the router"})
    router_heads: int = field(default=4, metadata={"help": "attention heads of the router"})
    router_blocks: int = field(default=2, metadata={"help": "transformer blocks of the router"})
    router_dropout: float = field(default=0.1, metadata={"help": "dropout of the router"})
    max_segment_length: int = field(default=4, metadata={"help": "longest segment"})
    max_executions: int = field(default=2, metadata={"help": "most executions of a repeated segment"})
    cost_weight: float = field(default=0.05, metadata={"help": "price of one full pass, as a probability"})
    identity_margin: float = field(default=0.0, metadata={"help": "gain needed to leave the standard pass"})
    max_depth: int | None = field(default=None, metadata={"help": "hard limit on executed layers"})

    def __post_init__(self) -> None:
        self.peft_type = POLAR
        if self.task_type is None:
            self.task_type = TaskType.CAUSAL_LM
        super().__post_init__()
        self._check_ranges()
        if self.num_layers is not None:
            self.resolve(self.num_layers)

    def _check_ranges(self) -> None:
        from .routers import ROUTERS

        if self.router_type not in ROUTERS:
            raise ConfigError(f"router_type is {self.router_type!r}; known routers are {sorted(ROUTERS)}.")
        lowest = {"encoder_layers": 0, "max_prompt_tokens": 1, "router_dim": 1, "router_heads": 1, "router_blocks": 0}
        for name, low in (lowest | {"max_segment_length": 1, "max_executions": 1}).items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < low:
                raise ConfigError(f"{name} is {value!r}; it must be an integer of at least {low}.")
        if self.router_dim % (2 * self.router_heads):
            raise ConfigError(
                f"router_dim {self.router_dim} must be a multiple of 2 x router_heads {self.router_heads}."
            )
        if self.max_executions > MAX_EXECUTIONS:
            raise ConfigError(f"max_executions is {self.max_executions}; segments run at most {MAX_EXECUTIONS} times.")
        if not 0 <= self.router_dropout < 1:
            raise ConfigError(f"router_dropout is {self.router_dropout!r}; it must be in [0, 1).")
        for name in ("cost_weight", "identity_margin"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ConfigError(f"{name} is {value!r}; it must be a finite number.")
        if self.menu is not None and (isinstance(self.menu, str) or not all(isinstance(p, str) for p in self.menu)):
            raise ConfigError(
                f"menu is {self.menu!r}; it must be a list of programs in text form, such as ['0-5 8-11']."
            )
        if self.max_depth is not None and (not isinstance(self.max_depth, int) or self.max_depth < 1):
            raise ConfigError(f"max_depth is {self.max_depth!r}; at least one layer must run, or None for no limit.")
        if self.router_type == "static" and (self.menu is None or len(self.menu) != 1):
            raise ConfigError(f"a static router runs one program, but menu is {self.menu!r}; give it a list of one.")

    def resolve(self, num_layers: int) -> None:
        """Fit the config to a base of ``num_layers`` layers: fill in the depth, normalise the menu.

        Raises:
            ConfigError: If the config was made for another depth.
            ProgramError: If a menu program does not fit.
        """
        if self.num_layers is not None and self.num_layers != num_layers:
            raise ConfigError(
                f"the adapter was made for a base of {self.num_layers} layers, but this model has {num_layers}. "
                "Load it over the base model it was trained on"
                + (f" ({self.base_model_name_or_path})." if self.base_model_name_or_path else ".")
            )
        if self.encoder_layers > num_layers:
            raise ConfigError(f"encoder_layers is {self.encoder_layers}, but the base has {num_layers} layers.")
        self.num_layers = num_layers
        programs = [Program.parse(text, num_layers) for text in self.menu or []]
        if self.router_type == "menu":
            programs = list(dict.fromkeys([Program.identity(num_layers), *programs]))
        self.menu = [str(program) for program in programs] if programs else None

    @property
    def programs(self) -> tuple[Program, ...]:
        """The menu as programs; empty for a segment router. Needs ``num_layers``."""
        if self.num_layers is None:
            raise ConfigError("num_layers is not known yet; wrap a base model first or set it.")
        return tuple(Program.parse(text, self.num_layers) for text in self.menu or [])

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, subfolder: str | None = None, **kwargs: Any):
        """Load from a folder or the Hub; a local folder is checked for a readable safetensors file first.

        Raises:
            AdapterError: If a local adapter folder is incomplete or its weights cannot be read.
        """
        folder = os.path.join(pretrained_model_name_or_path, subfolder or "")
        if os.path.isdir(folder):
            check_adapter_folder(folder)
        return super().from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs)


def check_adapter_folder(folder: str) -> None:
    """Verify that a folder holds an adapter this package can load: JSON and safetensors, nothing executable.

    Args:
        folder: Local folder.

    Raises:
        AdapterError: If a file is missing or damaged, or the weights are a pickle.
    """
    weights = os.path.join(folder, SAFETENSORS_WEIGHTS_NAME)
    if not os.path.isfile(os.path.join(folder, CONFIG_NAME)):
        raise AdapterError(
            f"{folder} holds no adapter: {CONFIG_NAME} is missing. Pass the folder save_pretrained wrote."
        )
    if not os.path.isfile(weights):
        found = [name for name in sorted(os.listdir(folder)) if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
        pickled = f" Pickled weights ({', '.join(found)}) are never loaded." if found else ""
        raise AdapterError(f"{folder} holds no {SAFETENSORS_WEIGHTS_NAME}.{pickled} Save the adapter again.")
    try:
        with safe_open(weights, framework="pt") as tensors:
            tensors.keys()
    except SafetensorError as error:
        raise AdapterError(
            f"{weights} is truncated or damaged ({error}). Download or save the adapter again."
        ) from error
