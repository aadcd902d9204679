import { type HandlerRig, type HandlerRigOptions, running } from './handler-rig.js';

/** A SEV guest with the handler of August 2021 on a mirror vCPU; the test is its host. */
export interface PublishedMachine {
	/** DRAM: what the host sees of the guest's memory. */
	readonly dram: Uint8Array;
	/** Private memory, by code of the guest. */
	read(gpa: number, length: number): Uint8Array;
	write(gpa: number, data: Uint8Array): void;
	/** What the handler stored. @throws MailboxError `timeout` */
	command(nr: number, gpa: number): number;
	/** The page in plain. */
	save(gpa: number): Uint8Array;
	restore(gpa: number, page: Uint8Array): void;
	/** `afterBlock` is called after every block of the handler, with its successor's label. */
	readonly hooks: HandlerRig['hooks'];
	isRunning(): boolean;
}

/** @param seed names the chip and the guest: other seeds, other keys */
export function publishedMachine(seed: string, defects: HandlerRigOptions['defects'] = {}): PublishedMachine {
	const { host, ram, plain, poke, hooks, isRunning } = running({ seed, defects });
	const succeeded = (ret: number): void => {
		if (ret !== 0) throw new Error(`handler: expected 0, got ${ret}`);
	};
	return {
		...{ dram: ram.bytes, read: plain, write: poke, hooks, isRunning },
		command: (nr, gpa) => host.command(nr, gpa),
		save: (gpa) => host.save(gpa).body.slice(),
		restore: (gpa, page) => succeeded(host.load(gpa, new Uint8Array(), page)),
	};
}
