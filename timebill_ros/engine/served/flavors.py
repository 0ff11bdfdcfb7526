# SPDX-License-Identifier: Apache-2.0
"""What servers understand beyond OpenAI's request, each in its own words.

Checked against what they publish: docs/served-engines.md says which version. What a server does not
know is not sent to it: some refuse a request for one field too many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.request import RequestHints

FLAVORS = ("vllm", "sglang", "llamacpp", "tensorrt", "dynamo", "openai")

# What servers call themselves in the list of their models.
_OWNERS = {
    "vllm": "vllm",
    "sglang": "sglang",
    "llamacpp": "llamacpp",
    "tensorrt_llm": "tensorrt",
    "nvidia": "dynamo",
}
# A request with a deadline goes before others, which have the priority 0: so the time left counts
# from below, and more than this is no more urgent than them.
_LATEST_MS = 3_600_000


@dataclass(frozen=True)
class Flavor:
    """What one kind of server understands.

    Attributes:
        name: one of ``FLAVORS``.
        structured: it holds answers to a JSON schema.
        ignores_eos: it can be asked for answers of a set length, for measuring.
        counts: ``stream_options`` make it count tokens in the stream.
        counts_each: and in every event of it.
        abort_path: where a request is given up by its name; "" where closing its stream is all.
    """

    name: str
    structured: bool = False
    ignores_eos: bool = False
    counts: bool = True
    counts_each: bool = False
    abort_path: str = ""

    def counting(self) -> dict[str, Any]:
        """What makes the server count tokens in the stream."""
        if not self.counts:
            return {}
        options = {"include_usage": True}
        if self.counts_each:
            options["continuous_usage_stats"] = True
        return {"stream_options": options}

    def naming(self, request_id: str) -> dict[str, Any]:
        """What names the request to the server, so that it can be given up by that name."""
        return {"rid": request_id} if self.abort_path else {}

    def hints(self, expected: RequestHints, *, priority: bool) -> dict[str, Any]:
        """What tells the server how urgent a request is, and how long it may become.

        Args:
            expected: what is known of the request.
            priority: the server was started with its scheduling by priority; others refuse one.
        """
        left_ms = max(1, math.floor(expected.time_left * 1e3))
        urgency = max(0, _LATEST_MS - left_ms)
        if self.name == "vllm" and priority:
            return {"priority": -urgency}  # the lower goes first
        if self.name == "sglang" and priority:
            return {"priority": urgency}  # the higher goes first
        if self.name == "llamacpp":
            # Counts from the first token, and ends at a line's end only: a second line of defence.
            return {"t_max_predict_ms": left_ms}
        if self.name == "dynamo":
            hints: dict[str, Any] = {}
            if expected.tokens is not None:
                hints["osl"] = expected.tokens
            if priority:
                hints["priority"] = urgency
            return {"nvext": {"agent_hints": hints}} if hints else {}
        return {}

    def headers(self, expected: RequestHints) -> dict[str, str]:
        """The same for the router before the servers, where there is one (llm-d's, Dynamo's)."""
        if self.name not in ("vllm", "sglang", "dynamo"):
            return {}
        return {"x-slo-ttft-ms": str(max(1, math.floor(expected.first_token * 1e3)))}


_KNOWN = {
    "vllm": Flavor("vllm", structured=True, ignores_eos=True, counts_each=True),
    "sglang": Flavor("sglang", structured=True, ignores_eos=True, abort_path="/abort_request"),
    "llamacpp": Flavor("llamacpp", structured=True, ignores_eos=True),
    "tensorrt": Flavor("tensorrt"),
    "dynamo": Flavor("dynamo"),
    "openai": Flavor("openai"),
}


def flavor_of(setting: str, models: Mapping[str, Any]) -> Flavor:
    """The flavor that is set, or for "auto" what the server's list of models tells.

    Raises:
        SettingError: there is no such flavor.
    """
    if setting == "auto":
        rows = models.get("data")
        first = rows[0] if isinstance(rows, list) and rows else None
        owner = first.get("owned_by") if isinstance(first, dict) else None
        setting = _OWNERS.get(str(owner).lower(), "openai")
    if setting not in _KNOWN:
        raise SettingError("server_flavor", setting, f"auto or one of {', '.join(FLAVORS)}")
    return _KNOWN[setting]
