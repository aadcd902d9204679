/** Linux x86-64 error numbers (include/uapi/asm-generic/errno-base.h, errno.h), positive. An ioctl-like call returns `-Errno.X`. */
export const Errno = {
	EIO: 5,
	ENOMEM: 12,
	EBADF: 9,
	EFAULT: 14,
	EBUSY: 16,
	EEXIST: 17,
	EINVAL: 22,
	ENOTTY: 25,
	ENOENT: 2,
} as const;
/** One of the error numbers. */
export type Errno = (typeof Errno)[keyof typeof Errno];
