import {
	AP_MAILBOX_MAGIC,
	BOOT_MAGIC,
	bootParams,
	E820_OFFSET,
	EfiStatus,
	e820Entry,
	efiString,
	MemoryMap,
} from '@cvm/kvm/guest';
import type { CodeFragment } from '@cvm/kvm/vcpu';
import { guidToBytes } from '@cvm/layout';
import {
	FirmwareMemory,
	type FirmwareOptions,
	ovmfFirmware,
	VARIABLE_FLASH,
	variableRecord,
	variableStore,
} from '@cvm/ovmf-mh/firmware';
import { createFwCfgDevice, e820File } from '@cvm/ovmf-mh/host';
import { describe, expect, it } from 'vitest';
import { C_BIT, createFakeMachine, type FakeHost } from './fake-machine.js';

const MIB = 1 << 20;
const text = (s: string) => Uint8Array.from(s, (c) => c.charCodeAt(0));
const kernel: CodeFragment = {
	name: 'kernel',
	base: MemoryMap.kernelText,
	blocks: {
		kernel_entry: (cpu) => cpu.hlt('kernel_entry'),
		returned: (cpu) => cpu.hlt('returned'),
		ap_entry: (cpu) => cpu.hlt('ap_entry'),
	},
};

interface Setup {
	readonly sev?: boolean;
	readonly sevStatus?: bigint;
	readonly features?: number;
	readonly kvmBase?: number;
	readonly apicId?: number;
	readonly files?: Record<string, Uint8Array>;
	readonly ramBytes?: number;
	readonly firmware?: FirmwareOptions;
	readonly vmmcall?: FakeHost['vmmcall'];
	readonly noFwCfg?: boolean;
}

const FEATURES = (1 << 16) | (1 << 17);
const HYPERVISOR = 0x80000000;

function machineOf(o: Setup = {}) {
	const { sev = true, features = FEATURES, kvmBase = 0x40000000, apicId = 0, ramBytes = 64 * MIB } = o;
	const host: FakeHost = {
		cpuid: (leaf) => {
			if (leaf === 1) return [0, apicId << 24, HYPERVISOR, 0];
			if (leaf === 0x80000000) return [0x8000001f, 0, 0, 0];
			if (leaf === 0x8000001f) return sev ? [2, C_BIT | (1 << 6), 0, 0] : [0, 0, 0, 0];
			if (leaf === kvmBase) return [kvmBase + 1, 0x4b4d564b, 0x564b4d56, 0x4d];
			if (leaf === kvmBase + 1) return [features, 0, 0, 0];
			// "Microsoft Hv", which a VMM that speaks both puts first.
			if (leaf === 0x40000000) return [0x40000005, 0x7263694d, 0x666f736f, 0x76482074];
			return [0, 0, 0, 0];
		},
		sevStatus: o.sevStatus ?? (sev ? 1n : 0n),
		...(o.noFwCfg
			? {}
			: {
					fwCfg: createFwCfgDevice({
						files: o.files ?? { 'etc/e820': e820File([{ addr: 0, size: ramBytes, type: 1 }]) },
						ramBytes,
						bootCpus: 2,
					}),
				}),
		...(o.vmmcall ? { vmmcall: o.vmmcall } : {}),
	};
	return createFakeMachine(host, ...ovmfFirmware(o.firmware), kernel);
}

function booted(o: Setup = {}) {
	const machine = machineOf(o);
	expect(machine.run('kernel_entry')).toBe('stopped');
	return machine;
}

const load = ({ cpu }: ReturnType<typeof machineOf>, at: number, length: number) => {
	const out = new Uint8Array(length);
	cpu.load(at, out);
	return out;
};

