import { BootFlag, bootParams, MemoryMap } from '@cvm/kvm/guest';
import type { CodeFragment } from '@cvm/kvm/vcpu';
import { PAGE_SIZE } from '@cvm/layout';
import { FirmwareMemory, type FirmwareOptions, ovmfFirmware, recordableRam } from '@cvm/ovmf-mh/firmware';
import { createFwCfgDevice, e820File } from '@cvm/ovmf-mh/host';
import { describe, expect, it } from 'vitest';
import { HandlerAllocations, HelperGeometry, PublishedGeometry } from '../src/geometry.js';
import { readHobs } from '../src/uefi/hob.js';
import { EfiMemoryType, e820Of, efiMemoryDescriptor } from '../src/uefi/memory-map.js';
import { type HandlerPcd, readPcd } from '../src/uefi/pcd.js';
import { C_BIT, createFakeMachine } from './fake-machine.js';
import { createLifeMachine, RAM_BYTES, START, TARGET, text } from './life-cycle-rig.js';

const { mailbox, mailboxBytes, entry } = PublishedGeometry;
const { windows, windowsEnd } = HelperGeometry;
const kernel: CodeFragment = {
	name: 'kernel',
	base: MemoryMap.kernelText,
	blocks: { kernel_entry: (cpu) => cpu.hlt('kernel_entry') },
};

/** The posted handler's firmware alone, on one processor. */
function fake(files: Record<string, Uint8Array> = START, firmware: FirmwareOptions = {}, sev = true) {
	const ramBytes = 64 << 20;
	const machine = createFakeMachine(
		{
			cpuid: (leaf) => {
				if (leaf === 1) return [0, 0, 0x80000000, 0];
				if (leaf === 0x80000000) return [0x8000001f, 0, 0, 0];
				if (leaf === 0x8000001f) return [2, C_BIT | (1 << 6), 0, 0];
				if (leaf === 0x40000000) return [0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d];
				return leaf === 0x40000001 ? [1 << 17, 0, 0, 0] : [0, 0, 0, 0];
			},
			sevStatus: sev ? 1n : 0n,
			fwCfg: createFwCfgDevice({
				files: { 'etc/e820': e820File([{ addr: 0, size: ramBytes, type: 1 }]), ...files },
				ramBytes,
				bootCpus: 1,
			}),
		},
		...ovmfFirmware({ helper: 'rfc-2021', ...firmware }),
		kernel,
	);
	const load = (at: number, length: number): Uint8Array => {
		const out = new Uint8Array(length);
		machine.cpu.load(at, out);
		return out;
	};
	const end = machine.run('kernel_entry');
	const pcd = (name: HandlerPcd) => readPcd(name, load(FirmwareMemory.pcdDatabase, 64));
	return { ...machine, load, end, pcd };
}
const isClear = (bytes: Uint8Array) => bytes.every((b) => b === 0);
const names = (machine: { calls: readonly { gpa: bigint; pages: bigint }[] }) =>
	machine.calls.map(({ gpa, pages }) => `${gpa.toString(16)} ${pages}`);

