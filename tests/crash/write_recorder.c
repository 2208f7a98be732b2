/* Preloaded into a process, notes every change it makes to files below a directory, and every sync.

   FUSEGW_RECORD_ROOT is the directory, FUSEGW_RECORD_FILE where the notes go. Each note is one write to a file
   opened for appending, so the notes of several processes and threads have one order. A change is made and
   noted under one lock: what is noted before the beginning of a sync was made before it. A sync is noted when
   it begins and when it has succeeded. Changes through mappings are not seen.

   A note, little endian: u32 length of the whole, u32 kind, u64 inode, u64 a, u64 b, u32 length of the first
   path, u32 length of the second; the paths; data to the end. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind {
    CREATE = 1, /* inode, path */
    WRITE,      /* inode, a: offset, b: durable on return, data */
    TRUNCATE,   /* inode, a: size */
    ALLOCATE,   /* inode, a: offset, b: length; path: "punch" or "grow" or "keep" */
    SYNC,       /* inode, a: number of the sync, path; second path: "/" for a directory */
    SYNCED,     /* a: number of the sync */
    SYNC_ALL,   /* a: number of the sync */
    MKDIR,      /* path */
    REMOVE,     /* path */
    RENAME,     /* path, second path */
    LINK,       /* path, second path */
    SYMLINK,    /* path, second path: what it says */
};

struct note {
    uint32_t length, kind;
    uint64_t inode, a, b;
    uint32_t first, second;
} __attribute__((packed));

#define REAL(name) ((__typeof__(&name))next(#name))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static int notes = -1;
static uint32_t syncs;

static void *next(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (!found)
        abort();
    return found;
}

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }

__attribute__((constructor)) static void begin(void)
{
    const char *file = getenv("FUSEGW_RECORD_FILE"), *top = getenv("FUSEGW_RECORD_ROOT");
    if (!file || !top)
        return;
    snprintf(root, sizeof root, "%s", top);
    notes = syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (notes < 0)
        abort();
    pthread_atfork(before_fork, after_fork, after_fork);
}

static void put(enum kind kind, uint64_t inode, uint64_t a, uint64_t b, const char *first, const char *second,
                const struct iovec *data, int count, size_t bytes)
{
    struct note head = {0, kind, inode, a, b, strlen(first), strlen(second)};
    struct iovec all[count + 3];
    int used = 3, saved = errno;
    all[0] = (struct iovec){&head, sizeof head};
    all[1] = (struct iovec){(void *)first, head.first};
    all[2] = (struct iovec){(void *)second, head.second};
    head.length = sizeof head + head.first + head.second + bytes;
    for (int i = 0; i < count && bytes; i++, used++) {
        all[used] = data[i];
        if (all[used].iov_len > bytes)
            all[used].iov_len = bytes;
        bytes -= all[used].iov_len;
    }
    if (syscall(SYS_writev, notes, all, used) != head.length)
        abort();
    errno = saved;
}

static void note(enum kind kind, uint64_t inode, uint64_t a, uint64_t b, const char *first, const char *second)
{
    put(kind, inode, a, b, first, second, NULL, 0, 0);
}

/* Whether the path is the root or lies below it. */
static int inside(const char *path)
{
    size_t length = strlen(root);
    return strncmp(path, root, length) == 0 && (path[length] == 0 || path[length] == '/');
}

/* The absolute path; 0 when it is not below the root. */
static int within(int directory, const char *path, char *whole)
{
    if (notes < 0 || !path)
        return 0;
    if (path[0] == '/') {
        snprintf(whole, PATH_MAX, "%s", path);
    } else {
        char link[64], above[PATH_MAX];
        ssize_t length;
        if (directory == AT_FDCWD)
            snprintf(link, sizeof link, "/proc/self/cwd");
        else
            snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
        length = readlink(link, above, sizeof above - 1);
        if (length < 0)
            return 0;
        above[length] = 0;
        if (snprintf(whole, PATH_MAX, "%s/%s", above, path) >= PATH_MAX)
            abort();
    }
    return inside(whole);
}