function parametersOf(machine: ReturnType<typeof machineOf>) {
	const page = load(machine, MemoryMap.bootParams, 0x1000);
	const p = bootParams.decodePrefix(page);
	const e820 = Array.from({ length: p.e820Count }, (_, i) => {
		const { addr, size, type } = e820Entry.decodePrefix(page.subarray(E820_OFFSET + 20 * i));
		return [Number(addr), Number(size), type];
	});
	return { ...p, workload: String.fromCharCode(...p.workload).replaceAll('\0', ''), e820 };
}

/** Calls GetVariable as the kernel does. */
function getVariable(
	machine: ReturnType<typeof machineOf>,
	o: { name?: string; guid?: Uint8Array; room?: bigint; data?: bigint; attributes?: number; nameAt?: number } = {},
) {
	const { cpu } = machine;
	const [nameAt, guidAt, sizeAt, dataAt, stack] = [0x1001000, 0x1001100, 0x1001200, 0x1001300, 0x1104000];
	const guid =
		o.guid ??
		Uint8Array.from([0x71, 0x9b, 0xf2, 0x0c, 0x51, 0x9e, 0x3a, 0x43, 0xa3, 0xb7, 0x81, 0xf3, 0xab, 0x16, 0xb8, 0x75]);
	cpu.store(nameAt, efiString(o.name ?? 'SevLiveMigrationEnabled'));
	cpu.store(guidAt, guid);
	cpu.storeU64(sizeAt, o.room ?? 1n);
	cpu.storeU8(dataAt, 0xaa);
	cpu.setNum('rsp', stack - 0x30);
	cpu.storeU64(stack - 0x30 + 0x20, o.data ?? BigInt(dataAt));
	cpu.setNum('rcx', o.nameAt ?? nameAt);
	cpu.setNum('rdx', guidAt);
	cpu.setNum('r8', o.attributes ?? 0);
	cpu.setNum('r9', sizeAt);
	cpu.setReg('rbx', 0x1234n);
	cpu.call(Number(parametersOf(machine).getVariable), 'returned');
	expect(machine.run('returned')).toBe('stopped');
	expect(cpu.num('rsp')).toBe(stack - 0x30);
	expect(cpu.reg('rbx')).toBe(0x1234n);
	return { status: cpu.reg('rax'), size: cpu.loadU64(sizeAt), value: cpu.loadU8(dataAt) };
}

/** GUID of the secret table (edk2 OvmfPkg/Include/Guid, Linux drivers/virt/coco/efi_secret). */
const SECRET_TABLE = guidToBytes('1e74f542-71dd-4d66-963e-ef4287ff173b');
const isClear = (bytes: Uint8Array) => bytes.every((b) => b === 0);

const GHCB_REPORT = { gpa: 0x809000n, pages: 2n, attributes: 0n };
const FLASH_REPORT = { gpa: 0xffc00000n, pages: 132n, attributes: 0n };

