import { describe, expect, it } from 'vitest';
import { Ioctl, kvmSevCmd, SevCommand, SevIoctl } from '../src/abi/index.js';
import type { IoctlArgument } from '../src/process/index.js';
import {
	createDice,
	createWorld,
	type Dice,
	differences,
	pointer,
	REQUESTS,
	sevStructure,
	snapshot,
	structure,
	type World,
} from './ioctl-fuzz-rig.js';
import { UNTOUCHED } from './process-rig.js';

/*
 * Random ioctls on VMs in every state. Each answer is one that exists, nothing throws, and what fails leaves everything as it was.
 * 20,000 calls from a fixed seed; CVM_LONG=1 makes them 400,000 from a fresh one; CVM_SEED=n repeats a run.
 */

const isLong = process.env['CVM_LONG'] === '1';
const SEED = Number(process.env['CVM_SEED'] ?? (isLong ? Date.now() % 2 ** 31 : 4));
const CALLS = isLong ? 400_000 : 20_000;
/** Calls until the VMs are made anew: by then they have left the states in which much is allowed. */
const CALLS_PER_WORLD = 2_000;

/** What a kernel of this model may answer below 0: EPERM, ENOENT, EINTR, EIO, ENXIO, E2BIG, EBADF, EAGAIN … ENOSYS. */
const ERRNOS = new Set([1, 2, 4, 5, 6, 7, 9, 11, 12, 14, 16, 17, 19, 22, 24, 25, 38, 524]);

/** Commands that work page by page, or vCPU by vCPU: what was done before the failure stays done. */
const STEPWISE: ReadonlySet<number> = new Set([
	SevCommand.DBG_DECRYPT,
	SevCommand.DBG_ENCRYPT,
	SevCommand.LAUNCH_UPDATE_VMSA,
]);

/** Where the guest's stores go, and a little behind. */
const RAM_BYTES = 5 * 4096;

interface Outcome {
	readonly ret: number;
	/** For messages. */
	readonly what: string;
	/** The failure came after the firmware, or something before it, had succeeded. */
	readonly isLate: boolean;
}

/** One KVM_MEMORY_ENCRYPT_OP. */
function sevOp(world: World, dice: Dice, vm: number): Outcome {
	const { p, blobs } = world;
	const id = dice.rarely(20) ? dice.u32() : dice.below(24);
	const bytes = sevStructure(world, dice);
	// Its own page, so that no pointer of the structure leads to the structure.
	blobs.bytes.set(bytes, 0);
	const data = dice.rarely(10) ? pointer(world, dice) : BigInt(blobs.hva);
	const sevFd = dice.rarely(8) ? dice.u32() : p.sevFd;
	const command = kvmSevCmd.encode({ id, data, error: UNTOUCHED, sevFd });
	const argument = dice.rarely(30)
		? dice.of<IoctlArgument>([0, pointer(world, dice), command.subarray(0, 20)])
		: command;
	const { length: before } = p.host.commands;
	const ret = p.process.ioctl(vm, SevIoctl.KVM_MEMORY_ENCRYPT_OP, argument);
	const commands = p.host.commands.length - before;
	const { error } = kvmSevCmd.decode(command);
	// A structure elsewhere may be in the RAM that is compared, and lengths are written back to it.
	const isLate =
		argument !== command || data !== BigInt(blobs.hva) || (STEPWISE.has(id) && commands > 1) || error === 0;
	return { ret, what: `SEV ${id} ${Buffer.from(bytes).toString('hex')} data ${data} on ${vm}`, isLate };
}

/** KVM_RUN of a vCPU after a VMM, or nobody, answered its last exit. Only a dead VM's is sure to change nothing. */
function runVcpu({ p, vcpus }: World, dice: Dice, vm: number): Outcome {
	const fd = vcpus.get(vm) ?? vm;
	const run = p.process.vcpuOf(fd)?.run;
	// Registers as they were at first, or nothing would ever run again.
	if (dice.rarely(2)) p.process.vcpuOf(fd)?.setRegs({ rip: 0xfffffff0n, rdi: BigInt(dice.below(RAM_BYTES)) });
	if (run !== undefined && dice.rarely(3)) run.set(dice.bytes(64), dice.of([0, 8, 32, 4096]));
	const ret = p.process.ioctl(fd, Ioctl.KVM_RUN);
	if (run !== undefined) run[1] = 0;
	return { ret, what: `KVM_RUN ${fd}`, isLate: run !== undefined && ret !== -5 };
}

