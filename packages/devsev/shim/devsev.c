// SPDX-License-Identifier: Apache-2.0
/*
 * The part of the software /dev/sev that lives in the program that uses it: an LD_PRELOAD library for glibc.
 *
 * "/dev/sev" opens a stand-in file, with the caller's flags. The descriptor is a real one of that file and is known by
 * its device and inode, so dup, fork, exec and SCM_RIGHTS keep working. An ioctl on it makes one connection to the
 * platform's process; that process asks for the memory that the ioctl names. All else goes through untouched.
 *
 * CVM_DEVSEV_FILE    path of the stand-in file
 * CVM_DEVSEV_SOCKET  path of the platform's socket
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/types.h>
#include <unistd.h>

#include "exchange.h"

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__ || __SIZEOF_POINTER__ != 8
#error "for 64-bit little-endian machines"
#endif

#define PUBLIC __attribute__((visibility("default")))

/* What stat says of the device: a misc character device (major 10) that root may use. */
enum { MISC_MAJOR = 10, MISC_MINOR = 124 };

/* The next definition of a function: the C library's. */
#define NEXT(name) \
	static __typeof__(name) *next; \
	if (next == NULL) next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static const char *stand_in(void)
{
	return getenv("CVM_DEVSEV_FILE");
}

/* The path that stands for `path`: the same one, unless it names the device. */
static const char *redirect(const char *path)
{
	static const char device[] = "/dev/sev";
	const char *p = path, *d = device;
	const char *file;

	if (path == NULL || *path != '/')
		return path;
	while (*d != '\0') {
		if (*p != *d)
			return path;
		if (*d == '/')
			while (*p == '/')
				p++;
		else
			p++;
		d++;
	}
	if (*p != '\0')
		return path;
	file = stand_in();
	return file == NULL ? path : file;
}

static int real_fstat(int fd, struct stat *st)
{
	NEXT(fstat);
	return next == NULL ? -1 : next(fd, st);
}

static int real_stat(const char *path, struct stat *st)
{
	NEXT(stat);
	return next == NULL ? -1 : next(path, st);
}

/* Whether a file is the stand-in. errno stays as it was. */
static int same_file(dev_t dev, ino_t ino)
{
	const char *file = stand_in();
	int saved = errno;
	struct stat st;
	int same = file != NULL && real_stat(file, &st) == 0 && st.st_dev == dev && st.st_ino == ino;

	errno = saved;
	return same;
}

static int is_device(int fd)
{
	int saved = errno;
	struct stat st;
	int ours = stand_in() != NULL && real_fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && same_file(st.st_dev, st.st_ino);

	errno = saved;
	return ours;
}

/* Makes the stand-in look like the device. */
static int disguise(int ret, struct stat *st)
{
	if (ret == 0 && S_ISREG(st->st_mode) && same_file(st->st_dev, st->st_ino)) {
		st->st_mode = S_IFCHR | 0600;
		st->st_rdev = makedev(MISC_MAJOR, MISC_MINOR);
		st->st_size = 0;
		st->st_blocks = 0;
	}
	return ret;
}

/* Requests that the kernel answers for every file before it asks the driver: do_vfs_ioctl, Linux fs/ioctl.c. */
static int is_generic(unsigned long request)
{
	return request == FIOCLEX || request == FIONCLEX || request == FIONBIO || request == FIOASYNC;
}

#ifdef __GLIBC__
PUBLIC int ioctl(int fd, unsigned long request, ...)
#else
PUBLIC int ioctl(int fd, int request, ...)
#endif
{
	va_list args;
	void *argument;
	NEXT(ioctl);

	va_start(args, request);
	argument = va_arg(args, void *);
	va_end(args);
	/* A descriptor that was only looked up (O_PATH) has no ioctls; the kernel says so. */
	if (is_generic(request) || !is_device(fd) || (fcntl(fd, F_GETFL) & O_PATH) != 0)
		return next(fd, request, argument);
	return device_ioctl(fd, (unsigned long)request, argument);
}

/* ---- opening ---- */

/* open(2) has a mode only with these flags. */
#define TAKE_MODE(flags) \
	mode_t mode = 0; \
	if (((flags) & O_CREAT) != 0 || ((flags) & O_TMPFILE) == O_TMPFILE) { \
		va_list args; \
		va_start(args, flags); \
		mode = va_arg(args, mode_t); \
		va_end(args); \
	}

#define OPEN(name) \
	PUBLIC int name(const char *path, int flags, ...) \
	{ \
		TAKE_MODE(flags) \
		NEXT(name); \
		return next(redirect(path), flags, mode); \
	}

#define OPENAT(name) \
	PUBLIC int name(int folder, const char *path, int flags, ...) \
	{ \
		TAKE_MODE(flags) \
		NEXT(name); \
		return next(folder, redirect(path), flags, mode); \
	}

