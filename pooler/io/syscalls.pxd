# SPDX-License-Identifier: MIT
"""System calls and C facts the engine needs; every wrapper gives -errno on failure.

Source: man pages recv(2), send(2), accept4(2), epoll(7), clock_gettime(2).
"""

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "<sys/types.h>" nogil:
    ctypedef long ssize_t

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
        MSG_PEEK
        SOCK_NONBLOCK
        SOCK_CLOEXEC
        SHUT_RDWR
        SOL_SOCKET
        SO_ERROR
        SO_PEERCRED
        AF_UNIX
        AF_INET
        AF_INET6
    ctypedef unsigned int socklen_t
    ctypedef unsigned short sa_family_t
    struct sockaddr:
        sa_family_t sa_family
    struct sockaddr_storage:
        sa_family_t ss_family
    int c_accept4 "accept4"(int fd, sockaddr *addr, socklen_t *n, int flags)
    int shutdown(int fd, int how)
    int getpeername(int fd, sockaddr *addr, socklen_t *n)
    int c_getsockopt "getsockopt"(
        int fd, int level, int name, void *value, socklen_t *n
    )

# <sys/socket.h> has struct ucred only for GNU sources.
cdef extern from *:
    """
    #include <sys/types.h>
    struct pooler_ucred { pid_t pid; uid_t uid; gid_t gid; };
    """
    ctypedef struct ucred "struct pooler_ucred":
        int pid
        unsigned int uid

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        uint16_t sin6_port
        in6_addr sin6_addr
    uint16_t ntohs(uint16_t value)

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLERR
        EPOLLHUP
        EPOLLRDHUP
        EPOLLEXCLUSIVE
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
        EPOLL_CLOEXEC
    ctypedef union epoll_data_t:
        void *ptr
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)

# What each transaction calls, without glibc's work for threads that are cancelled: two
# atomic operations a call in a process that has ever had a thread. None is cancelled.
cdef extern from *:
    """
    #include <sys/epoll.h>
    #include <sys/socket.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #ifdef SYS_recvfrom
    #define pooler_recv(fd, p, n, flags) \\
        syscall(SYS_recvfrom, (long) (fd), p, (size_t) (n), (long) (flags), 0L, 0L)
    #define pooler_send(fd, p, n, flags) \\
        syscall(SYS_sendto, (long) (fd), p, (size_t) (n), (long) (flags), 0L, 0L)
    #else
    #define pooler_recv recv
    #define pooler_send send
    #endif
    #ifdef SYS_epoll_wait
    #define pooler_epoll_wait(epfd, events, n, timeout_ms) \\
        (int) syscall(SYS_epoll_wait, (long) (epfd), events, (long) (n), \\
                      (long) (timeout_ms))
    #else
    #define pooler_epoll_wait epoll_wait
    #endif
    """
    int c_epoll_wait "pooler_epoll_wait"(
        int epfd, epoll_event *events, int n, int timeout_ms
    ) nogil
    ssize_t c_recv "pooler_recv"(int fd, void *buf, size_t n, int flags) nogil
    ssize_t c_send "pooler_send"(int fd, const void *buf, size_t n, int flags) nogil

# Descriptors beside one byte; -errno. What is received is close-on-exec.
cdef extern from *:
    """
    #include <errno.h>
    #include <string.h>
    #include <sys/socket.h>
    #include <sys/uio.h>
    union pooler_rights {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    };
    static void pooler_rights_message(struct msghdr *message, struct iovec *part,
                                      char *byte, union pooler_rights *rights)
    {
        memset(message, 0, sizeof(*message));
        memset(rights, 0, sizeof(*rights));
        part->iov_base = byte;
        part->iov_len = 1;
        message->msg_iov = part;
        message->msg_iovlen = 1;
        message->msg_control = rights->space;
        message->msg_controllen = sizeof(rights->space);
    }
    static int pooler_pass_fd(int door, int fd)
    {
        struct msghdr message;
        struct iovec part;
        union pooler_rights rights;
        char byte = 'C';
        pooler_rights_message(&message, &part, &byte, &rights);
        struct cmsghdr *row = CMSG_FIRSTHDR(&message);
        row->cmsg_level = SOL_SOCKET;
        row->cmsg_type = SCM_RIGHTS;
        row->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(row), &fd, sizeof(int));
        return sendmsg(door, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
    }
    static int pooler_take_fd(int door)
    {
        struct msghdr message;
        struct iovec part;
        union pooler_rights rights;
        char byte;
        int fd;
        pooler_rights_message(&message, &part, &byte, &rights);
        if (recvmsg(door, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) < 0)
            return -errno;
        struct cmsghdr *row = CMSG_FIRSTHDR(&message);
        /* The kernel drops a descriptor for which there is no room. */
        if (row == NULL || row->cmsg_len != CMSG_LEN(sizeof(int)))
            return -EMFILE;
        memcpy(&fd, CMSG_DATA(row), sizeof(int));
        return fd;
    }
    """
    int sys_pass_fd "pooler_pass_fd"(int door, int fd) nogil
    int sys_take_fd "pooler_take_fd"(int door) nogil

cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int fd)

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    enum:
        CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec *out)

cdef extern from "<errno.h>" nogil:
    enum:
        EAGAIN
        EINTR
        EMSGSIZE
        EMFILE
        ENFILE
        ENOBUFS
        ENOMEM
        EPROTO
        ECONNABORTED


cdef inline ssize_t sys_recv(int fd, void *buf, size_t n) noexcept nogil:
    """Bytes received, 0 at end of file, or -errno (-EAGAIN: nothing there)."""
    cdef ssize_t got
    while True:
        got = c_recv(fd, buf, n, MSG_DONTWAIT)
        if got >= 0:
            return got
        if errno != EINTR:
            return -errno


cdef inline ssize_t sys_send(int fd, const void *buf, size_t n) noexcept nogil:
    """Bytes the kernel took, or -errno (-EAGAIN: its buffer is full)."""
    cdef ssize_t sent
    while True:
        sent = c_send(fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent >= 0:
            return sent
        if errno != EINTR:
            return -errno


cdef inline int sys_socket_error(int fd) noexcept nogil:
    """The error that a socket has met, which is forgotten then; 0: none."""
    cdef int error = 0
    cdef socklen_t n = sizeof(error)
    if c_getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0:
        return errno
    return error


cdef inline int sys_peer_uid(int fd) noexcept nogil:
    """Who is at the other end of a Unix socket (unix(7)); -1: nobody knows."""
    cdef ucred peer
    cdef socklen_t n = sizeof(peer)
    peer.pid = 0
    if c_getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) < 0 or peer.pid == 0:
        return -1
    return <int> peer.uid


cdef inline uint64_t sys_now_us() noexcept nogil:
    """Monotonic clock in microseconds."""
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t> t.tv_sec * 1000000 + <uint64_t> t.tv_nsec // 1000
