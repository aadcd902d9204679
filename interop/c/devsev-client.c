// SPDX-License-Identifier: Apache-2.0
/*
 * A program that uses /dev/sev, written against the public header only and aware of no software device.
 *
 *   devsev-client status | reset | pek-gen | pdh-gen
 *   devsev-client csr FILE | id FILE | old-id FILE | export PDH CHAIN | import PEK OCA
 *   devsev-client checks          one line per misuse: what, errno, firmware error, lengths
 *   devsev-client ways            reaches the device through every way that opens or inherits it
 *   devsev-client hammer N PREFIX new PDH and export, N times: PREFIX.0.pdh, PREFIX.0.chain, ...
 *
 * Exit code: 0, or 1 after a line `NAME: errno E error F`.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/psp-sev.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CERT = 2084, CHAIN = 3 * CERT, UNTOUCHED = 0x5a5a };

static struct sev_issue_cmd last;

static int issue(int fd, uint32_t cmd, void *data)
{
	last.cmd = cmd;
	last.data = (uintptr_t)data;
	last.error = UNTOUCHED;
	errno = 0;
	return ioctl(fd, SEV_ISSUE_CMD, &last);
}

static int outcome(const char *name, int ret)
{
	if (ret == 0)
		return 0;
	printf("%s: errno %d error %u\n", name, errno, last.error);
	return 1;
}

static void save(const char *path, const void *data, size_t length)
{
	FILE *f = fopen(path, "wb");

	if (f == NULL || fwrite(data, 1, length, f) != length || fclose(f) != 0) {
		perror(path);
		exit(2);
	}
}

static size_t load(const char *path, void *data, size_t room)
{
	FILE *f = fopen(path, "rb");
	size_t length;

	if (f == NULL) {
		perror(path);
		exit(2);
	}
	length = fread(data, 1, room, f);
	fclose(f);
	return length;
}

static int opened(int flags)
{
	int fd = open("/dev/sev", flags);

	if (fd < 0) {
		perror("/dev/sev");
		exit(2);
	}
	return fd;
}

static int status(int fd)
{
	struct sev_user_data_status s;
	int ret = issue(fd, SEV_PLATFORM_STATUS, &s);

	if (ret == 0)
		printf("api %u.%u build %u state %u flags 0x%x guests %u error %u\n", s.api_major, s.api_minor, s.build,
		       s.state, s.flags, s.guest_count, last.error);
	return outcome("status", ret);
}

static int csr(int fd, const char *path)
{
	char blob[CERT];
	struct sev_user_data_pek_csr c = { .address = (uintptr_t)blob, .length = sizeof(blob) };
	int ret = issue(fd, SEV_PEK_CSR, &c);

	if (ret == 0)
		save(path, blob, c.length);
	return outcome("csr", ret);
}

static int id(int fd, const char *path)
{
	char blob[64];
	struct sev_user_data_get_id2 g = { .address = (uintptr_t)blob, .length = sizeof(blob) };
	int ret = issue(fd, SEV_GET_ID2, &g);

	if (ret == 0)
		save(path, blob, g.length);
	return outcome("id", ret);
}

static int old_id(int fd, const char *path)
{
	struct sev_user_data_get_id g = { 0 };
	int ret = issue(fd, SEV_GET_ID, &g);

	if (ret == 0)
		save(path, g.socket1, sizeof(g.socket1));
	return outcome("old-id", ret);
}

static int export(int fd, const char *pdh_path, const char *chain_path)
{
	static char pdh[CERT], chain[CHAIN];
	struct sev_user_data_pdh_cert_export e = {
		.pdh_cert_address = (uintptr_t)pdh,
		.pdh_cert_len = sizeof(pdh),
		.cert_chain_address = (uintptr_t)chain,
		.cert_chain_len = sizeof(chain),
	};
	int ret = issue(fd, SEV_PDH_CERT_EXPORT, &e);

	if (ret == 0) {
		save(pdh_path, pdh, e.pdh_cert_len);
		save(chain_path, chain, e.cert_chain_len);
	}
	return outcome("export", ret);
}

static int import(int fd, const char *pek_path, const char *oca_path)
{
	char pek[0x4000], oca[0x4000];
	struct sev_user_data_pek_cert_import i = {
		.pek_cert_address = (uintptr_t)pek,
		.pek_cert_len = load(pek_path, pek, sizeof(pek)),
		.oca_cert_address = (uintptr_t)oca,
		.oca_cert_len = load(oca_path, oca, sizeof(oca)),
	};

	return outcome("import", issue(fd, SEV_PEK_CERT_IMPORT, &i));
}

static int hammer(int fd, int rounds, const char *prefix)
{
	for (int i = 0; i < rounds; i++) {
		char pdh[4096], chain[4096];

		snprintf(pdh, sizeof(pdh), "%s.%d.pdh", prefix, i);
		snprintf(chain, sizeof(chain), "%s.%d.chain", prefix, i);
		if (outcome("pdh-gen", issue(fd, SEV_PDH_GEN, NULL)) != 0 || export(fd, pdh, chain) != 0)
			return 1;
	}
	return 0;
}

/* ---- misuse ---- */

