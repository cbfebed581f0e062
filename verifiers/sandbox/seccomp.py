"""The system-call filter of every confined tier, assembled by hand (classic BPF, see seccomp(2)).

It is a list of what a judged program may not do, beyond what file permissions, Landlock or namespaces
already forbid: sockets, signals to others, other processes' memory, new processes and programs, changes of
file attributes (which no Landlock version covers), the kernel's many side doors. A system call newer than
the list gets ENOSYS. So a submission may compute, read the standard library, and start threads.
"""

from __future__ import annotations

import errno
import functools
import platform
import struct

LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
X32_BIT = 0x40000000

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
GROUP = 12
NEWEST = 462
"""The highest number whose system call is known here (mseal)."""

_DENIED = """
socket 41 198; connect 42 203; accept 43 202; accept4 288 242; bind 49 200; listen 50 201; sendmsg 46 211; sendmmsg 307 269
kill 62 129; tkill 200 130; tgkill 234 131; rt_sigqueueinfo 129 138; rt_tgsigqueueinfo 297 240
pidfd_send_signal 424 424; pidfd_open 434 434; pidfd_getfd 438 438; process_madvise 440 440; process_mrelease 448 448
ptrace 101 117; process_vm_readv 310 270; process_vm_writev 311 271; kcmp 312 272; get_robust_list 274 100
fork 57 -; vfork 58 -; execve 59 221; execveat 322 281; unshare 272 97; setns 308 268
chmod 90 -; fchmod 91 52; fchmodat 268 53; fchmodat2 452 452; chown 92 -; fchown 93 55; lchown 94 -; fchownat 260 54
setxattr 188 5; lsetxattr 189 6; fsetxattr 190 7; removexattr 197 14; lremovexattr 198 15; fremovexattr 199 16
utime 132 -; utimes 235 -; futimesat 261 -; utimensat 280 88; truncate 76 45; openat2 437 437
mkdir 83 -; mkdirat 258 34; rmdir 84 -; unlink 87 -; unlinkat 263 35; rename 82 -; renameat 264 38; renameat2 316 276
link 86 -; linkat 265 37; symlink 88 -; symlinkat 266 36; mknod 133 -; mknodat 259 33; memfd_create 319 279; memfd_secret 447 447
mount 165 40; umount2 166 39; pivot_root 155 41; chroot 161 51; move_mount 429 429; open_tree 428 428; fsopen 430 430
fsconfig 431 431; fsmount 432 432; fspick 433 433; mount_setattr 442 442; quotactl 179 60; quotactl_fd 443 443
swapon 167 224; swapoff 168 225; reboot 169 142; kexec_load 246 104; kexec_file_load 320 294; acct 163 89; syslog 103 116
init_module 175 105; finit_module 313 273; delete_module 176 106; sethostname 170 161; setdomainname 171 162; vhangup 153 58
settimeofday 164 170; clock_settime 227 112; adjtimex 159 171; clock_adjtime 305 266; iopl 172 -; ioperm 173 -; modify_ldt 154 -
bpf 321 280; perf_event_open 298 241; userfaultfd 323 282; io_uring_setup 425 425; io_uring_enter 426 426; io_uring_register 427 427
add_key 248 217; request_key 249 218; keyctl 250 219; name_to_handle_at 303 264; open_by_handle_at 304 265; lookup_dcookie 212 18
shmget 29 194; shmat 30 196; shmctl 31 195; msgget 68 186; msgsnd 69 189; msgrcv 70 188; msgctl 71 187; semget 64 190; semop 65 193
semctl 66 191; semtimedop 220 192; mq_open 240 180; mq_unlink 241 181; inotify_init 253 -; inotify_init1 294 26; fanotify_init 300 262
setpriority 141 140; ioprio_set 251 30; sched_setaffinity 203 122; sched_setparam 142 118; sched_setscheduler 144 119
sched_setattr 314 274; migrate_pages 256 238; move_pages 279 239; mbind 237 235; set_mempolicy 238 237; personality 135 92
"""

_CLONE, _CLONE3, _PRCTL, _FCNTL, _IOCTL, _PRLIMIT, _SOCKETPAIR = (
    (56, 220),
    (435, 435),
    (157, 167),
    (72, 25),
    (16, 29),
    (302, 261),
    (53, 199),
)
_OPEN, _OPENAT = (2, None), (257, 56)
_THREAD = 0x10000  # CLONE_THREAD
_TRUNCATE, _ACCESS = 0o1000, 0o3
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX, _F_NOTIFY = 8, 10, 15, 1026
_FIOSETOWN, _SIOCSPGRP, _TIOCSTI, _TIOCLINUX, _TIOCSETD = 0x8901, 0x8902, 0x5412, 0x541C, 0x5423
_UNIX, _STREAM = 1, 1

