/* What nfs-ganesha is preloaded with (LD_PRELOAD) when it serves a fusegw mount. Three things:
 *
 * 1. File handles outlive a remount. FSAL_VFS puts a file system's id into each handle. FUSE has none, so the
 *    number of its device is taken, which every mount draws anew: all handles would be stale after the gateway was
 *    started again. Here statfs of our mount, and of no other, answers the constant FUSEGW_NFS_FSID.
 * 2. No rpcbind is needed or changed while FUSEGW_NFS_PORTMAPPER is not "1": NFSv3 is then for clients that
 *    are told its two ports. (Without this, ganesha does not start where no rpcbind runs.)
 * 3. It ends as soon as its standard input does, which is a pipe the gateway holds: a server whose gateway
 *    was killed would answer every request with an error for ever.
 *
 * It is no Python module; it is built and installed as one so that it lies in the package.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define FUSE_SUPER_MAGIC 0x65735546
#define EXPORTED __attribute__((visibility("default")))

static uint64_t fsid; /* 0: leave statfs alone */
static dev_t device;
static bool portmapper;

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
	const char *mapper = getenv("FUSEGW_NFS_PORTMAPPER");
	sigset_t all, before;
	struct stat found;
	pthread_t thread;

	unsetenv("LD_PRELOAD");
	portmapper = mapper && !strcmp(mapper, "1");
	if (!id || !mountpoint || stat(mountpoint, &found))
		_exit(71);
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
