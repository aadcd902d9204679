import { MemoryMap, setRecordedSharing } from '@cvm/kvm/guest';
import type { Block, CodeFragment, GuestCpu } from '@cvm/kvm/vcpu';
import { PAGE_SIZE } from '@cvm/layout';
import {
	type GpaRange,
	HelperGeometry,
	MAX_SAVE_AREAS,
	PublishedGeometry,
	saveAreasOf,
	TARGET_REST,
} from '../geometry.js';
import { type DynamicPcd, encodePcds, readPcd } from '../uefi/pcd.js';
import { hostMap } from './boot.js';
import { FIXED_HANDLER, handlerSetup, rfcHandler } from './handler/index.js';
import { hardenedHelper, recordForHelper, sharedHelperRanges } from './helper/index.js';
import { pagesArgument } from './mem-encrypt.js';
import { announcesMailbox, type FirmwareOptions } from './options.js';
import { coversRam, recordableRam } from './ram-map.js';
import { resumeFragment } from './resume/index.js';
import { enterFirmwareTables, sharedGhcbPages } from './sec.js';
import {
	CODE_BASE,
	FirmwareMemory,
	isSevEs,
	isWaiting,
	markedHandler,
	markHandler,
	markTarget,
	setWaiting,
	setWorkWord,
	VARIABLE_FLASH,
	workWord,
} from './work-area.js';

const PCD_BYTES = encodePcds({
	PcdIsConfidentialMigrationTarget: false,
	PcdStartConfidentialMigrationHandler: false,
}).length;
/** PcdGetBool. */
function isSet(cpu: GuestCpu, name: DynamicPcd): boolean {
	const database = new Uint8Array(PCD_BYTES);
	cpu.load(FirmwareMemory.pcdDatabase, database);
	return readPcd(name, database) !== 0;
}

/** The C-bit's position, 0 without SEV. */
const cBitOf = (cpu: GuestCpu): number => {
	const mask = workWord(cpu, 'encryptionMask');
	return mask === 0n ? 0 : mask.toString(2).length - 1;
};
const endOf = (ram: readonly GpaRange[]): number => ram.at(-1)?.end ?? 0;
const ramOf = (cpu: GuestCpu): GpaRange[] => recordableRam(hostMap(cpu, Number(workWord(cpu, 'ramBytes'))));
/** After CPUID leaf 1. */
const apicIdOf = (cpu: GuestCpu): number => Number((cpu.reg('rbx') >> 24n) & 0xffn);
const mailboxRange: GpaRange = {
	start: PublishedGeometry.mailbox,
	end: PublishedGeometry.mailbox + PublishedGeometry.mailboxBytes,
};

/** What the firmware shares by now, for the record of a hardened helper. */
function recordOwnPages(cpu: GuestCpu, options: FirmwareOptions): void {
	const { ghcb, apGhcb, apGhcbEnd } = MemoryMap;
	const shared: GpaRange[] = [
		{ start: ghcb, end: ghcb + sharedGhcbPages(options) * PAGE_SIZE },
		{ start: VARIABLE_FLASH.base, end: VARIABLE_FLASH.base + VARIABLE_FLASH.bytes },
		...sharedHelperRanges,
	];
	if (isSevEs(cpu)) shared.push({ start: apGhcb, end: apGhcbEnd });
	// The flash is above all RAM, and so has no bits.
	for (const { start, end } of shared) setRecordedSharing(cpu, start, end, true);
}

/**
 * ConfidentialMigrationDxe (edk2 branch sev-mirror2-patches; FILE_GUID 5c2978f4-f175-434b-9e6c-9b03bd7e346f), `fw.mh` → EndOfDxe
 * or the dead loop: nothing without PcdStartConfidentialMigrationHandler; then the handler's own set-up; then what both know of is
 * shared and announced; then, with PcdIsConfidentialMigrationTarget, the processors come to rest: this one at `fw.mh.dead`, the others at
 * `fw.mh.parked`, where they read no memory any more, until the host replaces their registers. R15 = the next range to announce.
 *
 * In the form of March 2021 a processor of the VM is taken out of those that the OS will hear of, and makes its own page tables.
 *
 * DEVIATION(edk2 branch sev-mirror2-patches): the dead loop is HLT, not PAUSE, so that a waiting target does not burn a processor. With
 * SEV-ES it is a bare loop, since HLT would be a #VC on a stack that the guest's memory is about to replace; the other processors
 * are in AP_RESET_HOLD then.
 *
 * DEVIATION(edk2 branch sev-mirror2-patches): without SEV nothing is set up, as the posted page tables would not work.
 */
