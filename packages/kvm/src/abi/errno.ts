/**
 * Linux x86-64 error numbers (include/uapi/asm-generic/errno-base.h, errno.h), positive. An ioctl-like call returns
 * `-Errno.X`. ENOTSUPP is the kernel's own (include/linux/errno.h) and reaches programs all the same.
 */
export const Errno = {
	EPERM: 1,
	ENOENT: 2,
	EINTR: 4,
	EIO: 5,
	ENXIO: 6,
	E2BIG: 7,
	EBADF: 9,
	ENOMEM: 12,
	EFAULT: 14,
	EBUSY: 16,
	EEXIST: 17,
	ENODEV: 19,
	EINVAL: 22,
	EMFILE: 24,
	ENOTTY: 25,
	ENOSYS: 38,
	ETIMEDOUT: 110,
	ENOTSUPP: 524,
} as const;
/** One of the error numbers. */
export type Errno = (typeof Errno)[keyof typeof Errno];
