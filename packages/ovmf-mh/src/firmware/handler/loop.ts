import type { Block, CodeFragment, GuestCpu, Next } from '@cvm/kvm/vcpu';
import { PAGE_SIZE } from '@cvm/layout';
import { type GpaRange, PublishedGeometry } from '../../geometry.js';
import {
	commandBlock,
	commandExtension,
	EXTENSION_OFFSET,
	HelperCommand,
	HelperStatus,
	READY_MAGIC,
} from '../../mailbox/abi.js';
import { CODE_BASE } from '../work-area.js';
import type { HandlerDefects } from './defects.js';
import { isUsable } from './entry.js';
import { imageGuards, isInside, isRefusedAnyway, mailboxGuard, stackGuard, tableGuard } from './guard.js';
import { UNENCRYPTED_BASE } from './page-tables.js';
import { loadHeader, type PageTransport, storeHeader } from './transport.js';
import { loadVariable, storeVariable } from './variables.js';

/** QEMU's debug console, where edk2's debug library for QEMU writes. */
const DEBUG_PORT = 0x402;
/** UNCERTAIN(edk2 branch sev-mirror2-patches): what the line says. */
const DEBUG_LINE = 'MigrationHandlerMain\n';
/** Looks at `go` of one block: a vCPU can be kicked between two blocks. */
const POLLS = 32;
const GIB4 = 2 ** 32;

const PARAMS = UNENCRYPTED_BASE + PublishedGeometry.mailbox;
const PAGE = UNENCRYPTED_BASE + PublishedGeometry.ioPage;
const { offsetOf } = commandBlock;
const ext = (field: Parameters<typeof commandExtension.offsetOf>[0]): number =>
	EXTENSION_OFFSET + commandExtension.offsetOf(field);

/** No command: more than the switch knows. */
const UNKNOWN = 0xff;
const low32 = (value: number): number => value >>> 0;

/**
 * MigrationHandlerMain (edk2 branch sev-mirror2-patches, `OvmfPkg/ConfidentialMigration`), for good: waits for `go`, does what `nr`
 * says, stores `ret`, clears `go`, sets `done`. Its copies are calls, so that there is always something on its stack.
 *
 * Registers, which a restore does not touch: R14 start of the page-table guard, R15 start of the stack's, R13 end of RAM, R8
 * command; R9, R10 halves of its address and R11 its sequence number, if they are copied with it.
 *
 * Stores to the mailbox are done in this order for the host as well: a u32 of shared memory is one atomic access.
 */