describe('firmware in an SEV guest', () => {
	it('starts at the reset vector and hands over in long mode with RSI at the boot parameters', () => {
		const machine = booted();
		const { cpu } = machine;
		expect(cpu.cr0 & 0x80000001n).toBe(0x80000001n);
		expect(cpu.efer & 0x100n).toBe(0x100n);
		expect(cpu.num('rsi')).toBe(MemoryMap.bootParams);
		expect(cpu.num('r12')).toBe(0);
		expect(parametersOf(machine)).toMatchObject({ magic: BOOT_MAGIC, ramBytes: 64n << 20n, cpus: 2, flags: 1 });
	});

	it('maps everything private but the GHCB and the variable flash', () => {
		const { isShared } = booted();
		for (const va of [0, 0x7ff000, 0x800000, 0x808fff, 0x80b000, 0x80c000, 0x840000, 0x9ff000, 0x1000000, 0xbfffffff]) {
			expect([va, isShared(va)]).toEqual([va, false]);
		}
		for (const va of [0x809000, 0x80afff, VARIABLE_FLASH.base, VARIABLE_FLASH.base + VARIABLE_FLASH.bytes - 1]) {
			expect([va, isShared(va)]).toEqual([va, true]);
		}
		for (const va of [0xffbfffff, VARIABLE_FLASH.base + VARIABLE_FLASH.bytes, 0xffffffff]) {
			expect([va, isShared(va)]).toEqual([va, false]);
		}
	});

	it('reports the GHCB and then the flash, each in one call, when the tables have changed and the TLB is flushed', () => {
		const atCall: unknown[] = [];
		const machine = machineOf({
			vmmcall: (gpa) => {
				atCall.push([machine.isShared(Number(gpa)), machine.seen.flushes]);
				return 0n;
			},
		});
		machine.run('kernel_entry');
		expect(machine.calls).toEqual([GHCB_REPORT, FLASH_REPORT]);
		expect(atCall).toEqual([
			[true, 0],
			[true, 1],
		]);
	});

	it('leaves zeros in the shared pages and no trace of private work in them', () => {
		const { raw } = booted();
		expect(raw.subarray(0x809000, 0x80b000).every((b) => b === 0)).toBe(true);
	});

	it('clears its stack, its buffers and its notes', () => {
		const machine = booted();
		const { scratch, scratchEnd, workArea } = FirmwareMemory;
		expect(isClear(load(machine, scratch, scratchEnd - scratch))).toBe(true);
		expect(isClear(load(machine, workArea, 0x1000))).toBe(true);
	});

	it('keeps the secret that the owner injected, and clears the rest of its page', () => {
		const machine = machineOf();
		const secret = Uint8Array.of(...SECRET_TABLE, 64, 0, 0, 0, ...new Uint8Array(44).fill(0x42));
		// Placed before launch, through the private view: paging is off until the firmware turns it on.
		machine.cpu.store(MemoryMap.secret, secret);
		machine.run('kernel_entry');
		expect(load(machine, MemoryMap.secret, 64)).toEqual(secret);
		expect(isClear(load(machine, MemoryMap.secret + 64, 0x1000 - 64))).toBe(true);
	});

	it.each([
		['of another kind', [0, 0, 0, 0], 64],
		['said to be longer than its area', [], 0xc01],
	])('clears the page of a secret %s', (_, start, length) => {
		const machine = machineOf();
		const table = Uint8Array.of(...start, ...SECRET_TABLE.subarray(start.length));
		machine.cpu.store(MemoryMap.secret, table);
		machine.cpu.storeU32(MemoryMap.secret + 16, length);
		machine.run('kernel_entry');
		expect(isClear(load(machine, MemoryMap.secret, 0x1000))).toBe(true);
	});

	it('G1: makes no hypercall without the feature bit of its generation', () => {
		expect(booted({ features: 1 << 16 }).calls).toEqual([]);
		expect(booted({ features: 1 << 17 }).calls).toHaveLength(2);
		expect(booted({ features: 1 << 17, firmware: { abi: 'v12' } }).calls).toEqual([]);
		expect(booted({ features: 1 << 16, firmware: { abi: 'v12' } }).calls).toEqual([GHCB_REPORT, FLASH_REPORT]);
	});

	it('G2: finds KVM behind another hypervisor interface, up to the last leaf of the scan', () => {
		expect(booted({ kvmBase: 0x40000100 }).calls).toHaveLength(2);
		expect(booted({ kvmBase: 0x4000ff00 }).calls).toHaveLength(2);
		expect(booted({ kvmBase: 0x40010000 }).calls).toHaveLength(0);
	});

	it('takes the machine from fw_cfg by name, whatever the selectors', () => {
		const e820 = e820File([{ addr: 0, size: 64 * MIB, type: 1 }]);
		const files = {
			'aaa/first': text('x'),
			'etc/e820': e820,
			'etc/e820x': text('not this one'),
			'opt/cvm/workload': text('heartbeat'),
			'opt/cvm/seed': text('18446744073709551615'),
			'opt/cvm/steps': text('1000\n'),
		};
		const machine = booted({ files });
		expect(parametersOf(machine)).toMatchObject({
			workload: 'heartbeat',
			seed: 2n ** 64n - 1n,
			stepLimit: 1000n,
		});
		expect([...machine.seen.ports].sort()).toEqual([0x510, 0x511]);
	});

	it('takes its own memory and the flash out of the map that the kernel gets', () => {
		expect(parametersOf(booted()).e820).toEqual([
			[0, 0x800000, 1],
			[0x800000, 0x800000, 2],
			[0x1000000, 64 * MIB - 0x1000000, 1],
			[0xffc00000, 0x400000, 2],
		]);
	});

	it('keeps what else the host said about memory, in order of address', () => {
		const files = {
			'etc/e820': e820File([
				{ addr: 0xfeffc000, size: 0x4000, type: 2 },
				{ addr: 0x850000, size: 32 * MIB, type: 1 },
				{ addr: 0, size: 0x9fc00, type: 1 },
			]),
		};
		expect(parametersOf(booted({ files })).e820).toEqual([
			[0, 0x9fc00, 1],
			[0x800000, 0x800000, 2],
			[0x1000000, 0x850000 + 32 * MIB - 0x1000000, 1],
			[0xfeffc000, 0x4000, 2],
			[0xffc00000, 0x400000, 2],
		]);
	});

	it('does without files: RAM by its size, no workload, seed and limit 0', () => {
		expect(parametersOf(booted({ files: {} }))).toMatchObject({
			workload: '',
			seed: 0n,
			stepLimit: 0n,
			e820: [
				[0, 0x800000, 1],
				[0x800000, 0x800000, 2],
				[0x1000000, 64 * MIB - 0x1000000, 1],
				[0xffc00000, 0x400000, 2],
			],
		});
	});

	it.each([
		['a number that is none', 'x12', 0n],
		['digits and a rest', '12abc', 12n],
		['a number beyond 64 bits, modulo that', '18446744073709551617', 1n],
		['a negative number', '-1', 0n],
		['a file of 5000 bytes', '1'.repeat(5000), 0n],
	])('reads %s as seed without harm', (_, seed, expected) => {
		expect(parametersOf(booted({ files: { 'opt/cvm/seed': text(seed) } })).seed).toBe(expected);
	});

	it('survives a map with absurd addresses and sizes', () => {
		const bad = new Uint8Array(20 * 10).fill(0xff);
		const machine = booted({ files: { 'etc/e820': bad } });
		expect(parametersOf(machine).e820).toEqual([
			[0x800000, 0x800000, 2],
			[0xffc00000, 0x400000, 2],
		]);
	});

	it('stops when there is no fw_cfg device', () => {
		const machine = machineOf({ noFwCfg: true });
		expect(machine.run('kernel_entry')).toBe('halted');
		expect(machine.where()).toBe('fw.dead');
	});
});