function lifeCycleBlocks(options: FirmwareOptions): Record<string, Block> {
	const { helper } = options;
	const announced = !announcesMailbox(options) ? [] : helper === 'hardened' ? sharedHelperRanges : [mailboxRange];
	return {
		'fw.mh': (cpu) => {
			if (!isSet(cpu, 'PcdStartConfidentialMigrationHandler')) return cpu.jump('fw.dxe.end');
			const ram = ramOf(cpu);
			if (options.handlerOn === 'applicationProcessor') return cpu.jump('fw.mh.processor');
			if (helper === 'rfc-2021') {
				cpu.setNum('rdi', endOf(ram));
				return cpu.call('mh.setup', 'fw.mh.ready');
			}
			// A host that leaves out memory which is used all the same gets a guest without helper. A kernel by kexec stands lowest.
			const ramBytes = Number(workWord(cpu, 'ramBytes'));
			if (!coversRam(ram, MemoryMap.kexecKernel, ramBytes)) return cpu.jump('fw.dxe.end');
			const vcpus = options.vcpuStates === true && isSevEs(cpu) ? Number(workWord(cpu, 'cpus')) : 0;
			if (vcpus > MAX_SAVE_AREAS) return cpu.jump('fw.dxe.end');
			recordForHelper(cpu, { cBit: cBitOf(cpu), ram, saveAreas: saveAreasOf(vcpus) });
			cpu.setNum('rdi', isSet(cpu, 'PcdIsConfidentialMigrationTarget') ? 1 : 0);
			return cpu.call('mh.hardened.install', 'fw.mh.installed');
		},
		// The OS gets a count, as from ACPI tables that leave it out.
		'fw.mh.processor': (cpu) => {
			const last = Number(workWord(cpu, 'cpus')) - 1;
			if (last < 1 || isSevEs(cpu)) return cpu.jump('fw.dxe.end');
			markHandler(cpu, last);
			return cpu.jump('fw.mh.processor_started');
		},
		'fw.mh.processor_started': (cpu) => {
			const last = Number(workWord(cpu, 'cpus')) - 1;
			if (!isWaiting(cpu, last)) return cpu.hlt('fw.mh.processor_started');
			setWorkWord(cpu, 'cpus', BigInt(last));
			cpu.setNum('rax', 0);
			return cpu.jump('fw.mh.ready');
		},
		'fw.ap.handler': (cpu) => {
			cpu.setNum('rax', 1);
			cpu.setNum('rcx', 0);
			return cpu.cpuid('fw.ap.handler_identified');
		},
		'fw.ap.handler_identified': (cpu) => {
			const index = apicIdOf(cpu);
			if (index !== markedHandler(cpu)) return cpu.jump('fw.ap.mailbox');
			enterFirmwareTables(cpu);
			cpu.setNum('rdi', endOf(ramOf(cpu)));
			setWaiting(cpu, index);
			return cpu.jump('mh.rfc.ap');
		},

		'fw.mh.installed': (cpu) => {
			if (cpu.reg('rax') !== 0n) return cpu.jump('fw.dxe.end');
			recordOwnPages(cpu, options);
			setWorkWord(cpu, 'helper', 1n);
			cpu.setNum('rdi', HelperGeometry.pageTables);
			cpu.setNum('rsi', HelperGeometry.stacks + PAGE_SIZE);
			cpu.setNum('rdx', cpu.address('mh.hardened.main'));
			return cpu.call('mh.entry.install', 'fw.mh.ready');
		},
		'fw.mh.ready': (cpu) => {
			// No handler then, and a guest that boots as if nobody had asked for one.
			if (cpu.reg('rax') !== 0n) return cpu.jump('fw.dxe.end');
			cpu.setNum('r15', 0);
			return cpu.jump('fw.mh.announce');
		},
		'fw.mh.announce': (cpu) => {
			const range = announced[cpu.num('r15')];
			if (range === undefined) return cpu.jump('fw.mh.role');
			cpu.setNum('r15', cpu.num('r15') + 1);
			pagesArgument(cpu, range.start, range.end);
			return cpu.call('fw.enc_dec', 'fw.mh.announce');
		},
		'fw.mh.role': (cpu) => {
			if (!isSet(cpu, 'PcdIsConfidentialMigrationTarget')) return cpu.jump('fw.dxe.end');
			setWorkWord(cpu, 'target', 1n);
			if (isSevEs(cpu)) return cpu.jump('fw.mp');
			markTarget(cpu);
			return cpu.jump('fw.mh.await');
		},
		// What the others look at is about to be replaced.
		'fw.mh.await': (cpu) => {
			for (let i = 1; i < Number(workWord(cpu, 'cpus')); i++) if (!isWaiting(cpu, i)) return cpu.hlt('fw.mh.await');
			return cpu.jump('fw.mh.dead');
		},
		'fw.mh.dead': (cpu) => cpu.hlt('fw.mh.dead'),
		'fw.mh.dead_es': (cpu) => cpu.jump('fw.mh.dead_es'),

		'fw.ap.park': (cpu) => {
			cpu.setNum('rax', 1);
			cpu.setNum('rcx', 0);
			return cpu.cpuid('fw.ap.parked');
		},
		'fw.ap.parked': (cpu) => {
			setWaiting(cpu, apicIdOf(cpu));
			return cpu.jump('fw.mh.parked');
		},
		'fw.mh.parked': (cpu) => cpu.hlt('fw.mh.parked'),
	};
}

/**
 * The migration handler and its life cycle; nothing for a firmware without.
 *
 * @throws RangeError for a hardened helper without cryptography
 */
export function lifeCycleFragments(options: FirmwareOptions): readonly CodeFragment[] {
	const { helper = 'none', provider, handler } = options;
	if (helper === 'none') return [];
	if (helper === 'hardened' && options.handlerOn === 'applicationProcessor') {
		throw new RangeError('firmware: expected a mirror vCPU for the hardened helper, got an application processor');
	}
	const lifeCycle = {
		name: 'ovmf-mh',
		base: CODE_BASE + 0x6000,
		blocks: lifeCycleBlocks(options),
		at: { 'fw.mh.dead': TARGET_REST },
	};
	if (helper === 'rfc-2021') return [lifeCycle, ...rfcHandler(handler)];
	if (provider === undefined)
		throw new RangeError('firmware: expected a crypto provider for the hardened helper, got none');
	const setup = handlerSetup({ main: 'mh.hardened.main', defects: FIXED_HANDLER });
	const resume = options.vcpuStates === true ? [resumeFragment()] : [];
	return [lifeCycle, ...setup, ...hardenedHelper({ provider }), ...resume];
}