describe('SetupMigrationHandler', () => {
	it('does nothing unless it is asked to, and the guest boots as ever', () => {
		const machine = fake({});
		expect(machine.end).toBe('stopped');
		expect(isClear(machine.load(entry, PAGE_SIZE))).toBe(true);
		expect(isClear(machine.load(HandlerAllocations.pageTablePool, HandlerAllocations.pageTablePoolBytes))).toBe(true);
		expect(machine.pcd('PcdStartConfidentialMigrationHandler')).toBe(0);
	});

	it.each([
		['OVMF’s name', START],
		['QEMU’s document, as written', { 'opt/ovmf/PcdSevIsMigrationHelper': text('0') }],
		['the older firmware’s name', { 'opt/ovmf/PcdSevIsMigrationHandler': text('TRUE\r\n') }],
	])('fills page tables and entry page by %s, and boots normally', (_, files) => {
		const machine = fake(files);
		expect(machine.end).toBe('stopped');
		expect(isClear(machine.load(entry, PAGE_SIZE))).toBe(false);
		expect(isClear(machine.load(HandlerAllocations.pageTablePool, PAGE_SIZE * 2))).toBe(false);
		expect(machine.pcd('PcdStartConfidentialMigrationHandler')).toBe(1);
		expect(machine.pcd('PcdIsConfidentialMigrationTarget')).toBe(0);
	});

	it.each(['0', 'no', 'maybe', '1 ', 'x'.repeat(12)])('is not asked to by %j under OVMF’s name', (value) => {
		const machine = fake({ 'opt/ovmf/PcdStartConfidentialMigrationHandler': text(value) });
		expect(isClear(machine.load(entry, PAGE_SIZE))).toBe(true);
	});

	it('as posted takes no notice of the target flag without the other one', () => {
		const machine = fake({ 'opt/ovmf/PcdIsConfidentialMigrationTarget': text('1') });
		expect(machine.end).toBe('stopped');
		expect(machine.pcd('PcdIsConfidentialMigrationTarget')).toBe(1);
	});

	it('does nothing outside SEV', () => {
		const machine = fake(TARGET, {}, false);
		expect(machine.end).toBe('stopped');
		expect(isClear(machine.load(entry, PAGE_SIZE))).toBe(true);
	});

	it('leaves a target in its dead loop: no OS, no ExitBootServices', () => {
		const machine = fake(TARGET);
		expect(machine.end).toBe('halted');
		expect(machine.where()).toBe('fw.mh.dead');
		expect(isClear(machine.load(entry, PAGE_SIZE))).toBe(false);
		expect(isClear(machine.load(FirmwareMemory.memoryMap, 8))).toBe(true);
		expect(machine.run('kernel_entry')).toBe('halted');
	});

	it('parks processors that come to a target, but not those that a kernel gives back later', () => {
		const machine = fake(TARGET);
		machine.goTo('fw.ap.wait');
		expect(machine.run('kernel_entry')).toBe('halted');
		expect(machine.where()).toBe('fw.mh.parked');
		machine.goTo('fw.ap.reset');
		expect(machine.run('kernel_entry')).toBe('halted');
		expect(machine.where()).toBe('fw.ap.again');
	});

	it('leaves the mailbox as the host made it: nobody touches it before the handler does', () => {
		const { raw } = fake();
		expect(raw.subarray(mailbox, mailbox + mailboxBytes).every((b) => b === 0x77)).toBe(true);
	});
});

describe('the announcement of the mailbox', () => {
	it('K19: as posted nothing marks it shared, neither page tables nor hypercall', () => {
		const machine = fake();
		expect(names(machine)).toEqual(['809000 2', 'ffc00000 132']);
		for (let at: number = mailbox; at < entry; at += PAGE_SIZE) expect(machine.isShared(at)).toBe(false);
	});

	it('K19: fixed, all three pages are shared in the page tables and then reported', () => {
		const machine = fake(START, { mailboxAnnouncement: 'fixed' });
		expect(names(machine)).toEqual(['809000 2', 'ffc00000 132', '820000 3']);
		for (let at: number = mailbox; at < entry; at += PAGE_SIZE) expect(machine.isShared(at)).toBe(true);
		expect([mailbox - 1, entry].map(machine.isShared)).toEqual([false, false]);
		expect(names(fake({}, { mailboxAnnouncement: 'fixed' }))).toEqual(['809000 2', 'ffc00000 132']);
	});

	it('K19: the hardened helper’s mailboxes and windows are announced and recorded', () => {
		const machine = createLifeMachine({ files: START, firmware: { helper: 'hardened' } });
		machine.boot();
		const pages = ((windowsEnd - windows) / PAGE_SIZE).toString(16);
		expect(machine.log.slice(0, 4)).toEqual([
			'share 809000 2 0',
			'share ffc00000 84 0',
			'share 820000 3 0',
			`share 900000 ${pages} 0`,
		]);
		const map = machine.plain(HelperGeometry.sharedMap, HelperGeometry.mapBytes);
		const recorded = (from: number, to: number) =>
			Array.from({ length: (to - from) / PAGE_SIZE }, (_, i) => from / PAGE_SIZE + i).filter(
				(frame) => ((map[frame >> 3] ?? 0) >> (frame & 7)) & 1,
			).length;
		expect(recorded(mailbox, entry)).toBe(3);
		expect(recorded(windows, windowsEnd)).toBe((windowsEnd - windows) / PAGE_SIZE);
		expect(recorded(MemoryMap.ghcb, MemoryMap.ghcb + 2 * PAGE_SIZE)).toBe(2);
		expect(recorded(0, MemoryMap.firmware)).toBe(0);
		expect(recorded(MemoryMap.bssDecrypted, MemoryMap.bssDecryptedEnd)).toBe(512);
		const total = 3 + (windowsEnd - windows) / PAGE_SIZE + 2 + 512;
		expect(recorded(0, HelperGeometry.mapBytes * 8 * PAGE_SIZE)).toBe(total);
	});
});