describe('firmware outside SEV', () => {
	it.each([
		['CPUID says no', { sev: false }],
		['CPUID says yes but SEV_STATUS no', { sev: true, sevStatus: 0n }],
	])('shares and reports nothing and sets no variable when %s', (_, setup) => {
		const machine = booted(setup);
		expect(machine.calls).toEqual([]);
		expect(getVariable(machine).status).toBe(EfiStatus.notFound);
		const entry = machine.cpu.loadU64(MemoryMap.secPageTables + 0x2000);
		expect(entry >> 32n).toBe(0n);
	});
});

describe('SevLiveMigrationEnabled', () => {
	it('is one byte, 1, with attributes 7, once everything shared was reported', () => {
		const machine = booted();
		expect(getVariable(machine, { attributes: 0x1001400 })).toEqual({ status: EfiStatus.success, size: 1n, value: 1 });
		expect(machine.cpu.loadU32(0x1001400)).toBe(7);
	});

	it('is not there without the feature, even though pages are shared', () => {
		expect(getVariable(booted({ features: 1 << 16 })).status).toBe(EfiStatus.notFound);
	});

	it('is not there when the host refused a report: it must not believe that it has them all', () => {
		const refuseFlash = booted({ vmmcall: (gpa) => (gpa === 0xffc00000n ? -22n : 0n) });
		expect(getVariable(refuseFlash).status).toBe(EfiStatus.notFound);
		const refuseGhcb = booted({ vmmcall: (gpa) => (gpa === 0x809000n ? 1n : 0n) });
		expect(refuseGhcb.calls).toHaveLength(2);
		expect(getVariable(refuseGhcb).status).toBe(EfiStatus.notFound);
	});

	it('can be left out, or 0, as other firmware would have it; reports are made all the same', () => {
		const absent = booted({ firmware: { setVariable: 'absent' } });
		expect(absent.calls).toHaveLength(2);
		expect(getVariable(absent).status).toBe(EfiStatus.notFound);
		expect(getVariable(booted({ firmware: { setVariable: 'zero' } }))).toEqual({ status: 0n, size: 1n, value: 0 });
	});

	it('lies in private memory in the documented format', () => {
		const machine = booted();
		expect(machine.isShared(MemoryMap.variableStore)).toBe(false);
		const { used, count } = variableStore.decode(load(machine, MemoryMap.variableStore, 16));
		expect([used, count]).toEqual([16 + 32 + 48 + 8, 1]);
		const record = load(machine, MemoryMap.variableStore + 16, 88);
		expect(variableRecord.decodePrefix(record)).toMatchObject({
			length: 88,
			attributes: 7,
			nameBytes: 48,
			dataBytes: 1,
		});
		expect(record[80]).toBe(1);
	});
});

