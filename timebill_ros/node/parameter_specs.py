# SPDX-License-Identifier: Apache-2.0
"""What a user reads about each of the node's parameters."""

from __future__ import annotations

from dataclasses import dataclass

from timebill_ros.engine.request import LARGEST_SEED, LARGEST_TEMPERATURE
from timebill_ros.engine.served.flavors import FLAVORS
from timebill_ros.runtime.policy import ADMISSIONS
from timebill_ros.runtime.settings import ENGINES, WEIGHTS, Settings

DEFAULTS = Settings()


@dataclass(frozen=True)
class Range:
    """Inclusive bounds of a number."""

    low: float
    high: float


@dataclass(frozen=True)
class Spec:
    """One parameter: its meaning, its bounds, and whether it may change while it is in use.

    ``choices`` are the only values of a string; ``constraints`` say what no range or list can.
    ``live`` ones take effect from the next instruction on; the others are read when the node is
    configured, since something was loaded, allocated or measured for them.
    """

    description: str
    range: Range | None = None
    constraints: str = ""
    live: bool = False
    choices: tuple[str, ...] = ()

    @property
    def stated_constraints(self) -> str:
        """What bounds the value besides its range, in words."""
        if not self.choices:
            return self.constraints
        *others, last = self.choices
        return f"{', '.join(others)} or {last}"


_DAY = 86_400.0