describe('memory types', () => {
	it('has mailbox and entry page as runtime data in the HOB list', () => {
		expect(readHobs(fake().load(FirmwareMemory.hobList, PAGE_SIZE))).toEqual([
			{ start: 0x820000, bytes: 0x3000, type: 6 },
			{ start: 0x823000, bytes: 0x1000, type: 6 },
		]);
	});

	it('keeps what the handler has from the OS: runtime data, and reserved in E820', () => {
		const machine = fake();
		const count = machine.cpu.loadNum(FirmwareMemory.memoryMap);
		const bytes = machine.load(FirmwareMemory.memoryMap + 8, count * efiMemoryDescriptor.size);
		const map = Array.from({ length: count }, (_, i) => {
			const d = efiMemoryDescriptor.decodePrefix(bytes.subarray(i * efiMemoryDescriptor.size));
			const start = Number(d.physicalStart);
			return { start, end: start + Number(d.numberOfPages) * PAGE_SIZE, type: d.type as EfiMemoryType };
		});
		const typeAt = (at: number) => map.find(({ start, end }) => at >= start && at < end)?.type;
		const { pageTablePool, stack } = HandlerAllocations;
		for (const at of [mailbox, entry, pageTablePool, stack]) expect(typeAt(at)).toBe(6);
		expect(typeAt(0x1000000)).toBe(EfiMemoryType.conventional);
		const reserved = e820Of(map).filter(({ type }) => type === 2);
		expect(reserved).toEqual([{ addr: 0x800000, size: 0x800000, type: 2 }]);
	});
});

describe('PCDs', () => {
	it('have the values of the build if they are fixed', () => {
		const { pcd } = fake();
		expect(pcd('PcdConfidentialMigrationMailboxBase')).toBe(0x820000);
		expect(pcd('PcdConfidentialMigrationMailboxSize')).toBe(0x3000);
		expect(pcd('PcdConfidentialMigrationEntryBase')).toBe(0x823000);
		expect(pcd('PcdConfidentialMigrationEntrySize')).toBe(0x1000);
	});

	it('are in memory if they are dynamic, and so migrate: the target then reads that it is none', () => {
		const [a, b] = [fake(), fake(TARGET)];
		expect(b.pcd('PcdIsConfidentialMigrationTarget')).toBe(1);
		// A handler on B puts A's private memory in its place, all but its own.
		for (let at: number = FirmwareMemory.pcdDatabase; at < FirmwareMemory.memoryMapEnd; at += PAGE_SIZE) {
			b.cpu.store(at, a.load(at, PAGE_SIZE));
		}
		expect(b.pcd('PcdIsConfidentialMigrationTarget')).toBe(0);
		expect(b.pcd('PcdStartConfidentialMigrationHandler')).toBe(1);
	});
});

