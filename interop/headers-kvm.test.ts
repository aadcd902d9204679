import * as kvm from '@cvm/kvm/abi';
import { SEV_ISSUE_CMD } from '@cvm/kvm/ccp';
import { describe, expect, it } from 'vitest';
import { askCompiler } from './headers.js';
import { type AnyLayout, compareNumbers, placesOf, renamed, snakeCase } from './layout-comparison.js';
import { temporaryFolder } from './programs.js';

/*
 * The numbers and layouts of @cvm/kvm/abi against the headers for programs of Linux 6.1. What came after 6.1, what never was in a
 * header, and what is ours is named here.
 */

const folder = temporaryFolder();
const INCLUDES = `
#include <stdint.h>
#include <sys/ioctl.h>
#include <linux/kvm.h>
#include <linux/kvm_para.h>
#include <linux/psp-sev.h>
#include <errno.h>
`;
const ask = (questions: Parameters<typeof askCompiler>[2]) => askCompiler(folder, INCLUDES, questions);
const compare = (ours: Readonly<Record<string, number>>) => compareNumbers(ours, (constants) => ask({ constants }));

describe('linux/kvm.h', () => {
	it('numbers capabilities and their bits as we do', () => {
		// KVM_CAP_VM_TYPES is of 6.8.
		const { VM_TYPES, ...caps } = kvm.Cap;
		compare({
			...renamed(caps, (name) => `KVM_CAP_${name}`),
			...renamed(kvm.MsrExitReason, (name) => `KVM_MSR_EXIT_REASON_${name}`),
			...renamed(kvm.MsrFilterDefault, (name) => `KVM_MSR_FILTER_DEFAULT_${name}`),
			...renamed(kvm.Quirk, (name) => `KVM_X86_QUIRK_${name}`),
			...renamed(kvm.DisableExits, (name) => `KVM_X86_DISABLE_EXITS_${name}`),
			KVM_X86_DISABLE_VALID_EXITS: kvm.KVM_X86_DISABLE_VALID_EXITS,
		});
		expect(VM_TYPES).toBe(235);
	});

	it('numbers exits and their directions as we do', () => {
		// Two exits of v11 of the series, whose numbers other architectures have today.
		const { DMA_SHARE, DMA_UNSHARE, ...exits } = kvm.ExitReason;
		compare({
			...renamed(exits, (name) => `KVM_EXIT_${name}`),
			...renamed(kvm.IoDirection, (name) => `KVM_EXIT_IO_${name.toUpperCase()}`),
		});
		expect([DMA_SHARE, DMA_UNSHARE]).toEqual([35, 36]);
	});

	it('numbers the ioctls as we do, with the direction and size of their structures', () => {
		compare({ ...kvm.Ioctl, ...kvm.SevIoctl, SEV_ISSUE_CMD, KVM_API_VERSION: kvm.KVM_API_VERSION });
	});

	it('numbers the SEV commands as we do, and knows no more than we', () => {
		// INIT2 is of 6.10 and takes the next number.
		const { INIT2, ...commands } = kvm.SevCommand;
		compare({ ...renamed(commands, (name) => `KVM_SEV_${name}`), KVM_SEV_NR_MAX: INIT2 });
		expect(Math.max(...Object.values(commands))).toBe(INIT2 - 1);
	});

	it('has the limits and offsets that we have', () => {
		compare({
			KVM_DIRTY_LOG_PAGE_OFFSET: kvm.KVM_DIRTY_LOG_PAGE_OFFSET,
			'sizeof(((struct kvm_msr_filter *)0)->ranges)': 16 * kvm.kvmMsrFilterRange.size,
			KVM_MSR_FILTER_MAX_BITMAP_SIZE: 0x600,
			'offsetof(struct kvm_cpuid2, entries)': kvm.kvmCpuid2.size,
			'offsetof(struct kvm_msrs, entries)': kvm.kvmMsrs.size,
		});
	});
});

describe('linux/kvm_para.h', () => {
	it('numbers hypercalls, their errors and attributes as we do', () => {
		compare({
			...renamed(kvm.Hypercall, (name) => `KVM_HC_${name}`),
			...renamed(kvm.HypercallErrno, (name) => `KVM_${name}`),
			...renamed(kvm.MapGpaRange, (name) => `KVM_MAP_GPA_RANGE_${name}`),
			'1 << KVM_HC_MAP_GPA_RANGE': kvm.EXIT_HYPERCALL_VALID_MASK,
		});
	});

	it('numbers feature bits and MSRs as we do', () => {
		// SEV_LIVE_MIGRATION is what the series called the bit.
		const { SEV_LIVE_MIGRATION, ...features } = kvm.KvmFeature;
		const msrs = Object.entries(kvm.Msr).filter(([name]) => /^KVM_.*[^E]/.test(name));
		compare({
			...renamed(features, (name) => `KVM_FEATURE_${name}`),
			...renamed(kvm.PvFeature, (name) => `KVM_FEATURE_${name}`),
			...renamed(Object.fromEntries(msrs), (name) => `MSR_${name}`),
			MSR_KVM_MIGRATION_CONTROL: kvm.MSR_KVM_MIGRATION_CONTROL,
		});
		expect(SEV_LIVE_MIGRATION).toBe(features.HC_MAP_GPA_RANGE);
	});
});