/** Any other ioctl, on any descriptor. */
function anyIoctl(world: World, dice: Dice, vm: number): Outcome {
	const { p, vcpus } = world;
	const fd = dice.of([vm, vm, vcpus.get(vm) ?? vm, p.kvmFd, p.sevFd]);
	const request = dice.rarely(12) ? dice.u32() : dice.of(REQUESTS);
	const size = dice.rarely(10)
		? dice.below(5000)
		: ((request >>> 16) & 0x3fff) + (dice.rarely(3) ? 16 * dice.below(64) : 0);
	const bytes = structure(world, dice, size);
	const argument = dice.of<IoctlArgument>([
		bytes,
		bytes,
		bytes,
		bytes,
		dice.below(40),
		pointer(world, dice),
		dice.u32(),
	]);
	const before = p.process.descriptors;
	const ret = p.process.ioctl(fd, request, argument);
	// Bounded: what was made goes again.
	for (const made of p.process.descriptors.filter((one) => !before.includes(one))) p.process.close(made);
	const shown = argument instanceof Uint8Array ? Buffer.from(argument).toString('hex') : `${argument}`;
	return { ret, what: `ioctl ${fd} 0x${request.toString(16)} ${shown}`, isLate: writesOut(request, argument) };
}

/** Ioctls that hand something out piece by piece, or do a list up to its first bad entry. */
function writesOut(request: number, argument: IoctlArgument): boolean {
	const isAddress = !(argument instanceof Uint8Array);
	return isAddress && request !== Ioctl.KVM_CREATE_VCPU;
}

const call = (world: World, dice: Dice, vm: number): Outcome => {
	if (dice.rarely(world.vcpus.has(vm) ? 5 : 40)) return runVcpu(world, dice, vm);
	return dice.rarely(3) ? anyIoctl(world, dice, vm) : sevOp(world, dice, vm);
};

describe('random ioctls', () => {
	it(`are answered with an errno or a result, and change nothing when they fail (seed ${SEED})`, () => {
		const answers = new Map<number, number>();
		for (let first = 0; first < CALLS; first += CALLS_PER_WORLD) {
			const dice = createDice(SEED + first);
			const world = createWorld(`fuzz ${SEED} ${first}`);
			const { memory } = world.p.host.kvm;
			for (let number = first; number < first + CALLS_PER_WORLD; number++) {
				const vm = dice.of(world.vms);
				const before = snapshot(world, vm);
				const { ret, what, isLate } = call(world, dice, vm);
				const how = `CVM_SEED=${SEED}, call ${number}: ${what}`;
				if (!Number.isInteger(ret)) expect.fail(`${how}: expected an integer, got ${ret}`);
				if (ret < 0 && !ERRNOS.has(-ret)) expect.fail(`${how}: expected an errno, got ${ret}`);
				answers.set(ret, (answers.get(ret) ?? 0) + 1);
				if (ret >= 0 || isLate) continue;
				const changed = differences(before, snapshot(world, vm));
				if (changed.length > 0) expect.fail(`${how}: expected no change after ${ret}, got ${changed.join(', ')}`);
			}
			expect(world.p.process.descriptors.length).toBeLessThan(64);
			world.p.process.exit();
			// Kernel memory of VMs and vCPUs is back: only what the program mapped is missing.
			expect(memory.freeBytes).toBeGreaterThan(4 << 20);
		}
		// Random calls that never get anywhere would prove nothing.
		for (const ret of [0, -4, -5, -9, -14, -22, -25]) expect([ret, (answers.get(ret) ?? 0) > 50]).toEqual([ret, true]);
	}, 600_000);
});