/* What the descriptor is open on; 0 when that is not below the root. */
static int known(int fd, struct stat *status, char *path)
{
    char link[64];
    ssize_t length;
    int saved = errno, found;
    if (notes < 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, PATH_MAX - 1);
    if (length > 0)
        path[length] = 0;
    found = length > 0 && inside(path) && fstat(fd, status) == 0 &&
            (S_ISREG(status->st_mode) || S_ISDIR(status->st_mode));
    errno = saved;
    return found;
}

/* ---- names */

static int opened(int directory, const char *path, int flags, mode_t mode)
{
    char whole[PATH_MAX];
    struct stat before, after;
    int existed, fd;
    if (!(flags & (O_CREAT | O_TRUNC)) || !within(directory, path, whole))
        return REAL(openat)(directory, path, flags, mode);
    pthread_mutex_lock(&lock);
    existed = fstatat(directory, path, &before, 0) == 0;
    fd = REAL(openat)(directory, path, flags, mode);
    if (fd >= 0 && fstat(fd, &after) == 0) {
        if (!existed)
            note(CREATE, after.st_ino, 0, 0, whole, "");
        else if (flags & O_TRUNC)
            note(TRUNCATE, after.st_ino, 0, 0, "", "");
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE                                   \
    va_list rest;                              \
    va_start(rest, flags);                     \
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; \
    va_end(rest)

int open(const char *path, int flags, ...) { MODE; return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE; return opened(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE; return opened(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE; return opened(at, path, flags, mode); }

/* A call on names; noted when it succeeds. */
#define NAMES(ours, kind, first, second, call) \
    int result;                                \
    if (!(ours))                               \
        return call;                           \
    pthread_mutex_lock(&lock);                 \
    result = call;                             \
    if (result == 0)                           \
        note(kind, 0, 0, 0, first, second);    \
    pthread_mutex_unlock(&lock);               \
    return result

int mkdirat(int at, const char *path, mode_t mode)
{
    char whole[PATH_MAX];
    NAMES(within(at, path, whole), MKDIR, whole, "", REAL(mkdirat)(at, path, mode));
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int unlinkat(int at, const char *path, int flags)
{
    char whole[PATH_MAX];
    NAMES(within(at, path, whole), REMOVE, whole, "", REAL(unlinkat)(at, path, flags));
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int renameat(int from, const char *path, int to, const char *target)
{
    char first[PATH_MAX], second[PATH_MAX];
    NAMES(within(from, path, first) && within(to, target, second), RENAME, first, second,
          REAL(renameat)(from, path, to, target));
}

int rename(const char *path, const char *target) { return renameat(AT_FDCWD, path, AT_FDCWD, target); }

int linkat(int from, const char *path, int to, const char *target, int flags)
{
    char first[PATH_MAX], second[PATH_MAX];
    NAMES(within(from, path, first) && within(to, target, second), LINK, first, second,
          REAL(linkat)(from, path, to, target, flags));
}

int link(const char *path, const char *target) { return linkat(AT_FDCWD, path, AT_FDCWD, target, 0); }

int symlinkat(const char *target, int at, const char *path)
{
    char whole[PATH_MAX];
    NAMES(within(at, path, whole), SYMLINK, whole, target, REAL(symlinkat)(target, at, path));
}

int symlink(const char *target, const char *path) { return symlinkat(target, AT_FDCWD, path); }

/* ---- bytes */

/* Writes at `offset`, or where the descriptor's offset is when that is negative. */
static ssize_t written(int fd, const struct iovec *data, int count, off_t offset, int flags)
{
    char path[PATH_MAX];
    struct stat status;
    ssize_t result;
    if (!known(fd, &status, path))
        return offset < 0 ? REAL(writev)(fd, data, count) : REAL(pwritev2)(fd, data, count, offset, flags);
    pthread_mutex_lock(&lock);
    result = offset < 0 ? REAL(writev)(fd, data, count) : REAL(pwritev2)(fd, data, count, offset, flags);
    if (result > 0) {
        off_t at = offset < 0 ? lseek(fd, 0, SEEK_CUR) - result : offset;
        int synced = (fcntl(fd, F_GETFL) & O_DSYNC) != 0;
        put(WRITE, status.st_ino, at, synced, "", "", data, count, result);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

static ssize_t written_one(int fd, const void *data, size_t size, off_t offset)
{
    struct iovec one = {(void *)data, size};
    return written(fd, &one, 1, offset, 0);
}

ssize_t write(int fd, const void *data, size_t size) { return written_one(fd, data, size, -1); }

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return written_one(fd, data, size, offset); }

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) { return pwrite(fd, data, size, offset); }

ssize_t writev(int fd, const struct iovec *data, int count) { return written(fd, data, count, -1, 0); }

ssize_t pwritev2(int fd, const struct iovec *data, int count, off_t offset, int flags)
{
    return written(fd, data, count, offset, flags);
}

ssize_t pwritev64v2(int fd, const struct iovec *data, int count, off64_t offset, int flags)
{
    return written(fd, data, count, offset, flags);
}

ssize_t pwritev(int fd, const struct iovec *data, int count, off_t offset)
{
    return written(fd, data, count, offset, 0);
}

ssize_t pwritev64(int fd, const struct iovec *data, int count, off64_t offset)
{
    return written(fd, data, count, offset, 0);
}

int ftruncate(int fd, off_t size)
{
    char path[PATH_MAX];
    struct stat status;
    int result;
    if (!known(fd, &status, path))
        return REAL(ftruncate)(fd, size);
    pthread_mutex_lock(&lock);
    result = REAL(ftruncate)(fd, size);
    if (result == 0)
        note(TRUNCATE, status.st_ino, size, 0, "", "");
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }

int truncate(const char *path, off_t size)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC), result;
    if (fd < 0)
        return -1;
    result = ftruncate(fd, size);
    close(fd);
    return result;
}

int truncate64(const char *path, off64_t size) { return truncate(path, size); }

int fallocate(int fd, int mode, off_t offset, off_t length)
{
    char path[PATH_MAX];
    struct stat status;
    int result;
    if (!known(fd, &status, path))
        return REAL(fallocate)(fd, mode, offset, length);
    pthread_mutex_lock(&lock);
    result = REAL(fallocate)(fd, mode, offset, length);
    if (result == 0)
        note(ALLOCATE, status.st_ino, offset, length,
             mode & 0x02 ? "punch" : mode & 0x01 ? "keep" : "grow", "");
    pthread_mutex_unlock(&lock);
    return result;
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length) { return fallocate(fd, mode, offset, length); }

int posix_fallocate(int fd, off_t offset, off_t length)
{
    return fallocate(fd, 0, offset, length) == 0 ? 0 : errno;
}

int posix_fallocate64(int fd, off64_t offset, off64_t length) { return posix_fallocate(fd, offset, length); }

/* ---- syncs */

static uint64_t begun(enum kind kind, const struct stat *status, const char *path)
{
    pthread_mutex_lock(&lock);
    uint64_t number = (uint64_t)getpid() << 32 | ++syncs;
    note(kind, status ? status->st_ino : 0, number, 0, path, status && S_ISDIR(status->st_mode) ? "/" : "");
    pthread_mutex_unlock(&lock);
    return number;
}

static int ended(uint64_t number, int result)
{
    if (result == 0) {
        pthread_mutex_lock(&lock);
        note(SYNCED, 0, number, 0, "", "");
        pthread_mutex_unlock(&lock);
    }
    return result;
}

typedef int (*sync_call)(int fd);

static int synced(int fd, sync_call call)
{
    char path[PATH_MAX];
    struct stat status;
    if (!known(fd, &status, path))
        return call(fd);
    uint64_t number = begun(SYNC, &status, path);
    return ended(number, call(fd));
}

int fsync(int fd) { return synced(fd, REAL(fsync)); }
int fdatasync(int fd) { return synced(fd, REAL(fdatasync)); }

void sync(void)
{
    uint64_t number = notes < 0 ? 0 : begun(SYNC_ALL, NULL, "");
    REAL(sync)();
    if (number)
        ended(number, 0);
}