describe('GetVariable', () => {
	it.each([
		['another name', { name: 'SevLiveMigrationEnable' }],
		['a longer name', { name: 'SevLiveMigrationEnabled2' }],
		['another GUID', { guid: new Uint8Array(16) }],
	])('does not find %s', (_, o) => {
		expect(getVariable(booted(), o)).toEqual({ status: EfiStatus.notFound, size: 1n, value: 0xaa });
	});

	it('says how much room it needs', () => {
		expect(getVariable(booted(), { room: 0n })).toEqual({ status: EfiStatus.bufferTooSmall, size: 1n, value: 0xaa });
		expect(getVariable(booted(), { room: 100n })).toEqual({ status: EfiStatus.success, size: 1n, value: 1 });
	});

	it('refuses null pointers', () => {
		expect(getVariable(booted(), { nameAt: 0 }).status).toBe(EfiStatus.invalidParameter);
		expect(getVariable(booted(), { data: 0n }).status).toBe(EfiStatus.invalidParameter);
	});

	it.each([
		['without its magic', 0, 1],
		['that says it is larger than it is', 10, 0xff],
		['with a record that ends after it', 17, 0xff],
		['with a record shorter than its parts', 16, 40],
	])('reports a store %s as a device error', (_, at, byte) => {
		const machine = booted();
		machine.cpu.storeU8(MemoryMap.variableStore + at, byte);
		expect(getVariable(machine).status).toBe(EfiStatus.deviceError);
	});
});

describe('the other processors', () => {
	it('halt until the mailbox has its magic, and then go where it says', () => {
		const machine = machineOf({ apicId: 1 });
		const { cpu } = machine;
		expect(machine.run('ap_entry')).toBe('halted');
		expect(machine.where()).toBe('fw.ap.wait');
		cpu.storeNum(MemoryMap.apMailbox + 8, cpu.address('ap_entry'));
		expect(machine.run('ap_entry')).toBe('halted');
		cpu.storeU64(MemoryMap.apMailbox, AP_MAILBOX_MAGIC);
		expect(machine.run('ap_entry')).toBe('stopped');
	});

	it('find the mailbox empty after the first processor started, whatever was in memory', () => {
		const machine = booted();
		expect(load(machine, MemoryMap.apMailbox, 16).every((b) => b === 0)).toBe(true);
	});
});
