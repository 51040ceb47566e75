"""Words of eight bytes at any place of an array, for compiled code: what the processor does in one step, and arrays of bytes cannot say."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

WORD = ir.IntType(64)


def _address(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(cgutils.gep_inbounds(builder, data, at), WORD.as_pointer())


@intrinsic
def load_word(typing: Any, array: Any, at: Any) -> Any:
    """The eight bytes from element `at` on as a number, little-endian; they must lie in the array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = builder.load(_address(context, builder, signature.args[0], arguments[0], arguments[1]))
        word.align = 1
        return word

    return types.uint64(array, at), generate


@intrinsic
def store_word(typing: Any, array: Any, at: Any, value: Any) -> Any:
    """Write a number's eight bytes from element `at` on, little-endian; they must lie in the array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature.args[0], arguments[0], arguments[1])
        builder.store(arguments[2], address).align = 1
        return context.get_dummy_value()

    return types.void(array, at, types.uint64), generate


@intrinsic
def trailing_zeros(typing: Any, word: Any) -> Any:
    """Zero bits below the lowest bit that is set; the word is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate
