"""A filter of system calls for this process and whatever comes of it (Linux, x86-64 and ARM64).

Refused: other processes (fork, exec, signals, ptrace), sockets, the kernel's administration, memory
that no limit counts, and, where nothing else protects the files, every call that changes one.
It is a belt beside the namespaces, and all there is where they are not to be had.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

_X86, _ARM = 0xC000003E, 0xC00000B7
_ARCHITECTURES = {"x86_64": (_X86, 0), "aarch64": (_ARM, 1)}

# Numbers for (x86-64, ARM64); None where a call does not exist. From the kernel's unistd headers.
_PROCESSES = {
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
}
_NETWORK = {"socket": (41, 198)}
_KERNEL = {
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "setns": (308, 268),
    "unshare": (272, 97),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None),
    "ioperm": (173, None),
    "syslog": (103, 116),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "modify_ldt": (154, None),
    "vhangup": (153, 58),
    # Memory that outlives the process or that no limit counts.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
}
_FILES = {
    "creat": (85, None),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "truncate": (76, 45),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "openat2": (437, 437),
}
_OPEN, _OPENAT, _CLONE, _CLONE3 = (2, None), (257, 56), (56, 220), (435, 435)
_SIGNALS = ((62, 129), (200, 130), (234, 131))  # kill, tkill, tgkill: of this process only
_PRLIMIT, _MMAP = (302, 261), (9, 222)
_NEWEST = 451
"""Calls with a higher number did not exist when this list was made: they are unknown here."""

_CLONE_THREAD = 0x00010000
_SHARED_ANONYMOUS = 0x21
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_LOAD, _EQUAL, _GREATER, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x54, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000


def available() -> bool:
    """Whether this machine has such filters and their numbers are known here."""
    return platform.system() == "Linux" and platform.machine() in _ARCHITECTURES


def install(*, files: bool) -> None:
    """Filter this process from now on. ``files``: refuse changes to files too. Raises ``OSError``."""
    program = _program(os.getpid(), files)
    libc = ctypes.CDLL(None, use_errno=True)
    data = ctypes.create_string_buffer(program)

    class Filter(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    head = Filter(len(program) // 8, ctypes.addressof(data))
    no_new_privileges, set_seccomp, mode_filter = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(
        set_seccomp, mode_filter, ctypes.byref(head), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "the filter of system calls was refused")


def _program(pid: int, files: bool) -> bytes:
    """Classic BPF over the kernel's ``struct seccomp_data``: eight bytes an instruction."""
    architecture, column = _ARCHITECTURES[platform.machine()]
    code = [_op(_LOAD, 4), _op(_EQUAL, architecture, 1, 0), _op(_RETURN, _KILL), _op(_LOAD, 0)]
    groups = [_PROCESSES, _NETWORK, _KERNEL, *([_FILES] if files else [])]
    for numbers in (numbers for group in groups for numbers in group.values()):
        code += _when(numbers[column], [_op(_RETURN, _ERROR | errno.EPERM)])
    code += _when(_CLONE3[column], [_op(_RETURN, _ERROR | errno.ENOSYS)])
    code += _when(_CLONE[column], _refuse_unless(0, _ANY_BIT, _CLONE_THREAD))
    for numbers in _SIGNALS:
        code += _when(numbers[column], _refuse_unless(0, _EQUAL, pid))
    own = [
        _op(_LOAD, 16),
        _op(_EQUAL, 0, 2, 0),
        _op(_EQUAL, pid, 1, 0),
        _op(_RETURN, _ERROR | errno.EPERM),
    ]
    code += _when(_PRLIMIT[column], [*own, _op(_RETURN, _ALLOW)])
    shared = [_op(_LOAD, 16 + 3 * 8), _op(_AND, _SHARED_ANONYMOUS), _op(_EQUAL, _SHARED_ANONYMOUS, 0, 1)]
    code += _when(_MMAP[column], [*shared, _op(_RETURN, _ERROR | errno.ENOMEM), _op(_RETURN, _ALLOW)])
    if files:
        for numbers, argument in ((_OPEN, 1), (_OPENAT, 2)):
            flags = [_op(_LOAD, 16 + 8 * argument), _op(_ANY_BIT, _WRITES, 0, 1)]
            code += _when(
                numbers[column], [*flags, _op(_RETURN, _ERROR | errno.EROFS), _op(_RETURN, _ALLOW)]
            )
    # The x32 calls of x86-64 have a bit above all known numbers, so they are unknown too.
    code += [_op(_GREATER, _NEWEST, 0, 1), _op(_RETURN, _ERROR | errno.ENOSYS), _op(_RETURN, _ALLOW)]
    return b"".join(code)


def _op(code: int, value: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, jump_true, jump_false, value)


def _when(number: int | None, body: list[bytes]) -> list[bytes]:
    """``body``, which returns, if the call has this number. The number stays loaded otherwise."""
    return [] if number is None else [_op(_EQUAL, number, 0, len(body)), *body]


def _refuse_unless(argument: int, test: int, value: int) -> list[bytes]:
    return [
        _op(_LOAD, 16 + 8 * argument),
        _op(test, value, 1, 0),
        _op(_RETURN, _ERROR | errno.EPERM),
        _op(_RETURN, _ALLOW),
    ]