static void told(const char *what, int ret)
{
	printf("%s: ret %d errno %d error %u\n", what, ret, errno, last.error);
}

static int checks(void)
{
	char blob[0x4001];
	char *unmapped = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int rw = opened(O_RDWR), ro = opened(O_RDONLY);
	struct sev_user_data_pek_csr c = { .address = (uintptr_t)blob, .length = 1 };
	struct sev_user_data_pdh_cert_export e = { 0 };
	struct sev_user_data_get_id2 g = { .address = (uintptr_t)blob, .length = 63 };
	struct sev_user_data_pek_cert_import i = { .pek_cert_address = (uintptr_t)blob, .pek_cert_len = 0x4001 };
	struct sev_issue_cmd *across;
	int ret;

	munmap(unmapped + 4096, 4096);
	told("unknown ioctl", ioctl(rw, _IOWR('S', 1, struct sev_issue_cmd), &last));
	told("null argument", ioctl(rw, SEV_ISSUE_CMD, NULL));
	told("wild argument", ioctl(rw, SEV_ISSUE_CMD, (void *)(uintptr_t)0xdead0000dead0000));
	across = (void *)(unmapped + 4096 - 8);
	told("argument ends outside", ioctl(rw, SEV_ISSUE_CMD, across));
	told("command SEV_MAX", issue(rw, SEV_MAX, NULL));
	told("command SEV_MAX + 1", issue(rw, SEV_MAX + 1, NULL));
	told("status to nowhere", issue(rw, SEV_PLATFORM_STATUS, NULL));
	told("status to read-only memory", issue(rw, SEV_PLATFORM_STATUS, (void *)(uintptr_t)"read only memory"));
	told("status across the end", issue(rw, SEV_PLATFORM_STATUS, unmapped + 4096 - 4));
	told("status, read-only", issue(ro, SEV_PLATFORM_STATUS, blob));
	told("reset, read-only", issue(ro, SEV_FACTORY_RESET, NULL));
	told("pek-gen, read-only", issue(ro, SEV_PEK_GEN, NULL));
	told("pdh-gen, read-only", issue(ro, SEV_PDH_GEN, NULL));
	told("csr, read-only", issue(ro, SEV_PEK_CSR, &c));
	told("import, read-only", issue(ro, SEV_PEK_CERT_IMPORT, &i));
	ret = issue(rw, SEV_PEK_CSR, &c);
	told("csr, short", ret);
	printf("csr, length: %u\n", c.length);
	c.length = 0x4001;
	told("csr, too long", issue(rw, SEV_PEK_CSR, &c));
	ret = issue(ro, SEV_PDH_CERT_EXPORT, &e);
	told("export, query", ret);
	printf("export, lengths: %u %u\n", e.pdh_cert_len, e.cert_chain_len);
	ret = issue(ro, SEV_GET_ID2, &g);
	told("id, short", ret);
	printf("id, length: %u\n", g.length);
	told("import, too long", issue(rw, SEV_PEK_CERT_IMPORT, &i));
	i.pek_cert_len = 100;
	i.oca_cert_address = (uintptr_t)blob;
	i.oca_cert_len = 100;
	told("import, short", issue(rw, SEV_PEK_CERT_IMPORT, &i));
	return 0;
}

/* ---- ways to the device ---- */

static int works(const char *way, int fd)
{
	char blob[sizeof(struct sev_user_data_status)];
	int ret = fd < 0 ? -1 : issue(fd, SEV_PLATFORM_STATUS, blob);

	printf("%s: %s\n", way, ret == 0 ? "ok" : strerror(errno));
	return ret;
}

static void inherited(const char *way, int fd, int by_exec)
{
	int code;
	pid_t child;
	char number[16];

	fflush(stdout);
	child = fork();
	if (child == 0) {
		snprintf(number, sizeof(number), "%d", fd);
		if (by_exec)
			execl("/proc/self/exe", "devsev-client", "fd", number, (char *)NULL);
		_exit(works(way, fd) == 0 && fflush(stdout) == 0 ? 0 : 1);
	}
	waitpid(child, &code, 0);
	if (code != 0)
		printf("%s: child ended with %d\n", way, code);
}