Instruction = tuple[int, int, int, int]


def _load(offset: int) -> Instruction:
    return LOAD, 0, 0, offset


def _argument(index: int) -> Instruction:
    return _load(ARGUMENTS + 8 * index)  # the low half; every value tested here is an int of the kernel's interface


def _error(code: int) -> Instruction:
    return RETURN, 0, 0, ERRNO | code


def _deny_values(index: int, values: tuple[int, ...]) -> list[Instruction]:
    rules = [_argument(index)]
    for value in values:
        rules += [(JUMP_EQUAL, 0, 1, value), _error(errno.EPERM)]
    return [*rules, (RETURN, 0, 0, ALLOW)]


def _truncation(index: int) -> list[Instruction]:
    """Deny O_TRUNC without write access: DAC alone would rule there, and Landlock below version 3 does not look."""
    return [
        _argument(index),
        (JUMP_ANY_BIT, 1, 0, _TRUNCATE),
        (RETURN, 0, 0, ALLOW),
        (AND, 0, 0, _ACCESS),
        (JUMP_EQUAL, 1, 0, 1),
        (JUMP_EQUAL, 0, 1, 2),
        (RETURN, 0, 0, ALLOW),
        _error(errno.EPERM),
    ]


def _conditions(machine: int) -> list[tuple[int, list[Instruction]]]:
    """Return ``(number, rules)`` of the system calls that depend on their arguments."""
    table = (
        (_CLONE, [_argument(0), (JUMP_ANY_BIT, 1, 0, _THREAD), _error(errno.EPERM), (RETURN, 0, 0, ALLOW)]),
        (_CLONE3, [_error(errno.ENOSYS)]),  # its flags lie in memory; the C library falls back to clone
        (_PRCTL, _deny_values(0, (1,))),  # PR_SET_PDEATHSIG, which ends it with its zygote
        (_FCNTL, _deny_values(1, (_F_SETOWN, _F_SETSIG, _F_SETOWN_EX, _F_NOTIFY))),
        (_IOCTL, _deny_values(1, (_FIOSETOWN, _SIOCSPGRP, _TIOCSTI, _TIOCLINUX, _TIOCSETD))),
        (_PRLIMIT, [_argument(0), (JUMP_EQUAL, 1, 0, 0), _error(errno.EPERM), (RETURN, 0, 0, ALLOW)]),
        (
            _SOCKETPAIR,  # asyncio wakes itself through one; streams have no other address to send to
            [
                _argument(0),
                (JUMP_EQUAL, 1, 0, _UNIX),
                _error(errno.EPERM),
                _argument(1),
                (AND, 0, 0, 0xF),
                (JUMP_EQUAL, 1, 0, _STREAM),
                _error(errno.EPERM),
                (RETURN, 0, 0, ALLOW),
            ],
        ),
        (_OPEN, _truncation(1)),
        (_OPENAT, _truncation(2)),
    )
    return [(number, rules) for numbers, rules in table if (number := numbers[machine]) is not None]


def denied(machine: str = "") -> dict[str, int]:
    """Return name → number of the calls that are denied whatever their arguments, on ``machine`` (default: this one)."""
    column = ARCHITECTURES[machine or platform.machine()][1]
    entries = [entry.split() for line in _DENIED.strip().splitlines() for entry in line.split(";")]
    return {name: int(numbers[column]) for name, *numbers in entries if numbers[column] != "-"}


def supported() -> bool:
    """Return whether the filter knows this processor."""
    return platform.machine() in ARCHITECTURES


@functools.cache
def assemble(machine: str = "") -> bytes:
    """Return the filter as an array of ``struct sock_filter``."""
    name = machine or platform.machine()
    audit, column = ARCHITECTURES[name]
    code: list[Instruction] = [_load(ARCHITECTURE), (JUMP_EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL), _load(NUMBER)]
    code += [(JUMP_AT_LEAST, 0, 1, X32_BIT), _error(errno.EPERM), (JUMP_AT_LEAST, 0, 1, NEWEST + 1), _error(errno.ENOSYS)]
    numbers = sorted(denied(name).values())
    for start in range(0, len(numbers), GROUP):  # the kernel runs the filter once per system call when it is installed: keep it short
        group = numbers[start : start + GROUP]
        last = len(group) - 1
        code.append((JUMP_AT_LEAST, len(group) + 1, 0, group[-1] + 1))
        code += [(JUMP_EQUAL, last - i, int(i == last), number) for i, number in enumerate(group)]
        code.append(_error(errno.EPERM))
    for number, rules in _conditions(column):
        code += [(JUMP_EQUAL, 0, len(rules), number), *rules]
    code.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
