import { bytesToName } from '../latin1.js';
import type { DeviceField, DeviceTree } from './tree.js';
import { leavesOf } from './tree.js';

/** One value that people look for. */
export interface ViewEntry {
	/** The usual name, e.g. `rax`. */
	readonly label: string;
	/** Path of the field in the tree, e.g. `env.regs[0]`. */
	readonly path: string;
	readonly value: number | bigint | boolean | string;
}

/** Values that belong together. */
export interface ViewGroup {
	readonly name: string;
	readonly entries: readonly ViewEntry[];
}

/** Label and path; a list of what to show of a device. */
type Row = readonly [label: string, path: string];
interface GroupRule {
	readonly name: string;
	readonly rows: readonly Row[];
	/** All fields whose path begins so are shown as well, under their own names. */
	readonly prefix?: string;
}

/** In the order of their numbers. QEMU 7.2 target/i386/cpu.h `R_EAX`, `R_ES`. */
const REGISTERS = 'rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15'.split(' ');
const SEGMENTS = 'es cs ss ds fs gs'.split(' ');
const same = (...names: readonly string[]): Row[] => names.map((name) => [name, name]);
const env = (...names: readonly string[]): Row[] => names.map((name) => [name, `env.${name}`]);
const segment = (label: string, path: string): Row[] =>
	['selector', 'base', 'limit', 'flags'].map((part) => [`${label}.${part}`, `${path}.${part}`]);

/** By vmsd name. The fields are those of QEMU 7.2 target/i386/machine.c, cpu.c, softmmu/cpus.c, migration/global_state.c. */
const RULES: ReadonlyMap<string, readonly GroupRule[]> = new Map([
	['globalstate', [{ name: 'run state', rows: same('size', 'runstate') }]],
	['cpu_common', [{ name: 'processor', rows: same('halted', 'interrupt_request') }]],
	['timer', [{ name: 'clocks', rows: same('cpu_ticks_offset', 'cpu_clock_offset') }]],
	[
		'cpu',
		[
			{
				name: 'registers',
				rows: [
					...REGISTERS.map((label, i): Row => [label, `env.regs[${i}]`]),
					['rip', 'env.eip'],
					['rflags', 'env.eflags'],
				],
			},
			{
				name: 'segments',
				rows: [
					...SEGMENTS.flatMap((label, i) => segment(label, `env.segs[${i}]`)),
					...['ldt', 'tr', 'gdt', 'idt'].flatMap((label) => segment(label, `env.${label}`)),
				],
			},
			{
				name: 'control',
				rows: [
					...[0, 2, 3, 4].map((i): Row => [`cr${i}`, `env.cr[${i}]`]),
					...[0, 1, 2, 3, 6, 7].map((i): Row => [`dr${i}`, `env.dr[${i}]`]),
					...env('xcr0', 'mxcsr', 'hflags', 'hflags2', 'a20_mask', 'mp_state'),
				],
			},
			{
				name: 'msrs',
				rows: [
					...env('efer', 'star', 'lstar', 'cstar', 'fmask', 'kernelgsbase', 'tsc', 'tsc_aux', 'pat', 'smbase'),
					...env('sysenter_cs', 'sysenter_esp', 'sysenter_eip', 'mtrr_deftype', 'vm_hsave'),
					...env('mcg_cap', 'mcg_status', 'mcg_ctl', 'system_time_msr', 'wall_clock_msr'),
				],
			},
			{
				name: 'events',
				rows: env(
					...['exception_nr', 'interrupt_injected', 'soft_interrupt', 'nmi_injected', 'nmi_pending'],
					...['has_error_code', 'sipi_vector'],
				),
			},
			{ name: 'subsections', rows: [], prefix: 'cpu/' },
		],
	],
]);

/**
 * The values of a device that people look at, under their usual names; undefined for a device that has no such list. Only
 * what the stream holds is shown.
 */
export function viewDevice(tree: DeviceTree): readonly ViewGroup[] | undefined {
	const rules = RULES.get(tree.root.name);
	if (rules === undefined) return undefined;
	const leaves = leavesOf(tree);
	const byPath = new Map(leaves.map(({ path, field }) => [path, field]));
	const groups = rules.map(({ name, rows, prefix }): ViewGroup => {
		const more = prefix === undefined ? [] : leaves.filter(({ path }) => path.startsWith(prefix));
		const all = [...rows, ...more.map(({ path }): Row => [path, path])];
		return { name, entries: all.flatMap((row) => entryOf(byPath, row)) };
	});
	return groups.filter(({ entries }) => entries.length > 0);
}

function entryOf(fields: ReadonlyMap<string, DeviceField>, [label, path]: Row): ViewEntry[] {
	const value = valueAt(fields, path);
	return value === undefined ? [] : [{ label, path, value }];
}

/** The value at a path, which may end in the position in an array of integers. */
function valueAt(fields: ReadonlyMap<string, DeviceField>, path: string): ViewEntry['value'] | undefined {
	const field = fields.get(path);
	if (field?.kind === 'integer' || field?.kind === 'boolean') return field.value;
	if (field?.kind === 'bytes') return textOf(field.value);
	const [, base, index] = /^(.*)\[([0-9]+)\]$/.exec(path) ?? [];
	const array = base === undefined ? undefined : fields.get(base);
	return array?.kind === 'integers' ? array.value[Number(index)] : undefined;
}

/** Up to the first NUL. */
function textOf(bytes: Uint8Array): string {
	const end = bytes.indexOf(0);
	return bytesToName(end < 0 ? bytes : bytes.subarray(0, end));
}