export function loopFragment(defects: HandlerDefects, transport?: PageTransport): CodeFragment {
	const copiesOnce = defects.commandReads === 'fixed';
	const hasSequence = defects.sequence === 'fixed';
	const isRelocated = defects.virtualAddressMap === 'asPosted';
	const image = imageGuards(defects);
	// Scratch of a single block, never looked at by another one.
	const page = new Uint8Array(PAGE_SIZE);

	/** K23: the address of the mailbox is one that SetVirtualAddressMap changed. */
	const moved = (cpu: GuestCpu): number => (isRelocated ? Number(BigInt.asIntN(64, loadVariable(cpu, 'moved'))) : 0);
	const param = (cpu: GuestCpu, field: Parameters<typeof offsetOf>[0]): number => PARAMS + moved(cpu) + offsetOf(field);
	const extension = (cpu: GuestCpu, field: Parameters<typeof ext>[0]): number => PARAMS + moved(cpu) + ext(field);

	/** Halves of the page's address, low one first. */
	const address = (cpu: GuestCpu): readonly [number, number] => {
		if (copiesOnce) return [cpu.num('r9'), cpu.num('r10')];
		const at = param(cpu, 'gpa');
		return [cpu.loadU32(at), cpu.loadU32(at + 4)];
	};
	/** As a comparison sees it: unsigned. What is lost above 2^53 is beyond all ranges. */
	const unsigned = (cpu: GuestCpu): number => {
		const [low, high] = address(cpu);
		return high * GIB4 + low;
	};
	/** As a pointer: negative in the upper half. */
	const pointer = (cpu: GuestCpu): number => {
		const [low, high] = address(cpu);
		return (high | 0) * GIB4 + low;
	};

	const finish = (cpu: GuestCpu, ret: number): Next => {
		cpu.storeU32(param(cpu, 'ret'), low32(ret));
		return cpu.jump('mh.rfc.publish');
	};
	const isRestore = (cpu: GuestCpu): boolean => cpu.num('r8') === HelperCommand.restore;
	const refuse = (cpu: GuestCpu): Next =>
		finish(cpu, isRestore(cpu) && defects.refusedRestore === 'asPosted' ? HelperStatus.success : HelperStatus.address);
	const guard = (cpu: GuestCpu, range: GpaRange, next: string): Next =>
		isInside(defects, unsigned(cpu), range) ? refuse(cpu) : cpu.jump(next);

	/** Seals or opens what is in `page`. */
	const transform = (cpu: GuestCpu, { seal, open }: PageTransport, gpa: bigint): boolean => {
		const mailbox = PARAMS + moved(cpu);
		if (!isRestore(cpu)) {
			storeHeader(cpu, mailbox, seal(gpa, page));
			return true;
		}
		const header = loadHeader(cpu, mailbox);
		return header !== undefined && open(gpa, header, page);
	};

	const blocks = {
		'mh.rfc.main': (cpu) => {
			cpu.setNum('r8', 0);
			return cpu.call('mh.rfc.debug', 'mh.rfc.begin');
		},
		'mh.rfc.debug': (cpu) => {
			const i = cpu.num('r8');
			if (i >= DEBUG_LINE.length) return cpu.ret();
			cpu.setNum('rax', DEBUG_LINE.charCodeAt(i));
			cpu.setNum('r8', i + 1);
			return cpu.out(DEBUG_PORT, 1, 'mh.rfc.debug');
		},
		// CLI stands here: no interrupt ever comes to this processor.
		'mh.rfc.begin': (cpu) => {
			const root = Number(loadVariable(cpu, 'pageTables'));
			cpu.setReg('r14', BigInt(tableGuard(defects, root, loadVariable(cpu, 'encryptionMask')).start));
			cpu.setReg('r15', loadVariable(cpu, 'stackBase'));
			cpu.setReg('r13', loadVariable(cpu, 'ramEnd'));
			cpu.storeU32(param(cpu, 'go'), 0);
			if (defects.readyFlag === 'fixed') {
				cpu.storeU32(param(cpu, 'done'), 0);
				cpu.storeU32(extension(cpu, 'ready'), READY_MAGIC);
			}
			return cpu.jump('mh.rfc.spin');
		},
		'mh.rfc.spin': (cpu) => {
			const go = param(cpu, 'go');
			for (let i = 0; i < POLLS; i++) if (cpu.loadU32(go) !== 0) return cpu.jump('mh.rfc.accept');
			return cpu.jump('mh.rfc.spin');
		},

		'mh.rfc.accept': (cpu) => {
			const at = param(cpu, 'nr');
			cpu.storeU32(param(cpu, 'done'), 0);
			// Before the fields, which the host stores before it: what follows is at least as new.
			if (hasSequence) cpu.setNum('r11', cpu.loadU32(extension(cpu, 'sequence')));
			const low = cpu.loadU32(at);
			const nr = cpu.loadU32(at + 4) === 0 && low < UNKNOWN ? low : UNKNOWN;
			cpu.setNum('r8', nr);
			if (copiesOnce) {
				const gpa = param(cpu, 'gpa');
				cpu.setNum('r9', cpu.loadU32(gpa));
				cpu.setNum('r10', cpu.loadU32(gpa + 4));
			}
			switch (nr) {
				case HelperCommand.init:
				case HelperCommand.reset:
					return finish(cpu, HelperStatus.success);
				case HelperCommand.save:
					return cpu.jump(defects.saveGuard === 'asPosted' ? 'mh.rfc.transfer' : 'mh.rfc.guard');
				case HelperCommand.restore:
					return cpu.jump('mh.rfc.guard');
				default:
					return finish(cpu, HelperStatus.invalidFunction);
			}
		},

		'mh.rfc.guard': (cpu) => {
			if (isRefusedAnyway(defects, unsigned(cpu), Number(cpu.reg('r13')))) return refuse(cpu);
			return guard(cpu, mailboxGuard(defects), 'mh.rfc.guard.tables');
		},
		'mh.rfc.guard.tables': (cpu) => {
			const start = Number(cpu.reg('r14'));
			// The length does not depend on where it starts.
			const { start: zero, end } = tableGuard(defects, 0, 0n);
			return guard(cpu, { start, end: start + end - zero }, 'mh.rfc.guard.stack');
		},
		'mh.rfc.guard.stack': (cpu) => guard(cpu, stackGuard(defects, Number(cpu.reg('r15'))), 'mh.rfc.guard.image'),
		'mh.rfc.guard.image': (cpu) => {
			if (image.length === 0) return cpu.jump('mh.rfc.transfer');
			const gpa = unsigned(cpu);
			return image.some((range) => isInside(defects, gpa, range)) ? refuse(cpu) : cpu.jump('mh.rfc.transfer');
		},

		'mh.rfc.transfer': (cpu) => cpu.call('mh.rfc.copy', 'mh.rfc.copied'),
		'mh.rfc.copy': (cpu) => {
			const body = PAGE + moved(cpu);
			const to = pointer(cpu);
			cpu.load(isRestore(cpu) ? body : to, page);
			const isGood = transport === undefined || transform(cpu, transport, BigInt.asUintN(64, BigInt(to)));
			if (isGood) cpu.store(isRestore(cpu) ? to : body, page);
			cpu.setNum('rax', low32(isGood ? HelperStatus.success : HelperStatus.authentication));
			return cpu.jump('mh.rfc.copy.return');
		},
		// A restore that hit the stack has replaced where this goes.
		'mh.rfc.copy.return': (cpu) => (isUsable(cpu.loadU64(cpu.num('rsp'))) ? cpu.ret() : cpu.ud2()),
		'mh.rfc.copied': (cpu) => finish(cpu, cpu.num('rax')),

		'mh.rfc.publish': (cpu) => {
			if (hasSequence) cpu.storeU32(extension(cpu, 'echo'), cpu.num('r11'));
			cpu.storeU32(param(cpu, 'go'), 0);
			cpu.storeU32(param(cpu, 'done'), 1);
			return cpu.jump('mh.rfc.spin');
		},

		/** What SetVirtualAddressMap does to the driver: RDI is how far its image moves, modulo 2^64. */
		'mh.rfc.virtual': (cpu) => {
			storeVariable(cpu, 'moved', BigInt.asUintN(64, loadVariable(cpu, 'moved') + cpu.reg('rdi')));
			return cpu.ret();
		},
	} satisfies Record<string, Block>;

	return { name: 'mh-rfc', base: CODE_BASE + 0x9000, blocks };
}
