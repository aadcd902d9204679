import type { SevMachine } from '@cvm/sev-hw';
import { Errno } from '../abi/errno.js';
import { createHostMemory } from '../memory/host-memory.js';
import { issueCommand } from './issue-command.js';
import { createSevDriver, reserveTmr } from './sev-device.js';
import { SEV_ISSUE_CMD, sevIssueCmd } from './user-abi.js';
import { runLater, type UserMemory } from './user-memory.js';

/** What {@link createSevMiscDevice} wants. */
export interface SevMiscDeviceOptions {
	/** Powered on and otherwise idle: the device takes kernel memory of its own from DRAM, 2 MiB at most. */
	readonly machine: SevMachine;
	/**
	 * INIT as soon as the driver loads, as the module parameter `psp_init_on_probe` says; true by default. Without it the
	 * first command that needs it does. A failure is left for that command to find.
	 */
	readonly initOnProbe?: boolean;
}

/** An open /dev/sev. */
export interface SevFile {
	/**
	 * SEV_ISSUE_CMD. Commands of all files run one after the other, in the order of the calls.
	 *
	 * @param request the ioctl number; only its low 32 bits count
	 * @param arg the program's address of a `sev_issue_cmd`
	 * @returns 0 or a negative errno; with −EIO the firmware's status stands in `sev_issue_cmd.error`
	 */
	ioctl(request: number, arg: bigint, memory: UserMemory): Promise<number>;
}

/** The character device. */
export interface SevMiscDevice {
	/** @param flags of open(2): only O_ACCMODE counts */
	open(flags: number): SevFile;
}

/**
 * Linux's driver for the secure processor, drivers/crypto/ccp/sev-dev.c (6.x), from the side of the programs that open
 * /dev/sev: `sev_ioctl` and what it calls, with every check in its order. It asks for SEV-ES at INIT, as Linux does.
 *
 * DEVIATION(Linux drivers/crypto/ccp/sev-dev.c): Linux keeps the platform's state to itself; this asks the firmware,
 * which gives the same answers as long as nobody else uses the mailbox.
 *
 * @throws KvmError `out-of-memory` if DRAM is smaller than 4 MiB
 */
export function createSevMiscDevice({ machine, initOnProbe = true }: SevMiscDeviceOptions): SevMiscDevice {
	const memory = createHostMemory(machine.dram);
	const tmr = reserveTmr(memory);
	const driver = createSevDriver(machine, memory, tmr);
	if (initOnProbe) driver.platformInit();

	/** The driver's mutex: when the last call that was let in is done. */
	let last: Promise<unknown> = Promise.resolve();
	const exclusively = <T>(work: () => Promise<T>): Promise<T> => {
		const done = last.then(work);
		last = done.catch(() => undefined);
		return done;
	};

	return {
		open: (flags) => ({
			ioctl: async (request, arg, memory) => {
				if (request >>> 0 !== SEV_ISSUE_CMD) return -Errno.EINVAL;
				const input = await memory.read(arg, sevIssueCmd.size);
				if (input?.length !== sevIssueCmd.size) return -Errno.EFAULT;
				const command = sevIssueCmd.decode(input);
				return exclusively(() => runLater(issueCommand(driver, command, { arg, flags }), memory));
			},
		}),
	};
}