describe.each([false, true])('a target with several processors, SEV-ES %s', (es) => {
	it('brings all to rest, where no memory that arrives can wake or break them', () => {
		const machine = createLifeMachine({ es, vcpus: 3, files: TARGET, firmware: { helper: 'hardened' } });
		const rest = es ? ['fw.mh.dead_es', 'fw.mp.held', 'fw.mp.held'] : ['fw.mh.dead', 'fw.mh.parked', 'fw.mh.parked'];
		machine.until('all at rest', () => rest.every((label, i) => machine.at.get(i) === label));
		// Everything that is not the helper's becomes noise, mailbox, stack and page tables included.
		const { bytes } = machine.ram;
		bytes.fill(0xa5, 0, HelperGeometry.private);
		bytes.fill(0xa5, windowsEnd);
		for (let i = 0; i < 3; i++) for (let n = 0; n < 3; n++) machine.turn(i);
		expect([0, 1, 2].map((i) => machine.at.get(i))).toEqual(rest);
		expect(machine.log.some((line) => line.startsWith('ready'))).toBe(false);
	});

	it('boots all if it is none, and tells the kernel of the helper', () => {
		const machine = createLifeMachine({ es, vcpus: 3, files: START, firmware: { helper: 'hardened' } });
		machine.boot();
		const { flags } = bootParams.decodePrefix(machine.plain(MemoryMap.bootParams, PAGE_SIZE));
		expect(flags).toBe(BootFlag.efi | BootFlag.helper);
		expect(machine.log.at(-1)).toBe('ready 1');
	});
});

it('the kernel of a guest with the posted handler knows nothing of it', () => {
	const machine = createLifeMachine({ files: START, firmware: { helper: 'rfc-2021' } });
	machine.boot();
	const { flags } = bootParams.decodePrefix(machine.plain(MemoryMap.bootParams, PAGE_SIZE));
	expect(flags).toBe(BootFlag.efi);
});

describe('RAM as a hardened helper’s firmware records it', () => {
	const MIB = 1 << 20;
	it('is what the host lists, in whole pages, in order, joined, below 2 GiB', () => {
		const entry = (addr: number, size: number, type = 1) => ({ addr, size, type });
		expect(
			recordableRam([
				entry(8 * MIB, 32 * MIB),
				entry(0x9fc00, 0x60400, 2),
				entry(0, 0x9fc00),
				entry(MIB, 7 * MIB),
				entry(39 * MIB, 2 * MIB),
				entry(100 * MIB + 1, 4096),
				entry(2048 * MIB - 4096, 8192),
				entry(4096 * MIB, MIB),
			]),
		).toEqual([
			{ start: 0, end: 0x9f000 },
			{ start: MIB, end: 41 * MIB },
			{ start: 2048 * MIB - 4096, end: 2048 * MIB },
		]);
	});

	it('must have all that firmware and kernel use: a host that leaves some out gets no helper, and so no migration', () => {
		const boot = (ranges: { addr: number; size: number; type: number }[]) => {
			const files = { ...START, 'etc/e820': e820File(ranges) };
			const machine = createLifeMachine({ files, firmware: { helper: 'hardened' } });
			machine.boot();
			return bootParams.decodePrefix(machine.plain(MemoryMap.bootParams, PAGE_SIZE)).flags & BootFlag.helper;
		};
		const low = { addr: 0, size: 0x9f000, type: 1 };
		expect(boot([low, { addr: MIB, size: RAM_BYTES - MIB, type: 1 }])).toBe(BootFlag.helper);
		const holes = [
			{ addr: MIB, size: 16 * MIB, type: 1 },
			{ addr: 17 * MIB + PAGE_SIZE, size: RAM_BYTES - 17 * MIB - PAGE_SIZE, type: 1 },
		];
		expect(boot([low, ...holes])).toBe(0);
		// Where a kernel stands that was started by kexec.
		const from = MemoryMap.kexecKernel + PAGE_SIZE;
		expect(boot([low, { addr: from, size: RAM_BYTES - from, type: 1 }])).toBe(0);
	});
});

it('a hardened helper needs cryptography', () => {
	expect(() => ovmfFirmware({ helper: 'hardened' })).toThrow(/^firmware: expected a crypto provider/);
});
