# SPDX-License-Identifier: MIT
"""``Page``: what Python may ask of the accounts, all of it cold or warm."""

import hashlib
import mmap
import secrets
from enum import IntEnum

from libc.string cimport memcmp, memcpy, memset

from pooler.board.latency cimport TIMED_KINDS, note_time, told

from pooler.errors import PoolerError

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_mutexattr_t:
        pass
    int PTHREAD_PROCESS_SHARED
    int PTHREAD_MUTEX_ROBUST
    int pthread_mutexattr_init(pthread_mutexattr_t *)
    int pthread_mutexattr_setpshared(pthread_mutexattr_t *, int)
    int pthread_mutexattr_setrobust(pthread_mutexattr_t *, int)
    int pthread_mutexattr_destroy(pthread_mutexattr_t *)
    int pthread_mutex_init(pthread_mutex_t *, const pthread_mutexattr_t *)
    int pthread_mutex_lock(pthread_mutex_t *)
    int pthread_mutex_unlock(pthread_mutex_t *)
    int pthread_mutex_consistent(pthread_mutex_t *)

cdef extern from "<errno.h>" nogil:
    int EOWNERDEAD

cdef enum:
    ACCOUNT_FREE = 0  # and so is every one behind it in its chain
    ACCOUNT_USED = 1
    ACCOUNT_GONE = 2  # free, but a chain goes on behind it

cdef struct Shared:
    pthread_mutex_t mutex

# More than are in use at once anywhere; a death looks at each.
CAPACITY = 16384


class Kind(IntEnum):
    """What an account is of; its names follow."""

    EVERYBODY = 0  # no name
    POOL = 1  # database, user
    DATABASE = 2
    USER = 3


class Verdict(IntEnum):
    """What came of the wish for a place; the first limit that is in the way."""

    TAKEN = 0
    POOL_FULL = 1
    DATABASE_FULL = 2
    USER_FULL = 3
    ALL_FULL = 4


# What ``page_take_client`` returns.
CLIENT_VERDICTS = (
    Verdict.TAKEN, Verdict.ALL_FULL, Verdict.DATABASE_FULL, Verdict.USER_FULL
)


class PageFull(PoolerError):
    """Too many pools, databases and users at once."""


cdef size_t lines(size_t n_bytes):
    """So many bytes, filled up to whole cache lines."""
    return (n_bytes + CELL_LINE_BYTES - 1) // CELL_LINE_BYTES * CELL_LINE_BYTES


cdef inline bint has_room(uint64_t taken, uint64_t limit) noexcept nogil:
    return limit == 0 or taken < limit


# ---------------------------------------------------------------- for C

cdef void page_lock(const PageMap *m) noexcept nogil:
    """Who has it does some stores. Who died with it had changed its own row only.

    That row is cleared by the master, which alone changes others'.
    """
    if pthread_mutex_lock(&m.shared.mutex) == EOWNERDEAD:
        pthread_mutex_consistent(&m.shared.mutex)


cdef void page_unlock(const PageMap *m) noexcept nogil:
    pthread_mutex_unlock(&m.shared.mutex)


cdef void page_close_account(const PageMap *m, uint32_t account) noexcept nogil:
    """Free an account if nobody has it open and it counts nothing; locked.

    Where its chain ends behind it, so does the chain in front of it.
    """
    cdef Cells *row = &m.cells[<size_t> account * m.rows]
    cdef uint32_t i
    for i in range(m.rows):
        if row[i].refs or row[i].servers or row[i].clients:
            return
    memset(row, 0, m.rows * sizeof(Cells))
    m.accounts[account].of[0] = m.accounts[account].of[1] = NO_ACCOUNT
    m.accounts[account].state = ACCOUNT_GONE
    if m.accounts[(account + 1) % m.capacity].state != ACCOUNT_FREE:
        return
    while m.accounts[account].state == ACCOUNT_GONE:
        m.accounts[account].state = ACCOUNT_FREE
        account = (account or m.capacity) - 1