describe('errno.h', () => {
	it('numbers errors as we do', () => {
		// ENOTSUPP is the kernel's own.
		const { ENOTSUPP, ...errors } = kvm.Errno;
		compare(errors);
		expect(ENOTSUPP).toBe(524);
	});
});

describe('structures of linux/kvm.h', () => {
	/** Of a later kernel, of no kernel, or of postings that were not merged. */
	const NOT_IN_6_1: ReadonlySet<string> = new Set([
		'kvm_sev_init',
		'kvm_sev_send_update_vmsa',
		'kvm_sev_receive_update_vmsa',
		'es_vcpu_record',
		'ghcb',
		'kvm_page_enc_bitmap',
		'kvm_shared_pages_list',
		'shared_region',
	]);
	/** Members that C names in its own way. */
	const SPECIAL: Readonly<Record<string, Readonly<Record<string, string>>>> = {
		kvm_guest_debug: { debugreg: 'arch.debugreg' },
	};
	/** Four u64s of ours are one array of theirs. */
	const ARRAYS: Readonly<Record<string, readonly [string, readonly string[]]>> = {
		kvm_enable_cap: ['args', ['arg0', 'arg1', 'arg2', 'arg3']],
	};

	const layouts: readonly AnyLayout[] = Object.values(kvm).filter(
		(value): value is AnyLayout & typeof value => typeof value === 'object' && 'fields' in value && 'size' in value,
	);
	const known = layouts.filter(({ name }) => !NOT_IN_6_1.has(name));
	const isPadding = (name: string) => /^(pad|padding|reserved)\d?$/.test(name);

	it('are all compared', () => {
		const names = new Set(layouts.map(({ name }) => name));
		expect([...NOT_IN_6_1].filter((name) => !names.has(name))).toEqual([]);
		expect(known.length).toBeGreaterThan(30);
	});

	it.each(known.map((layout) => [layout.name, layout] as const))(
		'%s is laid out as ours, field by field',
		(name, ours) => {
			const mine = placesOf(ours);
			const [array, parts] = ARRAYS[name] ?? ['', []];
			const members = Object.keys(ours.fields).filter((field) => !isPadding(field) && !parts.includes(field));
			const theirName = (field: string) => SPECIAL[name]?.[field] ?? snakeCase(field);
			const asked = [...members.map(theirName), ...(array === '' ? [] : [array])];
			const theirs = ask({ structs: { [name]: asked } }).structs[name];
			expect([name, ours.size]).toEqual([name, theirs?.size]);
			for (const field of members) {
				expect([name, field, mine[field]]).toEqual([name, field, theirs?.members[theirName(field)]]);
			}
			if (array !== '') {
				const first = mine[parts[0] ?? '']?.[0] ?? -1;
				expect([name, array, [first, 8 * parts.length]]).toEqual([name, array, theirs?.members[array]]);
			}
			// Nothing is left out: what is no member is padding.
			const bytes = Object.values(mine).reduce((sum, [, size]) => sum + size, 0);
			expect([name, 'bytes', bytes]).toEqual([name, 'bytes', ours.size]);
		},
	);

	it('lays out struct kvm_run as we do', () => {
		const nested = /^(io|hypercall|mmio|failEntry|internal|msr|systemEvent)([A-Z].*)$/;
		const special: Readonly<Record<string, string>> = {
			union: 'padding',
			failEntryReason: 'fail_entry.hardware_entry_failure_reason',
		};
		const memberOf = (name: string): string => {
			const [, union, rest] = nested.exec(name) ?? [];
			return (
				special[name] ??
				(union === undefined ? snakeCase(name) : `${snakeCase(union)}.${snakeCase(rest ?? '').slice(1)}`)
			);
		};
		// `ioData` is where KVM puts data, and the exits of v11 have left the header.
		const { ioData, dmaAddr, dmaLen, dmaRet, ...members } = kvm.RunOffset;
		const theirs = ask({ structs: { kvm_run: Object.keys(members).map(memberOf) } }).structs['kvm_run'];
		for (const [name, offset] of Object.entries(members)) {
			expect([name, offset]).toEqual([name, theirs?.members[memberOf(name)]?.[0]]);
		}
		expect(ioData).toBeGreaterThanOrEqual(theirs?.size ?? Number.POSITIVE_INFINITY);
		expect([dmaAddr, dmaLen, dmaRet]).toEqual([32, 40, 48]);
	});
});
