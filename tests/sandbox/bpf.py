"""Classic BPF as seccomp has it: checks a program as the kernel does, and runs it.

After ``bpf_check_classic`` (net/core/filter.c) and ``seccomp_check_filter`` (kernel/seccomp.c) of Linux 6.18.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

LARGEST = 4096
DATA = struct.Struct("<IIQ6Q")  # struct seccomp_data: nr, arch, instruction_pointer, args
WORD = 0xFFFFFFFF

LD_ABS, LD_LEN, LDX_LEN, RET_K, RET_A, JA, TAX, TXA = 0x20, 0x80, 0x81, 0x06, 0x16, 0x05, 0x07, 0x87
LD_IMM, LDX_IMM, LD_MEM, LDX_MEM, ST, STX = 0x00, 0x01, 0x60, 0x61, 0x02, 0x03

JUMPS: dict[int, Callable[[int, int], object]] = {
    0x15: operator.eq,
    0x25: operator.gt,
    0x35: operator.ge,
    0x45: operator.and_,
}
"""By an operand in the instruction; with bit 8, the X register."""

ALU: dict[int, Callable[[int, int], int]] = {
    0x04: operator.add,
    0x14: operator.sub,
    0x24: operator.mul,
    0x34: operator.floordiv,
    0x44: operator.or_,
    0x54: operator.and_,
    0x64: operator.lshift,
    0x74: operator.rshift,
    0xA4: operator.xor,
}
X = 0x08
NEG = 0x84
PLAIN = {LD_ABS, LD_LEN, LDX_LEN, RET_K, RET_A, JA, TAX, TXA, LD_IMM, LDX_IMM, LD_MEM, LDX_MEM, ST, STX, NEG}
KNOWN = PLAIN | {code | x for code in (*JUMPS, *ALU) for x in (0, X)}


class Instruction(NamedTuple):
    code: int
    jt: int
    jf: int
    k: int


@dataclass(frozen=True)
class Run:
    """What a program answered, in how many instructions, and whether it looked at anything but number and machine."""

    action: int
    steps: int
    looked_at_arguments: bool


class InvalidProgramError(Exception):
    """The kernel would refuse it with ``EINVAL``."""


def decode(program: bytes) -> list[Instruction]:
    return [Instruction(*fields) for fields in struct.iter_unpack("<HBBI", program)]


def check(program: bytes) -> list[Instruction]:
    code = decode(program)
    if not 0 < len(code) <= LARGEST:
        raise InvalidProgramError(f"{len(code)} instructions")
    for place, each in enumerate(code):
        left = len(code) - place - 1
        if each.code not in KNOWN:
            raise InvalidProgramError(f"{place}: unknown instruction {each}")
        if each.code == LD_ABS and (each.k % 4 or each.k >= DATA.size):
            raise InvalidProgramError(f"{place}: load from {each.k}")
        if each.code in {LD_MEM, LDX_MEM, ST, STX} and each.k >= 16:
            raise InvalidProgramError(f"{place}: memory word {each.k}")
        if each.code in {0x34, 0x64, 0x74} and (each.k == 0 if each.code == 0x34 else each.k >= 32):
            raise InvalidProgramError(f"{place}: operand {each.k}")
        if each.code == JA and each.k >= left:
            raise InvalidProgramError(f"{place}: jump out of the program")
        if each.code & ~X in JUMPS and max(each.jt, each.jf) >= left:
            raise InvalidProgramError(f"{place}: jump out of the program")
    if code[-1].code not in {RET_K, RET_A}:
        raise InvalidProgramError("does not end with an answer")
    return code


def unreachable(code: Sequence[Instruction]) -> set[int]:
    """Places that no path leads to. The kernel does not mind them."""
    reached: set[int] = set()
    queue = [0]
    while queue:
        place = queue.pop()
        if place in reached:
            continue
        reached.add(place)
        each = code[place]
        if each.code == JA:
            queue.append(place + 1 + each.k)
        elif each.code & ~X in JUMPS:
            queue += [place + 1 + each.jt, place + 1 + each.jf]
        elif each.code not in {RET_K, RET_A}:
            queue.append(place + 1)
    return set(range(len(code))) - reached


def run(code: Sequence[Instruction], number: int, arch: int, arguments: Sequence[int] = ()) -> Run:
    """Ends for every program that passed :func:`check`, as jumps lead forward only."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    words = struct.unpack("<16I", DATA.pack(number, arch, 0x7F0012345678, *padded))
    a = x = place = steps = 0
    memory = [0] * 16
    looked = False
    while True:
        op, jt, jf, k = code[place]
        place += 1
        steps += 1
        if op == LD_ABS:
            a = words[k // 4]
            looked = looked or k >= 8
        elif op & ~X in JUMPS:
            place += jt if JUMPS[op & ~X](a, x if op & X else k) else jf
        elif op in (RET_K, RET_A):
            return Run(k if op == RET_K else a, steps, looked)
        elif op == JA:
            place += k
        elif op & ~X in ALU:
            operand = x if op & X else k
            if op & ~X == 0x34 and operand == 0:
                return Run(0, steps, looked)
            a = ALU[op & ~X](a, operand) & WORD
        else:
            a, x = _move(op, k, a, x, memory)


def _move(op: int, k: int, a: int, x: int, memory: list[int]) -> tuple[int, int]:
    """What instructions that neither decide nor compute leave in A and X."""
    if op in {ST, STX}:
        memory[k] = a if op == ST else x
        return a, x
    loaded = {LD_IMM: k, LD_LEN: DATA.size, LD_MEM: memory[k & 15], TXA: x, NEG: -a & WORD}
    if op in loaded:
        return loaded[op], x
    return a, {LDX_IMM: k, LDX_LEN: DATA.size, LDX_MEM: memory[k & 15], TAX: a}[op]
