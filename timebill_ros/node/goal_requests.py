# SPDX-License-Identifier: Apache-2.0
"""Looks at a request that holds an instruction before it is taken apart into Python's values.

Topics hand their bytes over, see ``serialized``; a service's request comes as the message of C that
the middleware made. rclpy turns it into Python's values by a function that the request's class
names. The class here names one that looks first, for lists and texts that are too long. A NUL, at
which the middleware itself ends a text of C, is not there to be seen any more.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator
from typing import Any

from rclpy.type_support import check_for_type_support
from rosidl_parser.definition import (
    AbstractNestedType,
    AbstractString,
    BasicType,
    NamespacedType,
)
from unique_identifier_msgs.msg import UUID

import timebill_ros.msg as msg
import timebill_ros.srv as srv
from timebill_ros.action import Instruct
from timebill_ros.node.serialized import count_fault, size_fault

_REQUEST = Instruct.Impl.SendGoalService.Request
# How a class of messages names the functions that rclpy calls.
_FUNCTIONS = ("_CREATE_ROS_MESSAGE", "_CONVERT_FROM_PY", "_DESTROY_ROS_MESSAGE", "_TYPE_SUPPORT")
_NUMBERS = {"int32": ctypes.c_int32, "uint32": ctypes.c_uint32, "float": ctypes.c_float}
_NUMBERS |= {"uint8": ctypes.c_uint8}
_Conversion = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p)
_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype = ctypes.py_object
_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_inside = ctypes.pythonapi.PyCapsule_GetPointer
_inside.restype = ctypes.c_void_p
_inside.argtypes = (ctypes.py_object, ctypes.c_char_p)


class _List(ctypes.Structure):
    """A sequence or string as rosidl's C messages hold it: its memory is freed by ``capacity``."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("capacity", ctypes.c_size_t),
    )

    def cut(self) -> None:
        """Make it empty for who reads it next."""
        self.size = 0


class _String(_List):
    def cut(self) -> None:
        """Make it empty for who reads it next, up to its first NUL."""
        if self.data:
            ctypes.memset(self.data, 0, 1)


def _layout(message: Any) -> type[ctypes.Structure]:
    """The structure of C behind a class of messages."""
    names = message.get_fields_and_field_types()
    fields = [(name, _member(kind)) for name, kind in zip(names, message.SLOT_TYPES, strict=True)]
    return type(message.__name__, (ctypes.Structure,), {"_fields_": fields})


def _member(kind: Any) -> Any:
    if isinstance(kind, BasicType):
        return _NUMBERS[kind.typename]
    if isinstance(kind, AbstractString):
        return _String
    if isinstance(kind, NamespacedType):
        return _layout(getattr(importlib.import_module(".".join(kind.namespaces)), kind.name))
    if not isinstance(kind, AbstractNestedType):
        raise TypeError(f"no request holds a {kind}")
    element = _member(kind.value_type)
    if hasattr(kind, "size"):
        return element * kind.size
    return type("_Sequence", (_List,), {"element": element})


class _GoalRequest(ctypes.Structure):
    """A goal is nothing but its instruction."""

    _fields_ = (("goal_id", _layout(UUID)), ("instruction", _layout(msg.Instruction)))


class _QuoteRequest(ctypes.Structure):
    """A quote is asked for an instruction."""

    _fields_ = (("instruction", _layout(msg.Instruction)),)


def _members(holder: ctypes.Structure) -> Iterator[tuple[str, Any]]:
    """The texts and lists of a message itself, with their names."""
    for name, *_ in holder._fields_:
        if isinstance(member := getattr(holder, name), _List):
            yield name, member


def _text_size(held: Any) -> int:
    """Bytes of a text, or of all texts in a list or message."""
    if isinstance(held, _String):
        return int(held.size)
    if not isinstance(held, _List):
        return sum(_text_size(member) for _, member in _members(held))
    if not held.size or not issubclass(held.element, ctypes.Structure):
        return 0
    return sum(map(_text_size, (held.element * held.size).from_address(held.data)))


def _fault(instruction: ctypes.Structure, max_prompt_chars: int) -> str | None:
    """Why an instruction is not taken apart; None where it may be."""
    for name, held in _members(instruction):
        if not isinstance(held, _String) and (fault := count_fault(name, held.size)):
            return fault
    return size_fault(_text_size(instruction), max_prompt_chars)


def _derived(base: Any, **changed: Any) -> Any:
    """A class like another but for these attributes."""
    return type(base.__name__, (base,), changed)


class _LookedAt:
    """Has rclpy look at each request of one kind.

    Attributes:
        request: the class of requests to give to rclpy.
        max_prompt_chars: a prompt of more characters cannot fit the model's context.
    """

    def __init__(self, request: Any, structure: type[ctypes.Structure]) -> None:
        """Let pass what no model is needed for to refuse."""
        self.max_prompt_chars = 0
        self._structure = structure
        check_for_type_support(request)
        functions = {name: getattr(type(request), name) for name in _FUNCTIONS}
        self._plain = _Conversion(_inside(type(request)._CONVERT_TO_PY, None))
        self._looking = _Conversion(self._convert)  # kept here, since C does not keep it
        pointer = ctypes.cast(self._looking, ctypes.c_void_p)
        functions["_CONVERT_TO_PY"] = _capsule(pointer, None, None)
        self.request = type("LookedAtRequest", (), functions)()

    def _convert(self, address: int) -> Any:
        """Python's request; of one that is refused, only what its refusal must name."""
        looked_at = self._structure.from_address(address)
        fault = _fault(looked_at.instruction, self.max_prompt_chars)
        for name, held in _members(looked_at.instruction) if fault else ():
            if name != "id":
                held.cut()
        request = self._plain(address)
        self._remember(request, fault)
        return request

    def _remember(self, request: Any, fault: str | None) -> None:
        raise NotImplementedError


class GoalRequests(_LookedAt):
    """Has rclpy look at each goal's request, and remembers what is wrong with the last.

    Attributes:
        action: the type of action to give to rclpy's action server.
    """

    def __init__(self) -> None:
        """See the base."""
        super().__init__(_REQUEST, _GoalRequest)
        self._refused: tuple[bytes, str] | None = None
        service = _derived(Instruct.Impl.SendGoalService, Request=self.request)
        self.action = _derived(Instruct, Impl=_derived(Instruct.Impl, SendGoalService=service))

    def fault_of(self, goal: bytes) -> str | None:
        """What is wrong with the goal whose request was taken last, by its UUID."""
        if self._refused is None or self._refused[0] != goal:
            return None
        return self._refused[1]

    def _remember(self, request: Any, fault: str | None) -> None:
        self._refused = (bytes(request.goal_id.uuid), fault) if fault else None


class QuoteRequests(_LookedAt):
    """The same for the requests of quotes.

    Attributes:
        service: the type of service to give to rclpy.
    """

    def __init__(self) -> None:
        """See the base."""
        super().__init__(srv.Quote.Request, _QuoteRequest)
        self._refused: tuple[Any, str] | None = None
        self.service = _derived(srv.Quote, Request=self.request)

    def fault_of(self, request: Any) -> str | None:
        """What is wrong with this request, if it was taken last."""
        if self._refused is None or self._refused[0] is not request:
            return None
        return self._refused[1]

    def _remember(self, request: Any, fault: str | None) -> None:
        self._refused = (request, fault) if fault else None