SPECS: dict[str, Spec] = {
    "engine": Spec(
        "What answers: a model in this process (local), or a server that speaks OpenAI's chat "
        "completions (served): vLLM, SGLang, llama.cpp and others, see docs/served-engines.md.",
        choices=ENGINES,
    ),
    "fallback": Spec(
        "Engines that answer where engine cannot, in this order: served, local. Each is loaded "
        "when the node configures; one that keeps failing is left alone for a while. '' entries "
        "are none.",
    ),
    "url": Spec(
        "Address of the server, as http://HOST:PORT or https://HOST; everybody can read it here, "
        "so it may hold no secret.",
    ),
    "server_model": Spec(
        "Name of the model on the server; empty: the only one that it has.",
    ),
    "api_key_file": Spec(
        "File that holds the server's key and nothing else; empty: none. The key is no parameter's "
        "value, and is never logged.",
    ),
    "request_timeout": Spec(
        "Longest time that a request to the server may take, whatever its deadline, s.",
        Range(0.1, 3600.0),
    ),
    "server_flavor": Spec(
        "What the server understands beyond OpenAI's requests; auto: by its list of models.",
        choices=("auto", *FLAVORS),
    ),
    "server_priority": Spec(
        "The server was started to schedule by priority: requests get one by the time they have "
        "left. A server that was not refuses them.",
    ),
    "quality_file": Spec(
        "Quality curves of a model whose folder has none, or that is on a server, as "
        "measure-quality writes them, or a folder with one for each model, NAME.json ('_' for "
        "'/'); empty: quality.json in the model's folder.",
    ),
    "model": Spec(
        "The language model: 'embedded' for the one that comes with the package, "
        "'embedded-small' for its smaller, faster sister that cannot list or count, otherwise a "
        "checkpoint directory or hub id of a causal LM with safetensors weights.",
        constraints="not empty",
    ),
    "models": Spec(
        "Several models, the largest first, of which the planner 'expected' chooses one for each "
        "instruction; other planners take the first. They stand in for model, or where engine is "
        "served for server_model, which then stays as it is. All are loaded when the node "
        "configures. NAME@int8 is NAME with its weights kept so (float32, bfloat16, int8, int4). "
        "'' entries are none; empty: model alone.",
    ),
    "device": Spec("Where the model runs.", constraints="cpu, cuda or cuda:N"),
    "dtype": Spec(
        "Type of the activations, the KV cache and, where weights is auto, the weights; auto is "
        "float32 on CPU and bfloat16 on CUDA.",
        choices=("auto", "float32", "bfloat16", "float16"),
    ),
    "weights": Spec(
        "How the weights of linear layers are kept on a CPU: rounded ones are read faster. auto is "
        "dtype; with dtype auto too, for a model of 50 million weights or more, the faster of "
        "float32 and bfloat16 for prefill and for steps, by measurement (both are kept in memory "
        "where they differ).",
        choices=WEIGHTS,
    ),
    "threads": Spec(
        "CPU threads of the engine; 0: the fastest, by measurement, and one for a model of under "
        "50 million weights.",
        Range(0, 1024),
    ),
    "max_context": Spec(
        "Longest prompt and response together, tokens; the KV cache is allocated for it. "
        "0: the model's own limit, or what the server tells.",
        Range(0, 10_000_000),
    ),
    "chunk": Spec(
        "Prompt tokens that prefill runs at a time: a deadline stops prefill within one chunk.",
        Range(1, 1_000_000),
    ),
    "window": Spec(
        "Observation window: the last prompt tokens, which score the others and are never "
        "evicted. It should cover the instruction at the prompt's end.",
        Range(1, 4096),
    ),
    "eviction_method": Spec(
        "Which prompt tokens stay in the cache: by the window's attention to them (snapkv), to "
        "passages (chunkkv), weighed with their values (criticalkv); or, blind to the instruction, "
        "those with short keys (key_norm), the first and the last (streaming_llm), any (random).",
        choices=("snapkv", "chunkkv", "criticalkv", "key_norm", "streaming_llm", "random"),
    ),
    "kernel": Spec(
        "Width of the pooling that smooths the window's attention (snapkv, chunkkv, criticalkv), "
        "odd.",
        Range(1, 63),
    ),
    "prefix_tokens": Spec(
        "Prompt tokens whose keys and values are kept, over all prompts, so that prompts that "
        "start alike, with a common system text or scene, prefill only what is new; each takes as "
        "much memory as one of max_context. 0: off.",
        Range(0, 10_000_000),
    ),
    "selection": Spec(
        "How a prompt is shortened before prefill, where the planner wants that: its passages that "
        "share rare words with the instruction stay (lexical), or its end (recent), any (random), "
        "all of it (none); auto: by what was measured on the model. A method without a measured "
        "curve is not used.",
        choices=("auto", "none", "lexical", "recent", "random"),
    ),
    "selection_head": Spec(
        "Tokens at the prompt's start that selection always keeps; the observation window at its "
        "end stays too.",
        Range(0, 4096),
    ),
    "rho_min": Spec(
        "Smallest share of a prompt that selection may leave.", Range(0.0, 1.0), "above 0"
    ),
    "max_tokens": Spec(
        "N_max, longest response of an instruction that sets none, tokens.", Range(1, 1_000_000)
    ),
    "temperature": Spec(
        "Sampling temperature of an instruction that sets none; 0: greedy.",
        Range(0.0, LARGEST_TEMPERATURE),
    ),
    "top_p": Spec(
        "Share of probability that sampling draws from, for an instruction that sets none.",
        Range(0.0, 1.0),
    ),
    "seed": Spec(
        "Seed of sampling, the same for every instruction that sets none.", Range(0, LARGEST_SEED)
    ),
    "stop": Spec(
        "Strings that end a response of an instruction that sets none; they are cut from its text. "
        "'' entries are none."
    ),
    "predictor": Spec(
        "The response length predictor: 'auto' for the one that comes with this package for the "
        "model, 'none' to plan with N_W = N_max, otherwise a checkpoint directory.",
        constraints="not empty",
    ),
    "predictor_device": Spec(
        "Where the predictor runs, beside the model.", constraints="cpu, cuda or cuda:N"
    ),
    "predictor_threads": Spec("CPU threads of the predictor.", Range(1, 1024)),
    "predictor_grace": Spec(
        "How long a finished prefill waits for a late prediction before it plans with "
        "N_W = N_max, s; at most half of the time left.",
        Range(0.0, 60.0),
    ),
    "planner": Spec(
        "How a request is shortened: by whatever gives the highest expected score (expected), "
        "also by an eviction that is put off to a later token (hedged), by the smallest eviction "
        "that meets the budget (timebill), always by fixed_alpha (fixed), not at all (vanilla).",
        choices=("expected", "hedged", "timebill", "fixed", "vanilla"),
        live=True,
    ),
    "alpha_max": Spec("Largest eviction ratio.", Range(0.0, 1.0), "below 1", live=True),
    "pessimism": Spec(
        "k: the plan survives responses k times as long as predicted, up to N_max. The paper's is "
        "5; 1 scored higher by measurement (docs/evaluation.md).",
        Range(1.0, 1000.0),
        live=True,
    ),
    "risk": Spec(
        "Accepted probability that a response is longer than planned for, from the calibrated "
        "length predictor; it replaces pessimism. 0: off.",
        Range(0.0, 1.0),
        "below 1",
        live=True,
    ),
    "time_risk": Spec(
        "Accepted share of responses that take longer than planned for their length, judged by the "
        "last 100 responses' times against the profile. 0: off, times are planned as profiled.",
        Range(0.0, 1.0),
        "below 1",
        live=True,
    ),
    "fixed_alpha": Spec(
        "Eviction ratio of the planner 'fixed'.", Range(0.0, 1.0), "below 1", live=True
    ),
    "overrun_policy": Spec(
        "At its deadline an instruction is stopped (kill), runs on while those behind it are "
        "skipped (skip_next), or has been answered with the complete part of its text (anytime).",
        choices=("kill", "skip_next", "anytime"),
        live=True,
    ),
    "admission": Spec(
        "Whether an instruction is tried whatever its chances (best_effort), or rejected at once "
        "where even the cheapest plan has not the time that it needs, with the time that would "
        "have been enough (reject).",
        choices=ADMISSIONS,
        live=True,
    ),
    "anytime_margin": Spec(
        "Time that the policy anytime keeps before the deadline for completing and publishing an "
        "answer, s; plans keep it free as well.",
        Range(0.0, 60.0),
        live=True,
    ),
    "default_budget": Spec(
        "Budget of instructions that set neither budget nor deadline, s.",
        Range(1e-3, _DAY),
        live=True,
    ),
    "max_budget": Spec(
        "Longest budget that is not rejected as absurd, s.", Range(1e-3, _DAY), live=True
    ),
    "queue_capacity": Spec("Instructions that may wait; one more is rejected.", Range(1, 100_000)),
    "goal_lease": Spec(
        "How long goals go on although nobody subscribes to the action's feedback any more, s; "
        "then they are canceled. 0: to their end.",
        Range(0.0, _DAY),
        live=True,
    ),
    "profile_cache": Spec(
        "Directory of measured time models; empty: timebill_ros in the ROS home directory."
    ),
    "profile_seconds": Spec(
        "Longest time that measuring the time model may take, s.", Range(1.0, 3600.0)
    ),
    "publish_partial": Spec(
        "Publish responses while they are generated, on ~/output/partial.", live=True
    ),
    "partial_period": Spec(
        "Time between two partial responses, on the topic and as an action's feedback, s.",
        Range(0.0, 60.0),
        live=True,
    ),
    "diagnostics_period": Spec("Time between two diagnostics messages, s.", Range(0.05, 60.0)),
    "miss_ratio_warn": Spec(
        "Diagnostics warn where a larger share of the last 100 instructions missed its deadline.",
        Range(0.0, 1.0),
        "at most miss_ratio_error",
        live=True,
    ),
    "miss_ratio_error": Spec(
        "The share from which on diagnostics report an error.", Range(0.0, 1.0), live=True
    ),
    "firm_misses": Spec(
        "m: more misses among firm_window consecutive instructions are an error in diagnostics.",
        Range(0, 99),
        "below firm_window",
        live=True,
    ),
    "firm_window": Spec(
        "k: the number of consecutive instructions that firm_misses counts in.",
        Range(1, 100),
        live=True,
    ),
    "beyond_plan_warn": Spec(
        "Diagnostics warn where a larger share of the last 100 answers was longer than planned, or "
        "took longer than its plan's worst case.",
        Range(0.0, 1.0),
        live=True,
    ),
}
