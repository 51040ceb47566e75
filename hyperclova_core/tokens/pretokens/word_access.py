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
def prefetch(typing: Any, array: Any, at: Any) -> Any:
    """Ask for the memory at an element of an array, and do not wait; nothing happens where there is none."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        address = _address(context, builder, signature.args[0], arguments[0], arguments[1])
        read, keep, data = 0, 3, 1
        builder.call(
            function, [builder.bitcast(address, pointer), *(ir.Constant(number, x) for x in (read, keep, data))]
        )
        return context.get_dummy_value()

    return types.void(array, at), generate


@intrinsic
def look_at_block(typing: Any, array: Any, at: Any) -> Any:
    """(blanks, bytes to look at) among the 64 bytes from element `at` on, a bit each; they must lie in the array.

    To look at: control characters, and what leads a character that may be white space or change under NFC: not Hangul syllables
    (0xEB to 0xED lead them and old letters, 0xEA those of 0xEA 0xB0 on; of one whose second byte is outside, nothing is known).
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.VectorType(ir.IntType(8), 64)
        address = _address(context, builder, signature.args[0], arguments[0], arguments[1])
        block = builder.load(builder.bitcast(address, kind.as_pointer()))
        block.align = 1

        def test(relation: str, value: int) -> Any:
            constant = ir.Constant(kind, [value] * 64)
            return builder.bitcast(builder.icmp_unsigned(relation, block, constant), WORD)

        one = ir.Constant(WORD, 1)
        leads, behind = test(">=", 0xC0), builder.lshr(test(">=", 0xB0), one)
        syllables = builder.and_(test(">=", 0xEB), test("<=", 0xED))
        syllables = builder.or_(syllables, builder.and_(test("==", 0xEA), behind))
        looks = builder.or_(test("<", 0x20), builder.and_(leads, builder.not_(syllables)))
        return context.make_tuple(builder, signature.return_type, [test("==", 0x20), looks])

    return types.UniTuple(types.uint64, 2)(array, at), generate


@intrinsic
def trailing_zeros(typing: Any, word: Any) -> Any:
    """Zero bits below the lowest bit that is set; the word is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate
