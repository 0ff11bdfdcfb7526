# SPDX-License-Identifier: Apache-2.0
"""What can go wrong in the engine: checkpoints, requests, arithmetic."""

from __future__ import annotations

from pathlib import Path


class EngineError(Exception):
    """Base of every error that the engine raises on purpose."""


class DeviceUnavailable(EngineError):
    """The device that ``setting`` asks for does not exist on this machine."""

    def __init__(self, setting: str, device: str, reason: str) -> None:
        super().__init__(f"{setting} {device!r} cannot be used: {reason}")


class CheckpointError(EngineError):
    """Base of the errors of a model checkpoint."""


class CheckpointNotFound(CheckpointError):
    """Neither a directory nor a reachable hub id."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"model {model!r} was not found: {reason}")


class BrokenCheckpoint(CheckpointError):
    """A file of the checkpoint is missing or cannot be read."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"checkpoint {folder} cannot be used: {reason}")


class NotSafetensors(CheckpointError):
    """The checkpoint holds pickled weights only; unpickling can run code, so it is refused."""

    def __init__(self, folder: Path, found: str) -> None:
        super().__init__(
            f"checkpoint {folder} has no *.safetensors weights (found {found}); "
            "convert it with ``save_pretrained(..., safe_serialization=True)``"
        )


class UnsupportedModel(CheckpointError):
    """The model is not a causal language model with full rotary attention in every layer."""

    def __init__(self, model: object, reason: str) -> None:
        super().__init__(f"model {model} is not supported: {reason}")


class GgufRefused(CheckpointError):
    """There is no such GGUF file, or it cannot be made a checkpoint of."""

    def __init__(self, source: object, reason: str) -> None:
        super().__init__(f"{source} cannot be imported: {reason}")


class RequestError(EngineError, ValueError):
    """Base of the errors of one request; the engine stays usable."""


class PromptEmpty(RequestError):
    """The prompt has no tokens."""

    def __init__(self) -> None:
        super().__init__("the prompt is empty; it must hold at least one token")


class PromptTooLong(RequestError):
    """The conversation is longer than the context can be; it was not tokenised."""

    def __init__(self, count: int, what: str, most: int) -> None:
        super().__init__(f"the prompt's {count} {what} exceed the {most} that the context can hold")


class ConversationRefused(RequestError):
    """The model's chat template does not take these turns."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(f"the model's chat template refuses the turns: {reason}")


class SchemaRefused(RequestError):
    """Responses cannot be held to this JSON schema."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"response_schema: {reason}")
        self.reason = reason


class ContextExceeded(RequestError):
    """Prompt and response together do not fit the context."""

    def __init__(self, prompt_tokens: int, max_tokens: int, max_context: int) -> None:
        super().__init__(
            f"prompt of {prompt_tokens} tokens + max_tokens {max_tokens} = "
            f"{prompt_tokens + max_tokens} exceeds max_context {max_context}; "
            "shorten the prompt or lower max_tokens"
        )
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.max_context = max_context


class NonFiniteLogits(EngineError, ArithmeticError):
    """The model produced NaN or infinite logits; the request cannot go on."""

    def __init__(self, response_tokens: int) -> None:
        super().__init__(
            f"the model's logits are not finite after {response_tokens} response tokens; "
            "the checkpoint may be damaged or its dtype too narrow"
        )


class GrammarExhausted(EngineError, RuntimeError):
    """The response schema's grammar cannot say what may come next; the request cannot go on."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"response_schema: its grammar gave up: {reason}; simplify the schema")


class SchemaViolated(EngineError, RuntimeError):
    """The ended response does not satisfy its schema, although the grammar allowed it."""

    def __init__(self, violation: str) -> None:
        super().__init__(f"response_schema: the answer does not satisfy it: {violation}")


class EngineMisuse(EngineError, RuntimeError):
    """A method was called in a phase of the request that does not allow it."""


class ServerError(EngineError):
    """Base of what a server that runs the model did wrong; another engine may answer."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"server: {reason}")
        self.reason = reason


class ServerUnavailable(ServerError):
    """The server is not there, too busy or too slow."""


class ServerFault(ServerError):
    """The server refused the request, or answered what it must not."""