OPEN(open)
OPENAT(openat)

/* What fortified programs call instead; without a declaration of their own in the headers. */
#define OPEN_2(name) \
	int name(const char *path, int flags); \
	PUBLIC int name(const char *path, int flags) \
	{ \
		NEXT(name); \
		return next(redirect(path), flags); \
	}

#define OPENAT_2(name) \
	int name(int folder, const char *path, int flags); \
	PUBLIC int name(int folder, const char *path, int flags) \
	{ \
		NEXT(name); \
		return next(folder, redirect(path), flags); \
	}

OPEN_2(__open_2)
OPENAT_2(__openat_2)

#define FOPEN(name) \
	PUBLIC FILE *name(const char *path, const char *mode) \
	{ \
		NEXT(name); \
		return next(redirect(path), mode); \
	}

FOPEN(fopen)

/* ---- looking ---- */

#define ACCESS(name) \
	PUBLIC int name(const char *path, int mode) \
	{ \
		NEXT(name); \
		return next(redirect(path), mode); \
	}

ACCESS(access)
ACCESS(euidaccess)
ACCESS(eaccess)

PUBLIC int faccessat(int folder, const char *path, int mode, int flags)
{
	NEXT(faccessat);
	return next(folder, redirect(path), mode, flags);
}

PUBLIC int stat(const char *path, struct stat *st)
{
	return disguise(real_stat(redirect(path), st), st);
}

PUBLIC int lstat(const char *path, struct stat *st)
{
	NEXT(lstat);
	return disguise(next(redirect(path), st), st);
}

PUBLIC int fstat(int fd, struct stat *st)
{
	return disguise(real_fstat(fd, st), st);
}

PUBLIC int fstatat(int folder, const char *path, struct stat *st, int flags)
{
	NEXT(fstatat);
	return disguise(next(folder, redirect(path), st, flags), st);
}

#ifdef __GLIBC__

OPEN(open64)
OPENAT(openat64)
OPEN_2(__open64_2)
OPENAT_2(__openat64_2)

FOPEN(fopen64)

/* On 64-bit machines struct stat64 is struct stat. */
#define STAT64(name, by, type) \
	PUBLIC int name(type file, struct stat64 *st) \
	{ \
		return by(file, (struct stat *)st); \
	}

STAT64(stat64, stat, const char *)
STAT64(lstat64, lstat, const char *)
STAT64(fstat64, fstat, int)

PUBLIC int fstatat64(int folder, const char *path, struct stat64 *st, int flags)
{
	return fstatat(folder, path, (struct stat *)st, flags);
}

/* Programs built before glibc 2.33 call these; `version` says which struct stat, and there is one. */
#define XSTAT(name, by, type) \
	int name(int version, type file, struct stat *st); \
	PUBLIC int name(int version, type file, struct stat *st) \
	{ \
		(void)version; \
		return by(file, st); \
	}

XSTAT(__xstat, stat, const char *)
XSTAT(__xstat64, stat, const char *)
XSTAT(__lxstat, lstat, const char *)
XSTAT(__lxstat64, lstat, const char *)
XSTAT(__fxstat, fstat, int)
XSTAT(__fxstat64, fstat, int)

#define FXSTATAT(name) \
	int name(int version, int folder, const char *path, struct stat *st, int flags); \
	PUBLIC int name(int version, int folder, const char *path, struct stat *st, int flags) \
	{ \
		(void)version; \
		return fstatat(folder, path, st, flags); \
	}

FXSTATAT(__fxstatat)
FXSTATAT(__fxstatat64)

PUBLIC int statx(int folder, const char *path, int flags, unsigned int mask, struct statx *st)
{
	int ret;
	NEXT(statx);

	ret = next(folder, redirect(path), flags, mask, st);
	if (ret == 0 && S_ISREG(st->stx_mode) && same_file(makedev(st->stx_dev_major, st->stx_dev_minor), st->stx_ino)) {
		st->stx_mode = S_IFCHR | 0600;
		st->stx_rdev_major = MISC_MAJOR;
		st->stx_rdev_minor = MISC_MINOR;
		st->stx_size = 0;
		st->stx_blocks = 0;
	}
	return ret;
}

/* Some programs (Node.js, for one) make system calls by number through the C library. */
PUBLIC long syscall(long number, ...)
{
	va_list args;
	long a[6];
	NEXT(syscall);

	va_start(args, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(args, long);
	va_end(args);
	switch (number) {
	case SYS_ioctl:
		return ioctl((int)a[0], (unsigned long)a[1], (void *)a[2]);
	case SYS_openat:
		return openat((int)a[0], (const char *)a[1], (int)a[2], (mode_t)a[3]);
	case SYS_statx:
		return statx((int)a[0], (const char *)a[1], (int)a[2], (unsigned int)a[3], (struct statx *)a[4]);
	default:
		return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
	}
}

#endif
