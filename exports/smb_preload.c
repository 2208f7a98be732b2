/* What smbd is preloaded with (LD_PRELOAD): what its module full_audit says goes to the gateway (audit_channel.h), not
 * to the system's log, where there may be nobody to listen, and a name with a line break in it makes two lines of one.
 *
 * It is no Python module; it is built and installed as one so that it lies in the package.
 */
#define _GNU_SOURCE
#include "audit_channel.h"

#include <stdarg.h>
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

/* What the two above are called by where the compiler fortifies. */
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