static int passed(int fd)
{
	int ends[2], got = -1;
	char byte = 0;
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { { 0 } };
	struct iovec data = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.space,
				  .msg_controllen = sizeof(control.space) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(int));
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0 || sendmsg(ends[0], &message, 0) != 1 ||
	    recvmsg(ends[1], &message, 0) != 1)
		return -1;
	memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
	return got;
}

static void said(const char *what, int ret, int as_expected)
{
	printf("%s: %d%s\n", what, ret, as_expected ? "" : " (not as expected)");
}

static int ways(void)
{
	int ret;
	struct stat st;
	struct statx stx;
	FILE *f = fopen("/dev/sev", "r+");
	int fd = open("/dev/sev", O_RDWR);
	int null = open("/dev/null", O_RDONLY);

	works("open", fd);
	works("open with O_CLOEXEC", open("/dev/sev", O_RDWR | O_CLOEXEC));
	works("openat", openat(AT_FDCWD, "/dev/sev", O_RDONLY));
	works("doubled slashes", open("//dev//sev", O_RDONLY));
	works("fopen", f == NULL ? -1 : fileno(f));
	works("dup", dup(fd));
	works("fcntl", fcntl(fd, F_DUPFD, 100));
	works("SCM_RIGHTS", passed(fd));
	inherited("fork", fd, 0);
	inherited("exec", fd, 1);
	said("access", access("/dev/sev", R_OK | W_OK), 1);
	said("faccessat", faccessat(AT_FDCWD, "/dev/sev", F_OK, 0), 1);
	ret = stat("/dev/sev", &st);
	said("stat", ret, S_ISCHR(st.st_mode));
	ret = fstat(fd, &st);
	said("fstat", ret, S_ISCHR(st.st_mode));
	ret = lstat("/dev/sev", &st);
	said("lstat", ret, S_ISCHR(st.st_mode));
	ret = statx(AT_FDCWD, "/dev/sev", 0, STATX_ALL, &stx);
	said("statx", ret, S_ISCHR(stx.stx_mode));
	ret = open("/dev/sev", O_CREAT | O_EXCL | O_RDWR, 0600);
	said("exclusive creation", ret, errno == EEXIST);
	ret = ioctl(null, SEV_ISSUE_CMD, &last);
	said("another file", ret, errno == ENOTTY);
	ret = open("/dev/sevx", O_RDWR);
	said("another path", ret, errno == ENOENT);
	ret = ioctl(fd, FIOCLEX);
	said("close-on-exec", ret, fcntl(fd, F_GETFD) == FD_CLOEXEC);
	ret = issue(open("/dev/sev", O_PATH), SEV_PLATFORM_STATUS, NULL);
	said("looked up only", ret, errno == EBADF);
	close(fd);
	ret = issue(fd, SEV_PLATFORM_STATUS, NULL);
	said("closed", ret, errno == EBADF);
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (strcmp(what, "checks") == 0)
		return checks();
	if (strcmp(what, "ways") == 0)
		return ways();
	if (strcmp(what, "fd") == 0 && argc > 2)
		return works("exec", atoi(argv[2])) != 0;
	if (strcmp(what, "status") == 0)
		return status(opened(O_RDONLY));
	if (strcmp(what, "id") == 0 && argc > 2)
		return id(opened(O_RDONLY), argv[2]);
	if (strcmp(what, "old-id") == 0 && argc > 2)
		return old_id(opened(O_RDONLY), argv[2]);
	if (strcmp(what, "reset") == 0)
		return outcome(what, issue(opened(O_RDWR), SEV_FACTORY_RESET, NULL));
	if (strcmp(what, "pek-gen") == 0)
		return outcome(what, issue(opened(O_RDWR), SEV_PEK_GEN, NULL));
	if (strcmp(what, "pdh-gen") == 0)
		return outcome(what, issue(opened(O_RDWR), SEV_PDH_GEN, NULL));
	if (strcmp(what, "csr") == 0 && argc > 2)
		return csr(opened(O_RDWR), argv[2]);
	if (strcmp(what, "export") == 0 && argc > 3)
		return export(opened(O_RDWR), argv[2], argv[3]);
	if (strcmp(what, "import") == 0 && argc > 3)
		return import(opened(O_RDWR), argv[2], argv[3]);
	if (strcmp(what, "hammer") == 0 && argc > 3)
		return hammer(opened(O_RDWR), atoi(argv[2]), argv[3]);
	fprintf(stderr, "devsev-client: see the source for what it does\n");
	return 2;
}
