import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { systemRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { createKvm } from '@cvm/kvm';
import { createIdentityStrategy, createMirrorVm, createPcRamMap, loadMirrorRegisters, parseSmp } from '@cvm/kvm/mirror';
import { openVcpu } from '@cvm/kvm/vcpu';
import { gpa, PAGE_SIZE } from '@cvm/layout';
import { createMailboxHost, mailboxMemory, mirrorResetState, PublishedGeometry } from '@cvm/ovmf-mh/host';
import { createSevMachine } from '@cvm/sev-hw';
import { MAILBOX_RAM, mailboxGuest } from './mailbox-guest.js';

/** Microseconds from a command to its page, between the VMM's thread and that of the helper's vCPU. */
export interface MailboxResult {
	readonly commands: number;
	readonly save: { readonly median: number; readonly p99: number };
	readonly restore: { readonly median: number; readonly p99: number };
	/** A command that does nothing. */
	readonly empty: { readonly median: number; readonly p99: number };
}

const MIB = 2 ** 20;
const ROUNDS = 5_000;
const WARM_UP = 2_000;
/** Pages that are asked for: private, and nobody's else. */
const FIRST = 0x300000;
const PAGES = 512;
/** The machine may be busy with something else: the time-out of QEMU is not what is measured. */
const TIMEOUT_MS = 10_000;

function quantiles(times: number[]): { median: number; p99: number } {
	times.sort((a, b) => a - b);
	const at = (share: number): number => 1000 * (times[Math.floor(share * (times.length - 1))] ?? 0);
	return { median: at(0.5), p99: at(0.99) };
}

/** The posted handler on a mirror vCPU in a thread of its own; this thread is the VMM's. */
export async function measureMailbox(rounds = ROUNDS): Promise<MailboxResult> {
	const machine = createSevMachine({
		dramBytes: MAILBOX_RAM + 4 * MIB,
		...{ provider: nodeProvider, random: systemRandom(), chipSeed: 'bench' },
		// Where the C-bit is the one that the posted handler believes in.
		generation: 'rome',
	});
	const kvm = createKvm({ machine });
	const main = kvm.createVm();
	const ram = kvm.memory.mmap(MAILBOX_RAM);
	const map = createPcRamMap({ ramBytes: MAILBOX_RAM, hva: ram.hva });
	const topology = parseSmp('2,mirrorvcpus=1');
	const mirror = createMirrorVm({ kvm, main, topology, strategy: createIdentityStrategy(map) });
	const region = { slot: 0, flags: 0, guestPhysAddr: gpa(0), memorySize: MAILBOX_RAM, userspaceAddr: ram.hva };
	const steps = [
		() => main.sev.init().ret,
		() => main.sev.launchStart({ policy: 0 }).ret,
		() => mirror.shareContext(),
		() => mirror.setUserMemoryRegion(region),
		() => main.sev.launchMeasure().ret,
		() => main.sev.launchFinish().ret,
		() => mirror.mapWindows(),
	];
	for (const [i, step] of steps.entries()) {
		const ret = step();
		if (ret !== 0) throw new Error(`step ${i}: expected 0, got ${ret}`);
	}
	const guest = openVcpu(main.createVcpu(0, kvm.cpuid()).share(), {
		...{ provider: nodeProvider, program: mailboxGuest(), ticks: false },
	});
	guest.run();
	const helper = mirror.addVcpu(1, kvm.cpuid());
	loadMirrorRegisters(helper, mirrorResetState(), 'reset');
	const worker = new Worker(new URL('./mailbox-vcpu.js', import.meta.url), { workerData: { handle: helper.share() } });
	await once(worker, 'message');

	const { mailbox, mailboxBytes } = PublishedGeometry;
	const memory = mailboxMemory(ram.bytes.subarray(mailbox, mailbox + mailboxBytes));
	// A command that is posted too early is lost (K12): INIT until one is answered.
	const early = createMailboxHost({ memory, timeoutMs: 50 });
	for (let isThere = false; !isThere; ) {
		try {
			isThere = early.command(0, 0) === 0;
		} catch {}
	}
	const host = createMailboxHost({ memory, timeoutMs: TIMEOUT_MS, process: { initialised: true } });
	const page = new Uint8Array(PAGE_SIZE).fill(0x5a);
	const none = new Uint8Array();
	const measure = (command: (gpa: number) => void): { median: number; p99: number } => {
		const times: number[] = [];
		for (let i = 0; i < WARM_UP + rounds; i++) {
			const at = FIRST + (i % PAGES) * PAGE_SIZE;
			const start = performance.now();
			command(at);
			if (i >= WARM_UP) times.push(performance.now() - start);
		}
		return quantiles(times);
	};
	const empty = measure(() => host.command(0, 0));
	const restore = measure((at) => {
		if (host.load(at, none, page) !== 0) throw new Error('restore: expected 0, got an error');
	});
	const save = measure((at) => host.save(at));
	if (host.save(FIRST).body.some((byte) => byte !== 0x5a)) throw new Error('save: expected what was restored');
	helper.kick();
	await once(worker, 'exit');
	mirror.destroy();
	main.destroy();
	return { commands: rounds, save, restore, empty };
}

/** The result in words. */
export function describeMailbox({ save, restore, empty }: MailboxResult): string[] {
	const of = ({ median, p99 }: MailboxResult['save']): string => `${median.toFixed(1)} µs (p99 ${p99.toFixed(1)})`;
	return [
		`mailbox of the posted helper, one page between two threads: save ${of(save)}, restore ${of(restore)}, ` +
			`a command that does nothing ${of(empty)}; target 15 µs`,
	];
}
