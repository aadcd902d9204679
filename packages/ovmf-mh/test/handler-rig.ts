import { seededRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { createKvm, type Vcpu } from '@cvm/kvm';
import { RunOffset } from '@cvm/kvm/abi';
import {
	createIdentityStrategy,
	createMirrorVm,
	createPcRamMap,
	handleMirrorExit,
	loadMirrorRegisters,
	parseSmp,
} from '@cvm/kvm/mirror';
import { type Block, type GuestCpu, link, openVcpu, type VcpuThread } from '@cvm/kvm/vcpu';
import { gpa } from '@cvm/layout';
import { createSevMachine } from '@cvm/sev-hw';
import { type RfcHandlerOptions, rfcHandler } from '../src/firmware/handler/index.js';
import { createMailboxHost, type MailboxHost, type MailboxHostOptions } from '../src/host/mailbox.js';
import { mailboxMemory } from '../src/host/mailbox-memory.js';
import { mirrorResetState } from '../src/host/mirror-reset.js';

const MIB = 1 << 20;
export const RAM_BYTES = 16 * MIB;
export const MAILBOX = 0x820000;
const STACK_OF_TEST = 0x90000;
const EXIT_PORT = 0xf4;
/** Blocks that a mirror vCPU runs while the host waits once. */
const TURN = 40;

export interface HandlerRigOptions extends RfcHandlerOptions {
	/** C-bit 47: `rome` by default; `milan`: 51. */
	readonly generation?: 'rome' | 'milan';
	/** Bytes of RAM from 4 GiB on. */
	readonly highBytes?: number;
	readonly seed?: string;
	/** `false`: the firmware does not set the handler up. */
	readonly setup?: boolean;
}

/** A guest in RUNNING with a mirror VM, and the posted handler in its firmware. */
export function createHandlerRig(o: HandlerRigOptions = {}) {
	const { generation = 'rome', highBytes = 0, seed = 'handler' } = o;
	const machine = createSevMachine({
		dramBytes: RAM_BYTES + highBytes + 4 * MIB,
		provider: nodeProvider,
		random: seededRandom(seed),
		chipSeed: seed,
		generation,
	});
	const kvm = createKvm({ machine });
	const main = kvm.createVm();
	const ram = kvm.memory.mmap(RAM_BYTES);
	const map = createPcRamMap({ ramBytes: RAM_BYTES, hva: ram.hva });
	const topology = parseSmp('2,mirrorvcpus=1');
	const mirror = createMirrorVm({ kvm, main, topology, strategy: createIdentityStrategy(map) });
	const ok = (what: string, ret: number): void => {
		if (ret !== 0) throw new Error(`${what}: expected 0, got ${ret}`);
	};
	ok('init', main.sev.init().ret);
	ok('start', main.sev.launchStart({ policy: 0 }).ret);
	ok('share', mirror.shareContext());
	const slot = (id: number, at: number, memory: typeof ram): void =>
		ok(
			'slot',
			mirror.setUserMemoryRegion({
				...{ slot: id, flags: 0, guestPhysAddr: gpa(at) },
				...{ memorySize: memory.bytes.length, userspaceAddr: memory.hva },
			}),
		);
	slot(0, 0, ram);
	if (highBytes > 0) slot(1, 2 ** 32, kvm.memory.mmap(highBytes));
	ok('measure', main.sev.launchMeasure().ret);
	ok('finish', main.sev.launchFinish().ret);
	ok('windows', mirror.mapWindows());

	let work: (cpu: GuestCpu) => ReturnType<Block> = (cpu) => cpu.jump('test.park');
	const program = link(...rfcHandler(o), {
		name: 'test',
		base: 0x10000,
		at: { reset: 0xfffffff0 },
		blocks: {
			reset: (cpu) => work(cpu),
			'test.park': (cpu) => cpu.out(EXIT_PORT, 1, 'test.park'),
		},
	});
	const cpuid = kvm.cpuid({ sev: true });
	const guestVcpu = main.createVcpu(0, cpuid);
	const helper = mirror.addVcpu(1, cpuid);

	/** Runs code on the guest's own vCPU, with or without paging as it was, until it parks. */
	const guest = (block: (cpu: GuestCpu) => ReturnType<Block>): Vcpu => {
		work = block;
		guestVcpu.setRegs({ rip: 0xfffffff0n, rsp: BigInt(STACK_OF_TEST) });
		const thread = openVcpu(guestVcpu.share(), { provider: nodeProvider, program, ticks: false });
		ok('guest', thread.run());
		const reason = new DataView(guestVcpu.run.buffer, guestVcpu.run.byteOffset).getUint32(RunOffset.exitReason, true);
		if (reason !== 2) throw new Error(`guest: expected the exit port, got exit ${reason}: ${thread.fault?.message}`);
		// Finishes the exit without running on.
		guestVcpu.run[1] = 1;
		thread.run();
		guestVcpu.run[1] = 0;
		return guestVcpu;
	};
	/** Guest memory as the guest sees it, private. */
	const plain = (at: number, length: number): Uint8Array => {
		const out = new Uint8Array(length);
		guest((cpu) => {
			cpu.load(at, out);
			return cpu.jump('test.park');
		});
		return out;
	};
	const poke = (at: number, data: Uint8Array): void => {
		guest((cpu) => {
			cpu.store(at, data);
			return cpu.jump('test.park');
		});
	};
	/** What the firmware does on the boot processor; returns RAX. */
	const setup = (): bigint =>
		guest((cpu) => {
			cpu.setNum('rdi', RAM_BYTES);
			return cpu.call('mh.setup', 'test.park');
		}).getRegs().rax;

	const debug: number[] = [];
	const events: string[] = [];
	const hooks: { afterBlock?: ((label: string | undefined) => void) | undefined } = {};
	let left = 0;
	let thread: VcpuThread | undefined;
	const devices = {
		io: (port: number, isOut: boolean, data: Uint8Array): void => {
			if (port === 0x402 && isOut) debug.push(...data);
		},
		mmio: () => undefined,
		requestReset: () => events.push('reset'),
		requestShutdown: () => events.push('shutdown'),
		guestPanicked: () => events.push('panic'),
		other: () => -1,
	};
	/** Loads the state after reset and makes the vCPU ready to run: what the VMM's command does. */
	const start = (index = 0): void => {
		ok('registers', loadMirrorRegisters(helper, mirrorResetState({ helper: index }), 'reset'));
		thread = openVcpu(helper.share(), {
			...{ provider: nodeProvider, program, ticks: false },
			afterBlock: (rip) => {
				hooks.afterBlock?.(program.label(rip));
				left--;
				if (left <= 0) helper.kick();
			},
		});
	};
	/** Runs the mirror vCPU for some blocks, if it was started and did not shut down. */
	const turn = (blocks = TURN): void => {
		if (thread === undefined) return;
		left = blocks;
		for (;;) {
			const ret = thread.run();
			if (ret === -4) return;
			ok('mirror', ret);
			if (handleMirrorExit(helper.run, devices) !== 'run') {
				thread = undefined;
				return;
			}
		}
	};
	/** Runs it until it waits for commands. */
	const settle = (): void => {
		for (let i = 0; i < 200 && thread !== undefined; i++) {
			turn(1);
			if (program.label(Number(helper.getRegs().rip)) === 'mh.rfc.spin') return;
		}
	};
	let clock = 0;
	/** The VMM's end, which runs the mirror vCPU while it waits. */
	const mailbox = (changes: Partial<MailboxHostOptions> = {}): MailboxHost =>
		createMailboxHost({
			memory: mailboxMemory(ram.bytes.subarray(MAILBOX)),
			polls: 1,
			now: () => clock++,
			relax: () => turn(),
			...changes,
		});
	if (o.setup !== false) setup();
	return {
		...{ machine, kvm, main, mirror, ram, program, helper, guest, plain, poke, setup, debug, events, hooks },
		...{ start, turn, settle, mailbox, cpuid, guestVcpu },
		/** The block and what follows, as the host sees it. */
		block: (): string => Buffer.from(ram.bytes.subarray(MAILBOX, MAILBOX + 32)).toString('hex'),
		isRunning: () => thread !== undefined,
		label: () => program.label(Number(helper.getRegs().rip)),
	};
}
export type HandlerRig = ReturnType<typeof createHandlerRig>;

/** A rig whose handler waits for commands, and a VMM that talks to it. */
export function running(o: HandlerRigOptions & { mailbox?: Partial<MailboxHostOptions> } = {}) {
	const rig = createHandlerRig(o);
	rig.start();
	rig.settle();
	return { ...rig, host: rig.mailbox(o.mailbox) };
}

/** A page that no cipher makes by chance. */
export const pageOf = (seed: number): Uint8Array => Uint8Array.from({ length: 4096 }, (_, i) => (i * 31 + seed) & 0xff);
