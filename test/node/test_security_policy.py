# SPDX-License-Identifier: Apache-2.0
"""The SROS2 policy that comes with the package, against what a configured node really has."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rclpy.action import get_action_server_names_and_types_by_node

from .bench import SUCCESS, Bench

FILE = Path(__file__).resolve().parents[2] / "config" / "security" / "llm.policy.xml"
ENCLOSED = "/enclosed"
INSTRUCTIONS = "/llm/input/instruction"


def allowed(enclave: str, kind: str, verb: str) -> set[str]:
    """Absolute names that an enclave's profile allows the verb for."""
    profile = ElementTree.parse(FILE).find(f".//enclave[@path='{enclave}']/profiles/profile")
    assert profile is not None
    names = {
        (item.text or "").strip()
        for group in profile.findall(kind)
        if group.get(verb) == "ALLOW"
        for item in group
    }
    return {name.replace("~", f"/{profile.get('node')}") for name in names}


def unmatched(names: set[str], patterns: set[str]) -> set[str]:
    return {name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)}


@pytest.fixture
def held(bench: Bench) -> dict[tuple[str, str], set[str]]:
    """Names that a configured node has, by kind and verb, as if it had no namespace.

    It has one of its own: a node is looked up by its name, which other tests' nodes have, too. An
    action's own topics and services are left out.
    """
    node = bench.node(namespace=ENCLOSED)
    assert node.trigger_configure() == SUCCESS
    own = (node.get_name(), node.get_namespace())

    def found() -> dict[tuple[str, str], set[str]]:
        pairs = {
            ("topics", "publish"): node.get_publisher_names_and_types_by_node(*own),
            ("topics", "subscribe"): node.get_subscriber_names_and_types_by_node(*own),
            ("services", "reply"): node.get_service_names_and_types_by_node(*own),
            ("actions", "execute"): get_action_server_names_and_types_by_node(node, *own),
        }
        return {
            key: {name.removeprefix(ENCLOSED) for name, _ in held if "/_action/" not in name}
            for key, held in pairs.items()
        }

    # A node learns of its own parts by discovery, too; these come last.
    last = {("actions", "execute"): "/llm/instruct", ("topics", "subscribe"): INSTRUCTIONS}
    bench.until(lambda: all(name in found()[key] for key, name in last.items()))
    return found()


def test_the_node_may_do_what_it_does_and_nothing_else(
    held: dict[tuple[str, str], set[str]],
) -> None:
    # Only under simulated time, and only where a parameter's change is listened for.
    optional = {"/clock", "/parameter_events"}
    for (kind, verb), names in held.items():
        rules = allowed("/llm", kind, verb)
        assert unmatched(names, rules) == set(), (kind, verb)
        unused = {r for r in rules - optional if not any(fnmatch(name, r) for name in names)}
        # Described types are an option of rclpy that some of its releases leave off.
        assert unused <= {"/llm/get_type_description"}, (kind, verb)


def test_client_and_operator_share_nothing_that_matters() -> None:
    assert "/llm/input/instruction" in allowed("/llm_client", "topics", "publish")
    assert allowed("/llm_client", "services", "request") == {"/llm/get_state", "/llm/quote"}
    assert allowed("/llm_client", "actions", "call") == {"/llm/instruct"}
    assert allowed("/llm_operator", "topics", "publish") == {"/rosout", "/parameter_events"}
    assert allowed("/llm_operator", "actions", "call") == set()


def test_what_others_ask_for_is_what_the_node_offers() -> None:
    node = {verb: allowed("/llm", "topics", verb) for verb in ("publish", "subscribe")}
    for other in ("/llm_client", "/llm_operator"):
        reads, writes = (allowed(other, "topics", verb) for verb in ("subscribe", "publish"))
        assert reads - {"/clock", "/parameter_events"} <= node["publish"]
        assert writes - {"/rosout", "/parameter_events"} <= node["subscribe"]
        assert allowed(other, "services", "request") <= allowed("/llm", "services", "reply")
        assert allowed(other, "actions", "call") <= allowed("/llm", "actions", "execute")
