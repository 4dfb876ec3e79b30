"""The filter of system calls, run by a small interpreter of its own, for both kinds of machine."""

import errno
import mmap
import os
import platform
import struct

import pytest

from adderlab.publish.inside import seccomp

ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
PID = 4321
ALLOW = "allow"


def decide(program: bytes, architecture: int, number: int, arguments: tuple[int, ...] = ()) -> str:
    """What the kernel would do: "allow", "kill" or the name of an error. Classic BPF."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    code = [struct.unpack_from("<HBBI", program, i) for i in range(0, len(program), 8)]
    position = value = 0
    while True:
        operation, jump_true, jump_false, k = code[position]
        position += 1
        if operation == 0x20:
            (value,) = struct.unpack_from("<I", data, k)
        elif operation == 0x54:
            value &= k
        elif operation in (0x15, 0x25, 0x45):
            holds = {0x15: value == k, 0x25: value > k, 0x45: bool(value & k)}[operation]
            position += jump_true if holds else jump_false
        else:
            assert operation == 0x06
            if k == 0x7FFF0000:
                return ALLOW
            return "kill" if k == 0x80000000 else errno.errorcode[k & 0xFFFF]


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(platform, "machine", lambda: request.param)
    return request.param


def column(machine: str) -> int:
    return ["x86_64", "aarch64"].index(machine)


@pytest.mark.parametrize("files", [False, True])
def test_everything_listed_is_refused(machine: str, files: bool) -> None:
    program = seccomp._program(PID, files)
    for group in (seccomp._PROCESSES, seccomp._NETWORK, seccomp._KERNEL):
        for name, numbers in group.items():
            number = numbers[column(machine)]
            if number is not None:
                assert decide(program, ARCHITECTURE[machine], number) == "EPERM", name
    for name, numbers in seccomp._FILES.items():
        number = numbers[column(machine)]
        if number is not None:
            wanted = "EPERM" if files else ALLOW
            assert decide(program, ARCHITECTURE[machine], number) == wanted, name


def test_ordinary_calls_pass(machine: str) -> None:
    ordinary = {
        "x86_64": {"read": 0, "write": 1, "close": 3, "mprotect": 10, "futex": 202, "getrandom": 318},
        "aarch64": {
            "read": 63,
            "write": 64,
            "close": 57,
            "mprotect": 226,
            "futex": 98,
            "getrandom": 278,
        },
    }
    program = seccomp._program(PID, True)
    for name, number in ordinary[machine].items():
        assert decide(program, ARCHITECTURE[machine], number) == ALLOW, name


def test_threads_may_be_started_and_processes_not(machine: str) -> None:
    program, clone = seccomp._program(PID, False), seccomp._CLONE[column(machine)]
    thread = 0x003D0F00  # what pthread_create asks for
    assert decide(program, ARCHITECTURE[machine], clone, (thread,)) == ALLOW
    assert decide(program, ARCHITECTURE[machine], clone, (17,)) == "EPERM"
    assert decide(program, ARCHITECTURE[machine], seccomp._CLONE3[column(machine)]) == "ENOSYS"


def test_signals_and_limits_only_for_itself(machine: str) -> None:
    program = seccomp._program(PID, False)
    for numbers in (*seccomp._SIGNALS, seccomp._PRLIMIT):
        number = numbers[column(machine)]
        assert decide(program, ARCHITECTURE[machine], number, (PID, 9)) == ALLOW
        assert decide(program, ARCHITECTURE[machine], number, (PID + 1, 9)) == "EPERM"
        minus_one = decide(program, ARCHITECTURE[machine], number, (2**64 - 1, 9))
        assert minus_one == "EPERM"
    assert decide(program, ARCHITECTURE[machine], seccomp._PRLIMIT[column(machine)], (0,)) == ALLOW


def test_memory_that_no_limit_counts(machine: str) -> None:
    program, number = seccomp._program(PID, False), seccomp._MMAP[column(machine)]

    def mapping(flags: int) -> str:
        return decide(program, ARCHITECTURE[machine], number, (0, 4096, 3, flags))

    assert mapping(mmap.MAP_SHARED | mmap.MAP_ANONYMOUS) == "ENOMEM"
    assert mapping(mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) == ALLOW
    assert mapping(mmap.MAP_SHARED) == ALLOW
    assert mapping(mmap.MAP_PRIVATE) == ALLOW


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (os.O_RDONLY | os.O_CLOEXEC, ALLOW),
        (os.O_RDONLY | os.O_DIRECTORY, ALLOW),
        (os.O_WRONLY, "EROFS"),
        (os.O_RDWR, "EROFS"),
        (os.O_RDONLY | os.O_CREAT, "EROFS"),
        (os.O_RDONLY | os.O_TRUNC, "EROFS"),
    ],
)
def test_files_open_for_reading_only(machine: str, flags: int, wanted: str) -> None:
    for numbers, arguments in ((seccomp._OPENAT, (3, 0, flags)), (seccomp._OPEN, (0, flags))):
        number = numbers[column(machine)]
        if number is None:
            continue
        strict, mild = (seccomp._program(PID, files) for files in (True, False))
        assert decide(strict, ARCHITECTURE[machine], number, arguments) == wanted
        assert decide(mild, ARCHITECTURE[machine], number, arguments) == ALLOW


def test_unknown_calls_and_other_machines(machine: str) -> None:
    program = seccomp._program(PID, False)
    for number in (452, 999, 0x40000000 | 1, 2**32 - 1):
        assert decide(program, ARCHITECTURE[machine], number) == "ENOSYS"
    assert decide(program, 0x40000003, 1) == "kill"  # 32-bit calls on a 64-bit machine


def test_it_says_where_it_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert not seccomp.available()
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert seccomp.available()
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert not seccomp.available()
