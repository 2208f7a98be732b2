/* What nfs-ganesha is preloaded with (LD_PRELOAD) when it serves a fusegw mount. Four things:
 *
 * 1. File handles outlive a remount. FSAL_VFS puts a file system's id into each handle. FUSE has none, so the
 *    number of its device is taken, which every mount draws anew: all handles would be stale after the gateway was
 *    started again. Here statfs of our mount, and of no other, answers the constant FUSEGW_NFS_FSID.
 * 2. No rpcbind is needed or changed while FUSEGW_NFS_PORTMAPPER is not "1": NFSv3 is then for clients that
 *    are told its two ports. (Without this, ganesha does not start where no rpcbind runs.)
 * 3. It ends as soon as its standard input does, which is a pipe the gateway holds: a server whose gateway
 *    was killed would answer every request with an error for ever.
 * 4. It listens at FUSEGW_NFS_LISTEN and nowhere else. On a host without an IPv6 address of its own, ganesha 4.3
 *    forgets its Bind_addr and listens on all addresses; without any network it finds no address for "127.0.0.1".
 *
 * It is no Python module; it is built and installed as one so that it lies in the package.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define FUSE_SUPER_MAGIC 0x65735546
#define EXPORTED __attribute__((visibility("default")))

static uint64_t fsid; /* 0: leave statfs alone */
static dev_t device;
static bool portmapper;
static bool listen_v6;
static struct in6_addr listen_at; /* IPv4 as ::ffff:… */

static void *end_with_input(void *unused)
{
	char byte;
	ssize_t got;

	do
		got = read(STDIN_FILENO, &byte, 1);
	while (got > 0 || (got < 0 && errno == EINTR));
	_exit(0);
	return unused;
}

__attribute__((constructor)) static void begin(void)
{
	const char *id = getenv("FUSEGW_NFS_FSID"), *mountpoint = getenv("FUSEGW_NFS_MOUNTPOINT");
	const char *mapper = getenv("FUSEGW_NFS_PORTMAPPER"), *listen = getenv("FUSEGW_NFS_LISTEN");
	struct in_addr v4;
	sigset_t all, before;
	struct stat found;
	pthread_t thread;

	unsetenv("LD_PRELOAD");
	portmapper = mapper && !strcmp(mapper, "1");
	if (!id || !mountpoint || !listen || stat(mountpoint, &found))
		_exit(71);
	if (inet_pton(AF_INET, listen, &v4) == 1) {
		listen_at.s6_addr[10] = listen_at.s6_addr[11] = 0xff;
		memcpy(listen_at.s6_addr + 12, &v4, sizeof(v4));
	} else if (inet_pton(AF_INET6, listen, &listen_at) == 1) {
		listen_v6 = true;
	} else {
		_exit(71);
	}
	fsid = strtoull(id, NULL, 16);
	device = found.st_dev;
	/* Signals are for ganesha's own threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (pthread_create(&thread, NULL, end_with_input, NULL))
		_exit(71);
	pthread_detach(thread);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static bool is_any_v4(const struct in6_addr *address)
{
	static const struct in6_addr any = { .s6_addr = { [10] = 0xff, [11] = 0xff } };

	return !memcmp(address, &any, sizeof(any));
}

EXPORTED int statfs64(const char *path, struct statfs64 *figures)
{
	static int (*real)(const char *, struct statfs64 *);
	struct stat found;

	if (!real)
		real = (int (*)(const char *, struct statfs64 *))dlsym(RTLD_NEXT, "statfs64");
	if (real(path, figures))
		return -1;
	if (figures->f_type == FUSE_SUPER_MAGIC && !stat(path, &found) && found.st_dev == device)
		memcpy(&figures->f_fsid, &fsid, sizeof(figures->f_fsid));
	return 0;
}

/* What is bound to a port of all addresses is bound to that port where we listen; `::` and 0.0.0.0 stay what they are. */
EXPORTED int bind(int descriptor, const struct sockaddr *address, socklen_t length)
{
	static int (*real)(int, const struct sockaddr *, socklen_t);
	struct sockaddr_in in;
	struct sockaddr_in6 in6;

	if (!real)
		real = (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "bind");
	if (address->sa_family == AF_INET6 && length >= sizeof(in6)) {
		memcpy(&in6, address, sizeof(in6));
		if (in6.sin6_port && (IN6_IS_ADDR_UNSPECIFIED(&in6.sin6_addr) || is_any_v4(&in6.sin6_addr))) {
			in6.sin6_addr = listen_at;
			return real(descriptor, (struct sockaddr *)&in6, sizeof(in6));
		}
	} else if (address->sa_family == AF_INET && length >= sizeof(in)) {
		memcpy(&in, address, sizeof(in));
		if (in.sin_port && in.sin_addr.s_addr == htonl(INADDR_ANY)) {
			if (listen_v6) {
				errno = EADDRNOTAVAIL;
				return -1;
			}
			memcpy(&in.sin_addr, listen_at.s6_addr + 12, sizeof(in.sin_addr));
			return real(descriptor, (struct sockaddr *)&in, sizeof(in));
		}
	}
	return real(descriptor, address, length);
}

/* An address is one, whether this host has others like it or not. */
EXPORTED int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
	static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
	struct addrinfo wanted;

	if (!real)
		real = (int (*)(const char *, const char *, const struct addrinfo *, struct addrinfo **))dlsym(
			RTLD_NEXT, "getaddrinfo");
	if (!hints)
		return real(node, service, hints, found);
	wanted = *hints;
	wanted.ai_flags &= ~AI_ADDRCONFIG;
	return real(node, service, &wanted, found);
}

/* Of libntirpc. */
EXPORTED bool rpcb_set(uint32_t program, uint32_t version, const void *network, const void *address)
{
	static bool (*real)(uint32_t, uint32_t, const void *, const void *);

	if (!portmapper)
		return true;
	if (!real)
		real = (bool (*)(uint32_t, uint32_t, const void *, const void *))dlsym(RTLD_NEXT, "rpcb_set");
	return real(program, version, network, address);
}

EXPORTED bool rpcb_unset(uint32_t program, uint32_t version, const void *network)
{
	static bool (*real)(uint32_t, uint32_t, const void *);

	if (!portmapper)
		return true;
	if (!real)
		real = (bool (*)(uint32_t, uint32_t, const void *))dlsym(RTLD_NEXT, "rpcb_unset");
	return real(program, version, network);
}
