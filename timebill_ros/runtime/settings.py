# SPDX-License-Identifier: Apache-2.0
"""Everything that a user sets, once, validated where it is used."""

from __future__ import annotations

from dataclasses import dataclass, replace

from timebill_ros.budget.errors import SettingError

ENGINES = ("local", "served")
WEIGHTS = ("auto", "float32", "bfloat16", "int8", "int4")

_KIND = "@"  # between a model's name and how its weights are kept


@dataclass(frozen=True)
class Settings:
    """The settings of one server, under the names of the node's parameters.

    Their meaning, unit and range stand with the parameters' declarations. Bounds are checked by
    the part that a setting concerns (planner, engine, predictor), which names it in its error.
    """

    engine: str = "local"
    fallback: tuple[str, ...] = ()
    model: str = "embedded"
    models: tuple[str, ...] = ()
    quality_file: str = ""
    url: str = ""
    server_model: str = ""
    api_key_file: str = ""
    request_timeout: float = 60.0
    server_flavor: str = "auto"
    server_priority: bool = False
    device: str = "cpu"
    dtype: str = "auto"
    weights: str = "auto"
    threads: int = 0
    max_context: int = 0
    chunk: int = 512
    window: int = 64
    eviction_method: str = "snapkv"
    kernel: int = 5
    prefix_tokens: int = 4096
    selection: str = "auto"
    selection_head: int = 16
    rho_min: float = 0.06
    max_tokens: int = 400
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    predictor: str = "auto"
    predictor_device: str = "cpu"
    predictor_threads: int = 1
    predictor_grace: float = 0.05
    planner: str = "expected"
    alpha_max: float = 0.95
    pessimism: float = 1.0
    risk: float = 0.0
    time_risk: float = 0.0
    fixed_alpha: float = 0.5
    overrun_policy: str = "kill"
    admission: str = "best_effort"
    anytime_margin: float = 0.01
    default_budget: float = 2.0
    max_budget: float = 3600.0
    queue_capacity: int = 16
    goal_lease: float = 5.0
    profile_cache: str = ""
    profile_seconds: float = 60.0
    publish_partial: bool = False
    partial_period: float = 0.1
    diagnostics_period: float = 1.0
    miss_ratio_warn: float = 0.1
    miss_ratio_error: float = 0.5
    firm_misses: int = 3
    firm_window: int = 10
    beyond_plan_warn: float = 0.1

    def __post_init__(self) -> None:
        """Check what lies between two settings, and so with no part of its own.

        Raises:
            SettingError: there is no such engine, a server has no address, a model is named twice,
                or by ``model`` beside ``models``, ``default_budget`` would be refused as absurd, a
                warning would come after its error, or a bound on misses allows every miss.
        """
        for name, engine in (("engine", self.engine), *(("fallback", e) for e in self.fallback)):
            if engine not in ENGINES:
                raise SettingError(name, engine, f"of {', '.join(ENGINES)}")
        if "served" in self.engines and not self.url.strip():
            raise SettingError("url", self.url, "the server's address, where one may answer")
        self._check_models()
        if self.default_budget > self.max_budget:
            raise SettingError(
                "default_budget", self.default_budget, f"at most max_budget, {self.max_budget}"
            )
        if self.miss_ratio_warn > self.miss_ratio_error:
            raise SettingError(
                "miss_ratio_warn",
                self.miss_ratio_warn,
                f"at most miss_ratio_error, {self.miss_ratio_error}",
            )
        if self.firm_misses >= self.firm_window:
            raise SettingError(
                "firm_misses", self.firm_misses, f"below firm_window, {self.firm_window}"
            )

    @property
    def engines(self) -> tuple[str, ...]:
        """``engine`` and those of ``fallback`` that go on where it cannot, each once."""
        return tuple(dict.fromkeys((self.engine, *self.fallback)))

    def on_models(self, engine: str) -> tuple[Settings, ...]:
        """These settings for each model of an engine, the largest first; each names one alone.

        A local model may be named with how its weights are kept: ``NAME@int8``.
        """
        several = self.models if engine == self.engine else ()
        if engine == "served":
            names = several or (self.server_model,)
            return tuple(replace(self, server_model=name, models=()) for name in names)
        kinds = ((name, parted(name)[1]) for name in several or (self.model,))
        return tuple(
            replace(self, model=name, weights=kind or self.weights, models=())
            for name, kind in kinds
        )

    def _check_models(self) -> None:
        if not self.models:
            return
        if len(set(self.models)) < len(self.models):
            raise SettingError("models", list(self.models), "without a name that occurs twice")
        single, default = ("model", "embedded") if self.engine == "local" else ("server_model", "")
        if getattr(self, single) != default:
            bound = f"left as it is where models names those of the engine {self.engine!r}"
            raise SettingError(single, getattr(self, single), bound)


def parted(model: str) -> tuple[str, str]:
    """A model's name alone, and how its weights are kept; "" where the name does not say."""
    name, mark, kind = model.rpartition(_KIND)
    return (name, kind) if mark and name and kind in WEIGHTS else (model, "")
