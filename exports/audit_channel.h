/* The way of records into the gateway's audit log, for the libraries that daemons of shares are preloaded with.
 *
 * Each record is one packet of parts, each ended by a zero, on the socket that FUSEGW_AUDIT_FD names: it cannot be made
 * to look like two, nor like another one, whatever names hold. The socket is handed down from the gateway, so no other
 * process can write to it, and it needs no place that the users of shares could reach. Programs that the daemon
 * executes do not get it. When the gateway does not read for as long as the socket's own limit says, the record is
 * given up, and the next one is preceded by "lost" and their number.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define FIRST_NUMBER 500 /* out of the way of what daemons close and open by number */
#define RECORD_BYTES_MAX 16384

static int channel = -1;
static struct stat identity;
static unsigned long lost;

static void open_channel(void)
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

static int send_packet(const char *text, size_t length)
{
	ssize_t sent;

	do
		sent = send(channel, text, length, MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	return sent >= 0;
}

static size_t append(char *text, size_t length, const char *part)
{
	size_t more = strlen(part);

	if (more > RECORD_BYTES_MAX - 1 - length)
		more = RECORD_BYTES_MAX - 1 - length;
	memcpy(text + length, part, more);
	text[length + more] = 0;
	return length + more + 1 < RECORD_BYTES_MAX ? length + more + 1 : RECORD_BYTES_MAX - 1;
}

/* `more` may be NULL. */
static void send_record(const char *who, const char *operation, const char *outcome, const char *what, const char *more)
{
	char text[RECORD_BYTES_MAX];
	unsigned long before = __atomic_exchange_n(&lost, 0, __ATOMIC_RELAXED);
	size_t length = 0;

	if (before) {
		char note[32];

		snprintf(note, sizeof note, "%lu", before);
		length = append(text, append(text, 0, "lost"), note);
		if (!send_packet(text, length))
			__atomic_add_fetch(&lost, before, __ATOMIC_RELAXED);
	}
	length = append(text, 0, who);
	length = append(text, length, operation);
	length = append(text, length, outcome);
	length = append(text, length, what);
	if (more)
		length = append(text, length, more);
	if (!send_packet(text, length))
		__atomic_add_fetch(&lost, 1, __ATOMIC_RELAXED);
}
