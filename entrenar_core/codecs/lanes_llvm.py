"""The functions of `lanes` as vector instructions of LLVM, which fit every processor that LLVM compiles for.

A numba intrinsic gives the types of its result and writes the instructions of its call. Vectors have 32 lanes, one for
each value of a block; LLVM cuts them into registers. Loads and stores assume no alignment.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

_LANES = 32
_I1, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
_F16, _F32 = ir.HalfType(), ir.FloatType()
_INDEX = types.intp


def _converts_halves() -> bool:
    """Whether the processor that numba compiles for turns float16 to float32 and back by itself."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    return "+f16c" in features.split(",") or triple.startswith(("aarch64", "arm64"))


NATIVE_HALVES = _converts_halves()


def _vector(element, lanes=_LANES):
    return ir.VectorType(element, lanes)


def _every(element, number, lanes=_LANES):
    """A vector of one constant."""
    return ir.Constant(_vector(element, lanes), [number] * lanes)


def _spread(builder, scalar):
    """A vector of one run-time value."""
    empty = ir.Constant(_vector(scalar.type), ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(empty, scalar, _I32(0)), empty, _every(_I32, 0))


def _chosen(builder, first, second, lanes):
    """The given lanes of two vectors laid end to end."""
    return builder.shuffle_vector(first, second, ir.Constant(_vector(_I32, len(lanes)), list(lanes)))


