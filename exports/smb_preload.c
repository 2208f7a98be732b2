/* What smbd is preloaded with (LD_PRELOAD). Two things:
 *
 * 1. What its module full_audit says goes to the gateway (audit_channel.h), not to the system's log, where there may be
 *    nobody to listen, and a name with a line break in it makes two lines of one.
 * 2. A directory with a quota has that quota's size and room. FUSE asks a mount for its figures as a whole, so statvfs
 *    cannot tell by itself; the attribute user.fusegw.quota does.
 *
 * It is no Python module; it is built and installed as one so that it lies in the package.
 */
#define _GNU_SOURCE
#include "audit_channel.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <syslog.h>

#define EXPORTED __attribute__((visibility("default")))
/* Who, which operation, its outcome, on what: the only one that full_audit uses. */
#define AUDIT_FORMAT "%s|%s|%s|%s\n"

__attribute__((constructor)) static void begin(void)
{
	open_channel();
}

static void take(const char *format, va_list arguments)
{
	const char *who, *operation, *outcome, *what;
	int before = errno;

	if (!strcmp(format, AUDIT_FORMAT) && is_ours()) {
		who = va_arg(arguments, const char *);
		operation = va_arg(arguments, const char *);
		outcome = va_arg(arguments, const char *);
		what = va_arg(arguments, const char *);
		/* Every look at a file opens it; what only reads is not recorded. */
		if (strcmp(operation, "openat") || strcmp(outcome, "ok") || what[0] != 'r')
			send_record(who, operation, outcome, what, NULL);
	}
	errno = before;
}

EXPORTED void vsyslog(int priority, const char *format, va_list arguments)
{
	(void)priority;
	take(format, arguments);
}

EXPORTED void syslog(int priority, const char *format, ...)
{
	va_list arguments;

	(void)priority;
	va_start(arguments, format);
	take(format, arguments);
	va_end(arguments);
}

/* Of what a directory may hold: what is used of it, and what is left. */
static bool find_limit(const char *text, const char *kind, unsigned long long *used, unsigned long long *left)
{
	const char *at = strstr(text, kind);

	return at && sscanf(at + strlen(kind), " %llu %llu", used, left) == 2;
}

EXPORTED int statvfs(const char *path, struct statvfs *figures)
{
	static int (*real)(const char *, struct statvfs *);
	unsigned long long used, left;
	char text[128];
	ssize_t length;
	int before;

	if (!real)
		real = (int (*)(const char *, struct statvfs *))dlsym(RTLD_NEXT, "statvfs");
	if (real(path, figures))
		return -1;
	before = errno;
	length = getxattr(path, "user.fusegw.quota", text, sizeof(text) - 1);
	errno = before;
	if (length <= 0 || !figures->f_frsize)
		return 0;
	text[length] = 0;
	if (find_limit(text, "bytes", &used, &left)) {
		left /= figures->f_frsize;
		if (figures->f_bavail > left)
			figures->f_bavail = left;
		figures->f_bfree = figures->f_bavail;
		figures->f_blocks = (used + figures->f_frsize - 1) / figures->f_frsize + figures->f_bavail;
	}
	if (find_limit(text, "files", &used, &left)) {
		figures->f_ffree = figures->f_favail = left;
		figures->f_files = used + left;
	}
	return 0;
}

/* What the two of syslog are called by where the compiler fortifies. */
EXPORTED void __vsyslog_chk(int priority, int flag, const char *format, va_list arguments);
EXPORTED void __syslog_chk(int priority, int flag, const char *format, ...);

EXPORTED void __vsyslog_chk(int priority, int flag, const char *format, va_list arguments)
{
	(void)priority, (void)flag;
	take(format, arguments);
}

EXPORTED void __syslog_chk(int priority, int flag, const char *format, ...)
{
	va_list arguments;

	(void)priority, (void)flag;
	va_start(arguments, format);
	take(format, arguments);
	va_end(arguments);
}
