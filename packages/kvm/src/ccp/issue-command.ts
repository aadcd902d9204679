import type { Infer } from '@cvm/layout';
import { Errno } from '../abi/errno.js';
import { HANDLERS } from './platform-commands.js';
import type { SevDriver } from './sev-device.js';
import { sevIssueCmd } from './user-abi.js';
import { Refusal, type Steps } from './user-memory.js';

/** Bit of a file's mode that `open` flags give it: OPEN_FMODE of Linux include/linux/fs.h, FMODE_WRITE. */
const isWritable = (flags: number): boolean => ((flags + 1) & 2) !== 0;

/**
 * SEV_ISSUE_CMD behind its copy-in: sev_ioctl of Linux drivers/crypto/ccp/sev-dev.c. Whatever the handler says, the structure is
 * copied back; an unknown command is EINVAL without that.
 *
 * @param o.arg where the program keeps `command`
 * @param o.flags of open(2): only O_ACCMODE counts
 */
export function* issueCommand(
	driver: SevDriver,
	command: Infer<typeof sevIssueCmd>,
	{ arg, flags }: { readonly arg: bigint; readonly flags: number },
): Steps<number> {
	const handle = HANDLERS[command.cmd];
	if (handle === undefined) return -Errno.EINVAL;
	const call = { driver, data: command.data, error: command.error, writable: isWritable(flags) };
	let ret: number;
	try {
		const steps = handle(call);
		ret = typeof steps === 'number' ? steps : yield* steps;
	} catch (error) {
		if (!(error instanceof Refusal)) throw error;
		ret = error.ret;
	}
	const answer = sevIssueCmd.encode({ ...command, error: call.error });
	const copied = yield { address: arg, length: answer.length, write: answer };
	return copied === true ? ret : -Errno.EFAULT;
}