cdef int page_take_client(
    const PageMap *m, uint32_t row, const uint32_t *accounts, const uint64_t *limits
) noexcept nogil:
    """Count one client more in three accounts, if that is below every limit.

    They are those of everybody, its database and its user, or NO_ACCOUNT. Returns 0,
    or 1 + the index of the first limit that is in the way. Cost: O(rows), one lock
    """
    cdef uint32_t i
    cdef uint32_t j
    cdef uint64_t found
    cdef int refused = 0
    page_lock(m)
    for i in range(3):
        if accounts[i] == NO_ACCOUNT or limits[i] == 0:
            continue
        found = 0
        for j in range(m.rows):
            found += m.cells[<size_t> accounts[i] * m.rows + j].clients
        if not has_room(found, limits[i]):
            refused = <int> i + 1
            break
    if not refused:
        for i in range(3):
            if accounts[i] != NO_ACCOUNT:
                m.cells[<size_t> accounts[i] * m.rows + row].clients += 1
    page_unlock(m)
    return refused


cdef void page_count_client(
    const PageMap *m, uint32_t row, uint32_t account
) noexcept nogil:
    """A client that is here counts in one account more, whatever its limit."""
    page_lock(m)
    m.cells[<size_t> account * m.rows + row].clients += 1
    page_unlock(m)


cdef void page_give_client(
    const PageMap *m, uint32_t row, const uint32_t *accounts
) noexcept nogil:
    """A client has left that ``page_take_client`` has counted."""
    cdef uint32_t i
    page_lock(m)
    for i in range(3):
        if accounts[i] != NO_ACCOUNT:
            m.cells[<size_t> accounts[i] * m.rows + row].clients -= 1
            page_close_account(m, accounts[i])
    page_unlock(m)


# ---------------------------------------------------------------- for Python


