/* What smbd is preloaded with (LD_PRELOAD): what its module full_audit says goes to the gateway, not to the
 * system's log.
 *
 * full_audit can write to syslog(3), or among smbd's other messages. In the first there may be nobody to listen, and in
 * both a name with a line break in it makes two lines of one. Here each call becomes one packet of four parts on the
 * socket that FUSEGW_AUDIT_FD names: a record cannot be made to look like two, nor like another one.
 *
 * The socket is handed down from the gateway, so no other process can write to it, and it needs no place that the
 * users of shares could reach. Programs that smbd executes do not get it. When the gateway does not read for as long
 * as the socket's own limit says, the record is given up, and the next one is preceded by "lost" and their number.
 *
 * It is no Python module; it is built and installed as one so that it lies in the package.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <syslog.h>

#define EXPORTED __attribute__((visibility("default")))
#define FIRST_NUMBER 500 /* out of the way of what daemons close and open by number */
#define RECORD_BYTES_MAX 16384
/* Who, which operation, its outcome, on what: the only one that full_audit uses. */
#define AUDIT_FORMAT "%s|%s|%s|%s\n"

static int channel = -1;
static struct stat identity;
static unsigned long lost;

__attribute__((constructor)) static void begin(void)
{
	const char *number = getenv("FUSEGW_AUDIT_FD");
	int given;

	if (!number)
		return;
	given = atoi(number);
	channel = fcntl(given, F_DUPFD_CLOEXEC, FIRST_NUMBER);
	fcntl(given, F_SETFD, FD_CLOEXEC);
	unsetenv("FUSEGW_AUDIT_FD");
	if (channel < 0 || fstat(channel, &identity))
		_Exit(71);
}

/* Whether the number still is that of our socket. */
static int is_ours(void)
{
	struct stat found;

	return channel >= 0 && !fstat(channel, &found) && found.st_dev == identity.st_dev &&
	       found.st_ino == identity.st_ino;
}

static int deliver(const char *text, size_t length)
{
	ssize_t sent;

	do
		sent = send(channel, text, length, MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	return sent >= 0;
}

/* Parts end in a zero, which is in none of them. */
static size_t append(char *text, size_t length, const char *part)
{
	size_t more = strlen(part);

	if (more > RECORD_BYTES_MAX - 1 - length)
		more = RECORD_BYTES_MAX - 1 - length;
	memcpy(text + length, part, more);
	text[length + more] = 0;
	return length + more + 1 < RECORD_BYTES_MAX ? length + more + 1 : RECORD_BYTES_MAX - 1;
}

static void record(const char *format, va_list arguments)
{
	const char *who, *operation, *outcome, *what;
	char text[RECORD_BYTES_MAX];
	size_t length = 0;

	if (strcmp(format, AUDIT_FORMAT))
		return;
	who = va_arg(arguments, const char *);
	operation = va_arg(arguments, const char *);
	outcome = va_arg(arguments, const char *);
	what = va_arg(arguments, const char *);
	/* Every look at a file opens it; what only reads is not recorded. */
	if (!strcmp(operation, "openat") && !strcmp(outcome, "ok") && what[0] == 'r')
		return;
	if (lost) {
		char note[32] = "lost";

		length = 5 + snprintf(note + 5, sizeof note - 5, "%lu", lost);
		if (deliver(note, length))
			lost = 0;
	}
	length = append(text, 0, who);
	length = append(text, length, operation);
	length = append(text, length, outcome);
	length = append(text, length, what);
	if (!deliver(text, length))
		lost++;
}

static void take(const char *format, va_list arguments)
{
	int before = errno;

	if (is_ours())
		record(format, arguments);
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
