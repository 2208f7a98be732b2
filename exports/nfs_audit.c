/* Of what nfs-ganesha is preloaded with, the part that tells the gateway what its clients change (audit_channel.h).
 *
 * ganesha's own log could name each request, but neither whole paths nor users, and would have to name the reads too.
 * So the system calls are told of with which it changes the mount; those on other file systems are not. A call is made
 * by the thread that received the request: the client is at the other end of the connection that the thread read from
 * last, and the thread's effective user is the user, as squashed.
 */
#define _GNU_SOURCE
#include "audit_channel.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))
#define REAL(result, name, ...) \
	static result (*real)(__VA_ARGS__); \
	if (!real) \
		real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static dev_t device;
static __thread int connection = -1;

__attribute__((constructor)) static void begin_audit(void)
{
	const char *mountpoint = getenv("FUSEGW_NFS_MOUNTPOINT");
	struct stat found;

	if (mountpoint && !stat(mountpoint, &found)) {
		device = found.st_dev;
		open_channel();
	}
}

static int is_on_mount(int descriptor)
{
	struct stat found;

	return channel >= 0 && !fstat(descriptor, &found) && found.st_dev == device;
}

static void name_client(int descriptor, char *text, size_t size)
{
	struct sockaddr_storage address;
	socklen_t length = sizeof address;

	text[0] = 0;
	if (descriptor < 0 || getpeername(descriptor, (struct sockaddr *)&address, &length))
		return;
	if (address.ss_family == AF_INET) {
		inet_ntop(AF_INET, &((struct sockaddr_in *)&address)->sin_addr, text, size);
	} else if (address.ss_family == AF_INET6) {
		struct in6_addr *in6 = &((struct sockaddr_in6 *)&address)->sin6_addr;

		if (IN6_IS_ADDR_V4MAPPED(in6))
			inet_ntop(AF_INET, in6->s6_addr + 12, text, size);
		else
			inet_ntop(AF_INET6, in6, text, size);
	}
}

/* DIRECTORY/NAME, or DIRECTORY itself, an open file as well, with NAME NULL. */
static void path_of(char *path, int directory, const char *name)
{
	char link[32];
	ssize_t length;

	snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
	length = readlink(link, path, PATH_MAX - 1);
	path[length > 0 ? length : 0] = 0;
	if (name)
		snprintf(path + strlen(path), NAME_MAX + 2, "/%s", name);
}

static void tell(const char *operation, int status, int from, const char *path, const char *to)
{
	char client[INET6_ADDRSTRLEN], who[INET6_ADDRSTRLEN + 32], outcome[160] = "ok";
	int before = errno;

	if (is_ours()) {
		name_client(from, client, sizeof client);
		if (strcmp(operation, "connect"))
			snprintf(who, sizeof who, "%ld|%s|", syscall(SYS_geteuid), client);
		else
			snprintf(who, sizeof who, "|%s|", client);
		if (status < 0)
			snprintf(outcome, sizeof outcome, "fail (%s)", strerror(before));
		send_record(who, operation, outcome, path, to);
	}
	errno = before;
}

static void tell_name(const char *operation, int status, int directory, const char *name)
{
	char path[PATH_MAX + NAME_MAX + 2];
	int before = errno;

	if (is_on_mount(directory)) {
		path_of(path, directory, name);
		errno = before;
		tell(operation, status, connection, path, NULL);
	}
	errno = before;
}

static void tell_names(const char *operation, int status, int old_at, const char *old, int new_at, const char *new)
{
	char path[PATH_MAX + NAME_MAX + 2], to[PATH_MAX + NAME_MAX + 2];
	int before = errno;

	if (is_on_mount(new_at)) {
		path_of(path, old_at, *old ? old : NULL);
		path_of(to, new_at, new);
		errno = before;
		tell(operation, status, connection, path, to);
	}
	errno = before;
}

/* ganesha loads what calls for files so that it sees the C library before us. */
EXPORTED void *dlopen(const char *path, int flags)
{
	REAL(void *, dlopen, const char *, int);

	return real(path, channel >= 0 ? flags & ~RTLD_DEEPBIND : flags);
}

EXPORTED ssize_t recv(int descriptor, void *data, size_t size, int flags)
{
	ssize_t got;
	REAL(ssize_t, recv, int, void *, size_t, int);

	got = real(descriptor, data, size, flags);
	if (got > 0)
		connection = descriptor;
	return got;
}

EXPORTED int accept(int descriptor, struct sockaddr *address, socklen_t *length)
{
	int found, before;
	REAL(int, accept, int, struct sockaddr *, socklen_t *);

	found = real(descriptor, address, length);
	before = errno;
	if (found >= 0)
		tell("connect", 0, found, "/", NULL);
	errno = before;
	return found;
}

EXPORTED int unlinkat(int directory, const char *name, int flags)
{
	int status;
	REAL(int, unlinkat, int, const char *, int);

	status = real(directory, name, flags);
	tell_name("unlinkat", status, directory, name);
	return status;
}

EXPORTED int mkdirat(int directory, const char *name, mode_t mode)
{
	int status;
	REAL(int, mkdirat, int, const char *, mode_t);

	status = real(directory, name, mode);
	tell_name("mkdirat", status, directory, name);
	return status;
}

EXPORTED int symlinkat(const char *target, int directory, const char *name)
{
	int status;
	REAL(int, symlinkat, const char *, int, const char *);

	status = real(target, directory, name);
	tell_name("symlinkat", status, directory, name);
	return status;
}

EXPORTED int renameat(int old_at, const char *old, int new_at, const char *new)
{
	int status;
	REAL(int, renameat, int, const char *, int, const char *);

	status = real(old_at, old, new_at, new);
	tell_names("renameat", status, old_at, old, new_at, new);
	return status;
}

EXPORTED int linkat(int old_at, const char *old, int new_at, const char *new, int flags)
{
	int status;
	REAL(int, linkat, int, const char *, int, const char *, int);

	status = real(old_at, old, new_at, new, flags);
	tell_names("linkat", status, old_at, old, new_at, new);
	return status;
}

EXPORTED int openat64(int directory, const char *name, int flags, ...)
{
	va_list more;
	mode_t mode;
	int found;
	REAL(int, openat64, int, const char *, int, ...);

	va_start(more, flags);
	mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0;
	va_end(more);
	found = real(directory, name, flags, mode);
	if (flags & O_CREAT || (flags & O_ACCMODE) != O_RDONLY)
		tell_name("write", found, directory, name);
	return found;
}

/* The same where the compiler fortifies; it makes no files. */
EXPORTED int __openat64_2(int directory, const char *name, int flags);

EXPORTED int __openat64_2(int directory, const char *name, int flags)
{
	int found;
	REAL(int, __openat64_2, int, const char *, int);

	found = real(directory, name, flags);
	if ((flags & O_ACCMODE) != O_RDONLY)
		tell_name("write", found, directory, name);
	return found;
}

EXPORTED int open_by_handle_at(int mount, struct file_handle *handle, int flags)
{
	char path[PATH_MAX + NAME_MAX + 2];
	int found, before;
	REAL(int, open_by_handle_at, int, struct file_handle *, int);

	found = real(mount, handle, flags);
	before = errno;
	if (found >= 0 && (flags & O_ACCMODE) != O_RDONLY && !(flags & O_PATH) && is_on_mount(found)) {
		path_of(path, found, NULL);
		tell("write", 0, connection, path, NULL);
	}
	errno = before;
	return found;
}