def _pointer(context, builder, array_type, array, row, column, pointee):
    """Where element [row, column] of an array with a contiguous last axis is."""
    fields = context.make_array(array_type)(context, builder, array)
    stride = builder.extract_value(fields.strides, 0)
    bytes_in = builder.mul(column, _I64(array_type.dtype.bitwidth // 8))
    address = builder.add(builder.ptrtoint(fields.data, _I64), builder.add(builder.mul(row, stride), bytes_in))
    return builder.inttoptr(address, pointee.as_pointer())


def _reinterpret(typingctx, value, source, target, llvm_type):
    def emit(context, builder, signature, args):
        return builder.bitcast(args[0], llvm_type)

    return target(source), emit


@intrinsic
def bits_of_float(typingctx, value):
    return _reinterpret(typingctx, value, types.float32, types.int32, _I32)


@intrinsic
def float_of_bits(typingctx, bits):
    return _reinterpret(typingctx, bits, types.int32, types.float32, _F32)


@intrinsic
def half_of_float(typingctx, value):
    def emit(context, builder, signature, args):
        return builder.zext(builder.bitcast(builder.fptrunc(args[0], _F16), _I16), _I32)

    return types.int32(types.float32), emit


@intrinsic
def float_of_half(typingctx, half):
    def emit(context, builder, signature, args):
        return builder.fpext(builder.bitcast(builder.trunc(args[0], _I16), _F16), _F32)

    return types.float32(types.int32), emit


@intrinsic
def order_extremes(typingctx, values, row, column):
    def emit(context, builder, signature, args):
        values, row, column = args
        pointer = _pointer(context, builder, signature.args[0], values, row, column, _vector(_I32))
        bits = builder.load(pointer, align=1)
        negative = builder.ashr(bits, _every(_I32, 31))
        keys = builder.xor(bits, builder.and_(negative, _every(_I32, 0x7FFFFFFF)))
        found = [_reduced(builder, keys, name) for name in ("smin", "smax")]
        return context.make_tuple(builder, signature.return_type, found)

    return types.UniTuple(types.int32, 2)(values, _INDEX, _INDEX), emit


@intrinsic
def first_of_magnitude(typingctx, values, row, column, magnitude):
    def emit(context, builder, signature, args):
        values, row, column, magnitude = args
        bits = builder.load(_pointer(context, builder, signature.args[0], values, row, column, _vector(_I32)), align=1)
        found = builder.icmp_signed("==", builder.and_(bits, _every(_I32, 0x7FFFFFFF)), _spread(builder, magnitude))
        index = builder.cttz(builder.bitcast(found, _I32), _I1(0))
        where = builder.add(column, builder.zext(index, _I64))
        return builder.load(_pointer(context, builder, signature.args[0], values, row, where, _I32), align=1)

    return types.int32(values, _INDEX, _INDEX, types.int32), emit


def _reduced(builder, vector, name):
    kind = ir.FunctionType(_I32, [vector.type])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.{name}.v{_LANES}i32")
    return builder.call(function, [vector])


def _codes(builder, moved, inverse, rounding, largest):
    """int(moved·inverse + rounding), cut to 0 ... largest (a vector)."""
    scaled = builder.fadd(builder.fmul(moved, _spread(builder, inverse)), _spread(builder, rounding))
    codes, least = builder.fptosi(scaled, _vector(_I32)), _every(_I32, 0)
    codes = builder.select(builder.icmp_signed(">", codes, least), codes, least)
    return builder.select(builder.icmp_signed("<", codes, largest), codes, largest)


def _store_codes(largest, write):
    """The body of store_codes4 and store_codes5, which differ in what they write."""

    def emit(context, builder, signature, args):
        values, row, column, minimum, inverse, rounding, packed, byte = args
        pointer = _pointer(context, builder, signature.args[0], values, row, column, _vector(_F32))
        moved = builder.fsub(builder.load(pointer, align=1), _spread(builder, minimum))
        codes = builder.trunc(_codes(builder, moved, inverse, rounding, _every(_I32, largest)), _vector(_I8))

        def target(offset, pointee):
            where = builder.add(byte, _I64(offset))
            return _pointer(context, builder, signature.args[6], packed, row, where, pointee)

        write(builder, codes, target)
        return context.get_dummy_value()

    return emit


def _write_nibbles(builder, codes, pointer):
    """16 bytes, the first 16 codes in the low nibbles; codes are below 16."""
    low = _chosen(builder, codes, codes, range(16))
    high = _chosen(builder, codes, codes, range(16, 32))
    builder.store(builder.or_(low, builder.shl(high, _every(_I8, 4, 16))), pointer, align=1)


def _write_four_bits(builder, codes, target):
    _write_nibbles(builder, codes, target(0, _vector(_I8, 16)))


def _write_five_bits(builder, codes, target):
    fifth = builder.icmp_unsigned(">", codes, _every(_I8, 15))
    builder.store(builder.bitcast(fifth, _I32), target(0, _I32), align=1)
    _write_nibbles(builder, builder.and_(codes, _every(_I8, 15)), target(4, _vector(_I8, 16)))


def _store_signature(values, packed):
    return types.void(values, _INDEX, _INDEX, types.float32, types.float32, types.float32, packed, _INDEX)


@intrinsic
def store_codes4(typingctx, values, row, column, minimum, inverse, rounding, packed, byte):
    return _store_signature(values, packed), _store_codes(15, _write_four_bits)


@intrinsic
def store_codes5(typingctx, values, row, column, minimum, inverse, rounding, packed, byte):
    return _store_signature(values, packed), _store_codes(31, _write_five_bits)


@intrinsic
def store_codes8(typingctx, values, row, column, inverse, packed, byte):
    def emit(context, builder, signature, args):
        values, row, column, inverse, packed, byte = args
        source = _pointer(context, builder, signature.args[0], values, row, column, _vector(_F32))
        scaled = builder.fmul(builder.load(source, align=1), _spread(builder, inverse))
        # Adding the largest number below a half, with the sign of x, and cutting rounds halves away from zero.
        sign = builder.and_(builder.bitcast(scaled, _vector(_I32)), _every(_I32, 0x80000000))
        nudge = builder.bitcast(builder.or_(sign, _every(_I32, 0x3EFFFFFF)), _vector(_F32))
        codes = builder.trunc(builder.fptosi(builder.fadd(scaled, nudge), _vector(_I32)), _vector(_I8))
        target = _pointer(context, builder, signature.args[4], packed, row, byte, _vector(_I8))
        builder.store(codes, target, align=1)
        return context.get_dummy_value()

    return types.void(values, _INDEX, _INDEX, types.float32, packed, _INDEX), emit


def _load_codes(read):
    """The body of load_codes4 and load_codes5, which differ in how they read 32 codes."""

    def emit(context, builder, signature, args):
        packed, row, byte, zero, scale, minimum, values, column = args

        def source(offset, pointee):
            where = builder.add(byte, _I64(offset))
            return _pointer(context, builder, signature.args[0], packed, row, where, pointee)

        codes = builder.zext(read(builder, source), _vector(_I32))
        numbers = builder.sitofp(builder.sub(codes, _spread(builder, zero)), _vector(_F32))
        scaled = builder.fadd(builder.fmul(numbers, _spread(builder, scale)), _spread(builder, minimum))
        target = _pointer(context, builder, signature.args[6], values, row, column, _vector(_F32))
        builder.store(scaled, target, align=1)
        return context.get_dummy_value()

    return emit


def _read_nibbles(builder, pointer):
    nibbles = builder.load(pointer, align=1)
    low, high = builder.and_(nibbles, _every(_I8, 15, 16)), builder.lshr(nibbles, _every(_I8, 4, 16))
    return _chosen(builder, low, high, range(32))


def _read_four_bits(builder, source):
    return _read_nibbles(builder, source(0, _vector(_I8, 16)))


def _read_five_bits(builder, source):
    fifth = builder.bitcast(builder.load(source(0, _I32), align=1), _vector(_I1))
    high = builder.select(fifth, _every(_I8, 16), _every(_I8, 0))
    return builder.or_(_read_nibbles(builder, source(4, _vector(_I8, 16))), high)


def _load_signature(packed, values):
    return types.void(packed, _INDEX, _INDEX, types.int32, types.float32, types.float32, values, _INDEX)


@intrinsic
def load_codes4(typingctx, packed, row, byte, zero, scale, minimum, values, column):
    return _load_signature(packed, values), _load_codes(_read_four_bits)


@intrinsic
def load_codes5(typingctx, packed, row, byte, zero, scale, minimum, values, column):
    return _load_signature(packed, values), _load_codes(_read_five_bits)


@intrinsic
def load_codes8(typingctx, packed, row, byte, scale, values, column):
    def emit(context, builder, signature, args):
        packed, row, byte, scale, values, column = args
        source = _pointer(context, builder, signature.args[0], packed, row, byte, _vector(_I8))
        numbers = builder.sitofp(builder.load(source, align=1), _vector(_F32))
        target = _pointer(context, builder, signature.args[4], values, row, column, _vector(_F32))
        builder.store(builder.fmul(numbers, _spread(builder, scale)), target, align=1)
        return context.get_dummy_value()

    return types.void(packed, _INDEX, _INDEX, types.float32, values, _INDEX), emit


@intrinsic
def store_weights(typingctx, values, row, column, importance, mean_square, weights):
    def emit(context, builder, signature, args):
        values, row, column, importance, mean_square, weights = args
        pointer = _pointer(context, builder, signature.args[0], values, row, column, _vector(_F32))
        x = builder.load(pointer, align=1)
        root = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(x.type, [x.type]), f"llvm.sqrt.v{_LANES}f32"
        )
        spread = builder.call(root, [builder.fadd(_spread(builder, mean_square), builder.fmul(x, x))])
        counts = _flat_pointer(context, builder, signature.args[3], importance, column)
        found = builder.fmul(builder.load(counts, align=1), spread)
        builder.store(found, _flat_pointer(context, builder, signature.args[5], weights, _I64(0)), align=1)
        return _sum(builder, found)

    return types.float32(values, _INDEX, _INDEX, importance, types.float32, weights), emit


@intrinsic
def sum_of_squares(typingctx, values, row, column):
    def emit(context, builder, signature, args):
        values, row, column = args
        pointer = _pointer(context, builder, signature.args[0], values, row, column, _vector(_F32))
        x = builder.load(pointer, align=1)
        return _sum(builder, builder.fmul(x, x))

    return types.float32(values, _INDEX, _INDEX), emit


@intrinsic
def weighted_sum(typingctx, values, row, column, minimum, weights):
    def emit(context, builder, signature, args):
        values, row, column, minimum, weights = args
        pointer = _pointer(context, builder, signature.args[0], values, row, column, _vector(_F32))
        moved = builder.fsub(builder.load(pointer, align=1), _spread(builder, minimum))
        w = builder.load(_flat_pointer(context, builder, signature.args[4], weights, _I64(0)), align=1)
        return _sum(builder, builder.fmul(w, moved))

    return types.float32(values, _INDEX, _INDEX, types.float32, weights), emit


@intrinsic
def fit_sums(typingctx, values, row, column, minimum, inverse, rounding, zero, largest, weights):
    def emit(context, builder, signature, args):
        values, row, column, minimum, inverse, rounding, zero, largest, weights = args
        pointer = _pointer(context, builder, signature.args[0], values, row, column, _vector(_F32))
        moved = builder.fsub(builder.load(pointer, align=1), _spread(builder, minimum))
        codes = _codes(builder, moved, inverse, rounding, _spread(builder, largest))
        levels = builder.sitofp(builder.sub(codes, _spread(builder, zero)), _vector(_F32))
        w = builder.load(_flat_pointer(context, builder, signature.args[8], weights, _I64(0)), align=1)
        weighted = builder.fmul(w, levels)
        found = [weighted, builder.fmul(weighted, levels), builder.fmul(weighted, moved)]
        return context.make_tuple(builder, signature.return_type, [_sum(builder, vector) for vector in found])

    numbers = [types.float32] * 3 + [types.int32] * 2
    return types.UniTuple(types.float32, 3)(values, _INDEX, _INDEX, *numbers, weights), emit


@intrinsic
def line_error(typingctx, values, row, column, minimum, scale, inverse, rounding, zero, largest, weights, unit):
    def emit(context, builder, signature, args):
        values, row, column, minimum, scale, inverse, rounding, zero, largest, weights, unit = args
        pointer = _pointer(context, builder, signature.args[0], values, row, column, _vector(_F32))
        x, low = builder.load(pointer, align=1), _spread(builder, minimum)
        codes = _codes(builder, builder.fsub(x, low), inverse, rounding, _spread(builder, largest))
        levels = builder.sitofp(builder.sub(codes, _spread(builder, zero)), _vector(_F32))
        decoded = builder.fadd(builder.fmul(levels, _spread(builder, scale)), low)
        lost = builder.fmul(builder.fsub(decoded, x), _spread(builder, unit))
        w = builder.load(_flat_pointer(context, builder, signature.args[9], weights, _I64(0)), align=1)
        return _sum(builder, builder.fmul(w, builder.fmul(lost, lost)))

    numbers = [types.float32] * 4 + [types.int32] * 2
    return types.float32(values, _INDEX, _INDEX, *numbers, weights, types.float32), emit


def _flat_pointer(context, builder, array_type, array, index):
    """Where element [index] of a contiguous array begins 32 float32 values."""
    fields = context.make_array(array_type)(context, builder, array)
    address = builder.add(builder.ptrtoint(fields.data, _I64), builder.mul(index, _I64(4)))
    return builder.inttoptr(address, _vector(_F32).as_pointer())


def _sum(builder, vector):
    """A sum of 32 lanes by halves, always in this order."""
    lanes = _LANES
    while lanes > 1:
        lanes //= 2
        low, high = (_chosen(builder, vector, vector, range(start, start + lanes)) for start in (0, lanes))
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, _I32(0))
