// SPDX-License-Identifier: Apache-2.0
/*
 * One ioctl on its way to the platform's process.
 *
 * On the socket, all integers little-endian (this file is for little-endian machines):
 *
 *   shim to platform   u32 magic "SEVI", u32 request, u64 argument, u32 flags of open, u32 zero
 *   platform to shim   u32 operation, u32 length, u64 address, then for WRITE length bytes:
 *                        1 READ    answer: u32 errno; if that is 0, length bytes
 *                        2 WRITE   answer: u32 errno
 *                        3 RESULT  address is what the ioctl returns (two's complement, negative errno); ends the exchange
 *
 * length is at most 16 KiB.
 */
#ifndef CVM_DEVSEV_EXCHANGE_H
#define CVM_DEVSEV_EXCHANGE_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum { OP_READ = 1, OP_WRITE = 2, OP_RESULT = 3 };
enum { CHUNK = 4096, MOST = 16 * 1024 };

static const uint32_t MAGIC = 0x49564553; /* "SEVI" */

/* ---- the socket ---- */

/* Moves length bytes, in or out. 0, or -1 when the other end has gone. */
static int transfer(int s, void *data, size_t length, int out)
{
	char *p = data;

	while (length > 0) {
		ssize_t n = out ? send(s, p, length, MSG_NOSIGNAL) : recv(s, p, length, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		p += n;
		length -= (size_t)n;
	}
	return 0;
}

#define send_all(s, data, length) transfer(s, data, length, 1)
#define receive_all(s, data, length) transfer(s, data, length, 0)

static int connect_platform(void)
{
	const char *path = getenv("CVM_DEVSEV_SOCKET");
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int s;

	if (path == NULL || strlen(path) >= sizeof(address.sun_path)) {
		errno = ENODEV;
		return -1;
	}
	strcpy(address.sun_path, path);
	s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s < 0)
		return -1;
	while (connect(s, (struct sockaddr *)&address, sizeof(address)) != 0) {
		if (errno == EINTR)
			continue;
		close(s);
		errno = ENODEV;
		return -1;
	}
	return s;
}

/* ---- this program's memory, through the kernel, so that a bad pointer is an error and not a signal ---- */

/* One piece through a pipe: the kernel copies, and says EFAULT where it cannot. */
static int pipe_copy(void *to, const void *from, size_t length)
{
	int ends[2];
	int result = EFAULT;

	if (pipe2(ends, O_CLOEXEC) != 0)
		return errno;
	if (write(ends[1], from, length) == (ssize_t)length && read(ends[0], to, length) == (ssize_t)length)
		result = 0;
	close(ends[0]);
	close(ends[1]);
	return result;
}

/* Copies between a buffer of ours and memory that may not be there. 0 or a positive errno. */
static int user_copy(int out, uint64_t address, void *ours, size_t length)
{
	size_t done;

	if (address + length < address)
		return EFAULT;
#ifndef CVM_DEVSEV_PIPES
	struct iovec local = { .iov_base = ours, .iov_len = length };
	struct iovec remote = { .iov_base = (void *)(uintptr_t)address, .iov_len = length };
	ssize_t n = out ? process_vm_writev(getpid(), &local, 1, &remote, 1, 0)
			: process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
	if (n == (ssize_t)length)
		return 0;
	if (n >= 0 || errno == EFAULT)
		return EFAULT;
	/* Forbidden or missing here (EPERM, ENOSYS): the slow way. */
#endif
	for (done = 0; done < length; done += CHUNK) {
		size_t piece = length - done < CHUNK ? length - done : CHUNK;
		void *theirs = (void *)(uintptr_t)(address + done);
		char *mine = (char *)ours + done;
		int error = out ? pipe_copy(theirs, mine, piece) : pipe_copy(mine, theirs, piece);
		if (error != 0)
			return error;
	}
	return 0;
}

struct request {
	uint32_t magic, request;
	uint64_t argument;
	uint32_t flags, zero;
};

struct operation {
	uint32_t code, length;
	uint64_t address;
};

/* Serves one READ or WRITE. 0, or -1 when the exchange broke off. */
static int serve(int s, const struct operation *op, char *buffer)
{
	uint32_t error;

	if (op->length > MOST)
		return -1;
	if (op->code == OP_WRITE) {
		if (receive_all(s, buffer, op->length) != 0)
			return -1;
		error = (uint32_t)user_copy(1, op->address, buffer, op->length);
		return send_all(s, &error, sizeof(error));
	}
	if (op->code != OP_READ)
		return -1;
	error = (uint32_t)user_copy(0, op->address, buffer, op->length);
	if (send_all(s, &error, sizeof(error)) != 0)
		return -1;
	return error == 0 ? send_all(s, buffer, op->length) : 0;
}

/* Lets the platform run the ioctl. 0 or more, or a negative errno. */
static int64_t exchange(int s, int fd, unsigned long request, void *argument)
{
	struct request hello = {
		.magic = MAGIC,
		.request = (uint32_t)request,
		.argument = (uint64_t)(uintptr_t)argument,
		.flags = (uint32_t)fcntl(fd, F_GETFL),
	};
	struct operation op;
	char buffer[MOST];
	int64_t result = -ENODEV;

	if (send_all(s, &hello, sizeof(hello)) == 0) {
		while (receive_all(s, &op, sizeof(op)) == 0) {
			if (op.code == OP_RESULT) {
				result = (int64_t)op.address;
				break;
			}
			if (serve(s, &op, buffer) != 0)
				break;
		}
	}
	return result;
}

static int device_ioctl(int fd, unsigned long request, void *argument)
{
	int saved = errno;
	int64_t result;
	int s = connect_platform();

	if (s < 0)
		return -1;
	result = exchange(s, fd, request, argument);
	close(s);
	errno = result < 0 ? (int)-result : saved;
	return result < 0 ? -1 : (int)result;
}

#endif