cdef class Page:
    """All accounts, as one process sees them; made by the master before it forks.

    ``row`` is the caller's own wherever it stands first: the slot of a worker, or
    ``left_row``. A limit of 0 is none. What opens an account is to close it again: one
    that nobody has open, and that counts nothing, is used for other names.
    """

    def __cinit__(self, uint32_t workers, uint32_t capacity=CAPACITY):
        """``capacity``: of accounts. OSError if memory cannot be had."""
        if workers < 1 or capacity < 4:
            raise ValueError("a page needs a worker and some accounts")
        cdef size_t head = lines(sizeof(Shared))
        cdef size_t middle = lines(capacity * sizeof(Account))
        self.rows = workers + 1
        self.capacity = capacity
        # mmap(2): an anonymous mapping starts on a page and is filled with zeros; what
        # is never touched costs no memory.
        self.mapping = mmap.mmap(
            -1, head + middle + <size_t> capacity * self.rows * sizeof(Cells)
        )
        self.view = self.mapping
        self.shared = <Shared *> &self.view[0]
        self.accounts = <Account *> (&self.view[0] + head)
        self.cells = <Cells *> (&self.view[0] + head + middle)
        self.map.shared = self.shared
        self.map.accounts = self.accounts
        self.map.cells = self.cells
        self.map.rows = self.rows
        self.map.capacity = capacity
        self.key = secrets.token_bytes(DIGEST_BYTES)
        self.histograms = Histograms(capacity, self.rows)
        cdef pthread_mutexattr_t attributes
        cdef int code = pthread_mutexattr_init(&attributes)
        code = code or pthread_mutexattr_setpshared(
            &attributes, PTHREAD_PROCESS_SHARED
        )
        code = code or pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST)
        code = code or pthread_mutex_init(&self.shared.mutex, &attributes)
        pthread_mutexattr_destroy(&attributes)
        if code:
            raise OSError(code, "no mutex can be had that processes share")

    @property
    def left_row(self):
        """The row of what dead workers have left; the master writes it."""
        return self.rows - 1

    # ------------------------------------------------------------ accounts

    def open(self, uint32_t row, kind, *names):
        """Return the account of a kind and its names (``str``), which is held open.

        PageFull when there is no room for another one.
        """
        digest = self._digest(kind, names)
        cdef const uint8_t *wanted = digest
        cdef uint32_t place
        cdef bint found
        cdef Account *account
        self.row_of(0, row)
        self.lock()
        try:
            place = self.find(wanted, &found)
            if place == self.capacity:
                raise PageFull(
                    f"more than {self.capacity} pools, databases and users in use"
                )
            if not found:
                account = &self.accounts[place]
                # What is found again, as after the death of the only worker, goes on.
                if memcmp(account.digest, wanted, DIGEST_BYTES) and account.timed:
                    self.histograms.wipe(place)
                    account.timed = False
                memcpy(account.digest, wanted, DIGEST_BYTES)
                account.of[0] = account.of[1] = NO_ACCOUNT
                account.state = ACCOUNT_USED
            self.row_of(place, row).refs += 1
            return place
        finally:
            self.unlock()

    def close(self, uint32_t row, uint32_t account):
        """Give an account back that ``open`` has returned."""
        cdef Cells *own = self.row_of(account, row)
        self.lock()
        if own.refs:
            own.refs -= 1
        self.close_account(account)
        self.unlock()

    cdef void close_account(self, uint32_t account) noexcept:
        page_close_account(&self.map, account)

    # ------------------------------------------------------------ servers

    def take_server(
        self, uint32_t row, uint32_t pool, uint32_t database, uint32_t user,
        uint64_t now_us, *, uint64_t pool_limit, uint64_t database_limit,
        uint64_t user_limit,
    ):
        """Count one server more in all three, if that is below every limit.

        Returns a Verdict. What is refused is noted as wanted since ``now_us`` by the
        account that is in the way, in the same moment: whoever gives a server back to
        that account finds it (``wanting``).
        """
        cdef uint32_t i
        cdef Cells *own
        cdef uint32_t *accounts = [pool, database, user]
        cdef uint64_t *limits = [pool_limit, database_limit, user_limit]
        for i in range(3):
            self.row_of(accounts[i], row)
        self.lock()
        try:
            for i in range(3):
                own = self.row_of(accounts[i], row)
                if not has_room(self.sum_servers(accounts[i]), limits[i]):
                    own.wants_since_us = own.wants_since_us or now_us
                    return Verdict(<int> i + 1)
            for i in range(3):
                own = self.row_of(accounts[i], row)
                own.servers += 1
            self.accounts[pool].of[0] = database
            self.accounts[pool].of[1] = user
            return Verdict.TAKEN
        finally:
            self.unlock()

    def give_server(
        self, uint32_t row, uint32_t pool, uint32_t database, uint32_t user
    ):
        """A server is gone from PostgreSQL. ValueError if none is counted."""
        cdef uint32_t account
        for account in (pool, database, user):
            if self.row_of(account, row).servers == 0:
                raise ValueError(f"no server is counted in account {account}")
        self.lock()
        for account in (pool, database, user):
            self.cells[<size_t> account * self.rows + row].servers -= 1
            self.close_account(account)
        self.unlock()

    def move_server(
        self, uint32_t row, uint32_t to_row, uint32_t pool, uint32_t database,
        uint32_t user,
    ):
        """A server goes to another process; no sum changes. ValueError as above.

        For the master: who dies in the middle leaves two rows that do not fit, and
        without a master nobody counts. Until the other one has heard of the server, it
        counts there already: a worker that dies with a server on its way to it leaves
        it like its own.
        """
        cdef uint32_t *accounts = [pool, database, user]
        cdef int i
        for i in range(3):
            self.row_of(accounts[i], to_row)
            if self.row_of(accounts[i], row).servers == 0:
                raise ValueError(f"no server is counted in account {accounts[i]}")
        self.lock()
        for i in range(3):
            self.row_of(accounts[i], to_row).servers += 1
            self.row_of(accounts[i], row).servers -= 1
        self.unlock()

    def oldest_idle(self, uint32_t account):
        """(row, pool) of who has a server that has been idle longest; None: nobody.

        ``account``: of a pool, or of the database or the user whose pools are meant.
        Servers for which clients of the same row wait are not idle for long, so they
        are left out. Cost: O(capacity), without the lock: what is found may be gone.
        """
        cdef uint32_t pool
        cdef uint32_t i
        cdef const Account *one
        cdef const Cells *row
        cdef uint64_t oldest_us = 0
        found = None
        self.row_of(account, 0)
        for pool in range(self.capacity):
            one = &self.accounts[pool]
            if one.state != ACCOUNT_USED:
                continue
            if pool != account and one.of[0] != account and one.of[1] != account:
                continue
            for i in range(self.rows):
                row = &self.cells[<size_t> pool * self.rows + i]
                if row.idle <= row.waiting or row.idle_since_us == 0:
                    continue
                if found is None or row.idle_since_us < oldest_us:
                    oldest_us = row.idle_since_us
                    found = (i, pool)
        return found

    def unwant(self, uint32_t row, uint32_t account):
        """Nobody here waits for a place in this account any more."""
        self.row_of(account, row).wants_since_us = 0

    def wanting(self, uint32_t account):
        """Rows that were refused a server by this account, the longest ago first."""
        cdef uint32_t i
        found = []
        for i in range(self.rows):
            since_us = self.row_of(account, i).wants_since_us
            if since_us:
                found.append((since_us, i))
        return [i for _, i in sorted(found)]

    # ------------------------------------------------------------ clients

    def take_client(
        self, uint32_t row, uint32_t everybody, uint32_t database, uint32_t user, *,
        uint64_t limit, uint64_t database_limit, uint64_t user_limit,
    ):
        """Count one client more in all three, if that is below every limit: Verdict."""
        cdef uint32_t i
        cdef uint32_t *accounts = [everybody, database, user]
        cdef uint64_t *limits = [limit, database_limit, user_limit]
        for i in range(3):
            self.row_of(accounts[i], row)
        return CLIENT_VERDICTS[page_take_client(&self.map, row, accounts, limits)]

    def give_client(
        self, uint32_t row, uint32_t everybody, uint32_t database, uint32_t user
    ):
        """A client has left. ValueError if none is counted."""
        cdef uint32_t account
        for account in (everybody, database, user):
            if self.row_of(account, row).clients == 0:
                raise ValueError(f"no client is counted in account {account}")
        cdef uint32_t *accounts = [everybody, database, user]
        page_give_client(&self.map, row, accounts)

    # ------------------------------------------------------------ what is there

    def clients(self, kind, *names):
        """How many clients count for a kind and its names; 0: there is no account."""
        digest = self._digest(kind, names)
        cdef uint32_t place
        cdef uint32_t row
        cdef bint is_there
        cdef uint64_t count = 0
        self.lock()
        place = self.find(digest, &is_there)
        if is_there:
            for row in range(self.rows):
                count += self.cells[<size_t> place * self.rows + row].clients
        self.unlock()
        return count

    def cell(self, uint32_t account, uint32_t row):
        """All cells of an account and a row by their names, as numbers of now."""
        return self.row_of(account, row)[0]

    def total(self, uint32_t account, str name):
        """The sum of a cell over all rows."""
        return sum(self.cell(account, row)[name] for row in range(self.rows))

    def set(self, uint32_t row, uint32_t account, str name, uint64_t value):
        """Store one of the cells that are no counts of places, of one's own row."""
        cdef Cells *own = self.row_of(account, row)
        if name == "idle":
            own.idle = value
        elif name == "idle_since_us":
            own.idle_since_us = value
        elif name == "waiting":
            own.waiting = value
        elif name == "waiting_since_us":
            own.waiting_since_us = value
        else:
            raise ValueError(f"{name} is not to be stored")

    def clear_row(self, uint32_t row, left=()):
        """A worker is dead: what it had is nobody's any more, but for what it has left.

        ``left``: for each of its servers that PostgreSQL still has, the accounts of its
        pool, database and user: they count in ``left_row`` from now on, until
        ``give_server(left_row, …)``. At no moment is the sum too small.
        """
        cdef uint32_t account
        cdef Cells *own
        self.row_of(0, row)
        self.lock()
        try:
            for servers in left:
                for account in servers:
                    self.row_of(account, self.rows - 1).servers += 1
            for account in range(self.capacity):
                if self.accounts[account].state != ACCOUNT_USED:
                    continue
                own = &self.cells[<size_t> account * self.rows + row]
                memset(own, 0, sizeof(Cells))
                self.close_account(account)
        finally:
            self.unlock()

    def times(self, kind, *names):
        """How long things took in all rows together, as ``latency.told`` has it.

        None: there is no such account. Cost: O(rows), under the lock.
        """
        digest = self._digest(kind, names)
        cdef Histogram[TIMED_KINDS] sums
        cdef uint32_t place
        cdef bint found
        self.lock()
        place = self.find(digest, &found)
        if found:
            self.histograms.add_up(place, sums)
        self.unlock()
        return told(sums) if found else None

    def note_time(self, uint32_t row, uint32_t account, uint32_t timed, uint64_t us):
        """Something has taken so long, in one's own row; the core does it itself."""
        if timed >= TIMED_KINDS:
            raise ValueError(f"{timed} is nothing that is measured")
        note_time(self.times_of(account, row) + timed, us)

    def census(self):
        """(clients that wait, servers, idle servers), of all pools and rows.

        Cost: O(capacity), without the lock: of the same moment only about.
        """
        cdef uint32_t account
        cdef uint32_t i
        cdef const Cells *row
        cdef uint64_t waiting = 0
        cdef uint64_t servers = 0
        cdef uint64_t idle = 0
        for account in range(self.capacity):
            if self.accounts[account].state != ACCOUNT_USED:
                continue
            row = &self.cells[<size_t> account * self.rows]
            for i in range(self.rows):
                waiting += row[i].waiting
                servers += row[i].servers
                idle += row[i].idle
        # A server counts by its pool, its database and its user.
        return waiting, servers // 3, idle

    def accounts_in_use(self):
        """How many there are, for tests and diagnosis."""
        cdef uint32_t account
        return sum(
            [
                1 for account in range(self.capacity)
                if self.accounts[account].state == ACCOUNT_USED
            ]
        )

    def accounts_gone(self):
        """How many are free and still looked at by a search, for tests."""
        cdef uint32_t account
        return sum(
            [
                1 for account in range(self.capacity)
                if self.accounts[account].state == ACCOUNT_GONE
            ]
        )

    # ------------------------------------------------------------ inside

    def _digest(self, kind, names):
        parts = [str(int(kind)).encode()]
        parts += [name.encode("utf-8", "surrogateescape") for name in names]
        # No name holds a 0 byte: the protocol ends it by one.
        return hashlib.blake2b(
            b"\0".join(parts), digest_size=DIGEST_BYTES, key=self.key
        ).digest()

    cdef Cells *row_of(self, uint32_t account, uint32_t row) except NULL:
        if account >= self.capacity or row >= self.rows:
            raise IndexError(f"no account {account} or no row {row}")
        return &self.cells[<size_t> account * self.rows + row]

    cdef Histogram *times_of(self, uint32_t account, uint32_t row) except NULL:
        """The histograms of a row, by Timed; who uses them has the account open."""
        self.row_of(account, row)
        self.accounts[account].timed = True
        return self.histograms.of(account, row)

    cdef uint32_t find(self, const uint8_t *digest, bint *found) noexcept:
        """The place of an account, or one for it; capacity: there is none. Locked."""
        cdef uint32_t at = (<const uint32_t *> digest)[0] % self.capacity
        cdef uint32_t place = self.capacity
        cdef uint32_t _tried
        cdef const Account *account
        cdef bint same
        found[0] = False
        for _tried in range(self.capacity):
            account = &self.accounts[at]
            same = memcmp(account.digest, digest, DIGEST_BYTES) == 0
            if account.state == ACCOUNT_USED:
                if same:
                    found[0] = True
                    return at
            elif place == self.capacity or same:  # where it was before, if it was
                place = at
            if account.state == ACCOUNT_FREE:
                break
            at = (at + 1) % self.capacity
        return place

    cdef void lock(self) noexcept:
        page_lock(&self.map)

    cdef void unlock(self) noexcept:
        page_unlock(&self.map)

    cdef uint64_t sum_servers(self, uint32_t account) noexcept:
        cdef const Cells *row = &self.cells[<size_t> account * self.rows]
        cdef uint64_t found = 0
        cdef uint32_t i
        for i in range(self.rows):
            found += row[i].servers
        return found
