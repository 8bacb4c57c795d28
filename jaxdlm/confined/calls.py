"""The few system calls that a child still needs, and a filter in the kernel that refuses every other one (Linux)."""

import ctypes
import os
import struct
import sys

NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2  # of prctl(2)
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050001, 0x80000000  # answers of a filter; REFUSE is EPERM
# Of each kind of machine: its number in seccomp(2), and the calls without which a running interpreter does not go on:
# reading and writing what is open, memory, waiting for itself, clocks, random bytes, its own signals, its end.
CALLS = {
    "x86_64": (0xC000003E, (0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 19, 20, 24, 25, 28, 35, 39, 60, 96, 98, 131, 186,
                            201, 202, 219, 228, 229, 230, 231, 318, 334)),
    "aarch64": (0xC00000B7, (57, 62, 63, 64, 65, 66, 80, 93, 94, 98, 99, 101, 113, 114, 115, 124, 128, 132, 134, 135,
                             139, 165, 169, 172, 178, 214, 215, 216, 222, 226, 233, 278, 293)),
}  # fmt: skip


def restrict() -> bool:
    """From now on the kernel refuses every call that is not in CALLS. Whether it does."""
    machine, calls = CALLS.get(os.uname().machine if sys.platform == "linux" else "", (0, ()))
    if not calls or struct.calcsize("P") != 8:
        return False

    def step(code: int, yes: int, no: int, value: int) -> bytes:
        return struct.pack("=HBBI", code, yes, no, value)

    load, equal, end = 0x20, 0x15, 0x06  # of the filter's machine: a word of the call, a jump, the answer
    program = [step(load, 0, 0, 4), step(equal, 1, 0, machine), step(end, 0, 0, KILL), step(load, 0, 0, 0)]
    program += [step(equal, len(calls) - at, 0, call) for at, call in enumerate(calls)]
    program += [step(end, 0, 0, REFUSE), step(end, 0, 0, ALLOW)]
    code = ctypes.create_string_buffer(b"".join(program))
    told = struct.pack("=HxxxxxxQ", len(program), ctypes.addressof(code))
    control = ctypes.CDLL(None).prctl
    control.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    if control(NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        return False
    told_at = ctypes.create_string_buffer(told)
    return control(SECCOMP, FILTER, ctypes.addressof(told_at), 0, 0) == 0
