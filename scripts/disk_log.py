"""A disk that logs every write and flush, and the states that a power cut may leave of it.

`Disk` serves an image as one regular file through FUSE, to be mounted through a loop device like any disk. It speaks to
/dev/fuse directly, so that nothing needs to be installed. Every write and flush goes into a log, in the order in which
the kernel sends them. The same process reads the acknowledgements of the writers that work on the disk, and logs them in
between: before it answers a request, it takes all acknowledgements that were printed. So an acknowledgement is in the
log behind every write and flush that it may depend on, and a cut behind it must keep the batch.

`Cuts` makes the state that a cut at any place may leave from image and log: all writes before the last flush, and a
random part of the later ones, some of them torn.

Needs no device-mapper (dm-log-writes) and no nbd, which many kernels lack; FUSE and loop devices are everywhere.
"""

import os
import select
import struct
import subprocess
import sys

# From linux/fuse.h: sizes, and numbers of the few requests that a disk of one file receives.
IN_HEADER = struct.Struct("<IIQQIIIHH")
OUT_HEADER = struct.Struct("<IiQ")
GETATTR, SETATTR, OPEN, READ, WRITE, STATFS, RELEASE, FSYNC, FLUSH, INIT, INTERRUPT, DESTROY = (
    3,
    4,
    14,
    15,
    16,
    17,
    18,
    20,
    25,
    26,
    36,
    38,
)
FORGET, BATCH_FORGET = 2, 42
FOPEN_DIRECT_IO = 1
BIG_WRITES, MAX_PAGES = 1 << 5, 1 << 22
MAX_WRITE = 1 << 20
EIO, ENOSYS = 5, 38

# One record of the log: its kind and, for a write, offset and length. The bytes follow.
RECORD = struct.Struct("<cQI")

# Unit that a disk writes whole or not at all. Disks with units of 512 bytes are hardly made any more, and
# file systems do not survive them: XFS notices a metadata block that is torn inside, but its journal passes
# over it (the first sector says that the block is newer), and ext4 does not survive a torn superblock of 1024
# bytes. Torn at 512, 13 of 18 rounds of 80 cuts around an unmounting left an XFS that could not be mounted;
# torn at 4096, none of 14. The simulated disk of vecstore/tests/sim tears files, which no file system
# protects, at every byte.
SECTOR = 4096


class Disk:
    """`with Disk(image, log, mountpoint, acks) as disk:` serves `image` under `mountpoint`, an existing empty file,
    from a process of its own. `acks` is the reading end of a pipe; each line read from it is an acknowledgement.
    `bad` lists ranges of unreadable bytes."""

    def __init__(self, image, log, mountpoint, acks, bad=()):
        self.mountpoint = mountpoint
        fuse = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={fuse},rootmode=100000,user_id=0,group_id=0"
        subprocess.run(
            ["mount", "-i", "-t", "fuse", "-o", options, "disk-log", mountpoint], pass_fds=[fuse], check=True
        )
        # The server ends when its disk is unmounted, or when this process ends and thereby closes this pipe.
        life, self.alive = os.pipe()
        self.server = os.fork()
        if self.server == 0:
            status = 1
            try:
                os.close(self.alive)
                serve(fuse, image, log, acks, life, bad)
                status = 0
            except BaseException as error:  # after any error, the child must end here
                print(f"disk-log: {error!r}", file=sys.stderr, flush=True)
            os._exit(status)
        os.close(fuse)
        os.close(life)
        os.close(acks)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", self.mountpoint], check=False)
        os.close(self.alive)
        _, status = os.waitpid(self.server, 0)
        if status != 0:
            raise RuntimeError(f"the process that served {self.mountpoint} ended with status {status}")


def serve(fuse, image, log, acks, life, bad):
    """Answers requests until the disk is unmounted or the other end of `life` is closed."""
    image = os.open(image, os.O_RDWR)
    size = os.fstat(image).st_size
    attributes = struct.pack(
        "<QII6Q10I", 1, 0, 0, 1, size, size // 512, 0, 0, 0, 0, 0, 0, 0o100600, 1, 0, 0, 0, 4096, 0
    )
    with open(log, "wb", buffering=1 << 20) as log:
        waiting = select.poll()
        for descriptor in (fuse, acks, life):
            waiting.register(descriptor, select.POLLIN)
        while True:
            ready = dict(waiting.poll())
            # Acknowledgements come first: a printed one must precede all later requests in the log.
            if acks in ready:
                came = os.read(acks, 65536)
                log.write(RECORD.pack(b"A", 0, 0) * came.count(b"\n"))
                if not came:
                    waiting.unregister(acks)
                continue
            if fuse not in ready:
                return
            try:
                request = os.read(fuse, MAX_WRITE + 65536)
            except OSError:
                return  # unmounted
            _, opcode, unique, *_ = IN_HEADER.unpack_from(request)
            body = memoryview(request)[IN_HEADER.size :]
            error, answer = 0, b""
            if opcode == INIT:
                _, minor, readahead, flags = struct.unpack_from("<4I", body)
                flags &= BIG_WRITES | MAX_PAGES
                answer = struct.pack(
                    "<4IHHIIHHI28x",
                    7,
                    min(minor, 31),
                    readahead,
                    flags,
                    16,
                    12,
                    MAX_WRITE,
                    1,
                    MAX_WRITE // 4096,
                    0,
                    0,
                )
            elif opcode == WRITE:
                _, offset, length = struct.unpack_from("<QQI", body)
                bytes_ = body[40 : 40 + length]
                log.write(RECORD.pack(b"W", offset, length))
                log.write(bytes_)
                os.pwrite(image, bytes_, offset)
                answer = struct.pack("<II", length, 0)
            elif opcode == READ:
                _, offset, length = struct.unpack_from("<QQI", body)
                if any(start < offset + length and offset < end for start, end in bad):
                    error = -EIO
                else:
                    answer = os.pread(image, length, offset)
            elif opcode == FSYNC:
                log.write(RECORD.pack(b"F", 0, 0))
            elif opcode in (GETATTR, SETATTR):
                answer = attributes
            elif opcode == OPEN:
                # The page cache keeps no part of the file, so that the log has each write at its time.
                answer = struct.pack("<QII", 1, FOPEN_DIRECT_IO, 0)
            elif opcode == STATFS:
                answer = struct.pack("<5Q4I24x", size // 4096, 0, 0, 1, 0, 4096, 255, 4096, 0)
            elif opcode in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            elif opcode not in (RELEASE, FLUSH, DESTROY):
                error = -ENOSYS
            os.write(fuse, OUT_HEADER.pack(OUT_HEADER.size + len(answer), error, unique) + answer)


class Cuts:
    """The states that cuts may leave, made from `image` (as it was before the disk was served) and the writes in `log`.

    Cuts must be made in ascending order: each brings `image` itself forward to the last flush before it."""

    def __init__(self, image, log):
        self.image = os.open(image, os.O_RDWR)
        self.path = image
        self.log = os.open(log, os.O_RDONLY)
        self.records = []
        self.acks = []  # for each record, the number of acknowledgements before it
        at, acks, end = 0, 0, os.fstat(self.log).st_size
        while at < end:
            kind, offset, length = RECORD.unpack(os.pread(self.log, RECORD.size, at))
            at += RECORD.size
            self.acks.append(acks)
            self.records.append((kind, offset, length, at))
            at += length
            acks += kind == b"A"
        self.acks.append(acks)
        self.next = 0
        self.unflushed = []

    def __len__(self):
        """Number of places to cut at: from before the first record to behind the last one."""
        return len(self.records) + 1

    def behind_acks(self):
        """The places right behind an acknowledgement."""
        return [at + 1 for at, record in enumerate(self.records) if record[0] == b"A"]

    def cut(self, place, random, into):
        """Writes to `into` a state that a cut before record `place` may leave, and returns the number of
        acknowledgements before it."""
        for record in self.records[self.next : place]:
            if record[0] == b"W":
                self.unflushed.append(record)
            elif record[0] == b"F":
                for write in self.unflushed:
                    self.apply(self.image, write)
                self.unflushed.clear()
        self.next = place
        subprocess.run(["cp", "--sparse=always", self.path, into], check=True)
        target = os.open(into, os.O_RDWR)
        # Of the unflushed writes, keeps none, all, a first part, or any; or any of them, torn.
        way = random.choice(["none", "all", "first", "any", "torn"])
        kept = random.randrange(len(self.unflushed) + 1)
        for number, write in enumerate(self.unflushed):
            if way == "none" or (way == "first" and number >= kept):
                continue
            if way in ("any", "torn") and random.random() < 0.5:
                continue
            self.apply(target, write, random if way == "torn" else None)
        os.close(target)
        return self.acks[place]

    def apply(self, target, write, tear=None):
        """Applies one write of the log; with `tear`, each of its sectors arrives or is lost at random."""
        _, offset, length, at = write
        bytes_ = os.pread(self.log, length, at)
        if tear is None:
            os.pwrite(target, bytes_, offset)
            return
        for start in range(0, length, SECTOR):
            if tear.random() < 0.5:
                os.pwrite(target, bytes_[start : start + SECTOR], offset + start)

    def close(self):
        os.close(self.image)
        os.close(self.log)
