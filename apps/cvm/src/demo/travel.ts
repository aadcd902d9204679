import type { DemoOptions } from './options.js';

/** What of a guest travelled, and how. */
export interface Travelled {
	readonly what: string;
	readonly how: string;
}

const AS_HOSTS_SEE_IT = 'in the clear: of a plain SEV guest every host sees them anyway';

/** How the parts of a guest travel from host to host in this demonstration, in words. */
export function travelWords({ mode, helper }: Pick<DemoOptions, 'mode' | 'helper'>): Travelled[] {
	const say = (rows: readonly (readonly [string, string])[]): Travelled[] => rows.map(([what, how]) => ({ what, how }));
	if (mode === 'plain') return say([['all pages', 'as they are: the guest is not encrypted']]);
	const besides = [
		['shared pages', 'as they are'],
		['registers, devices', AS_HOSTS_SEE_IT],
	] as const;
	if (!helper) {
		return say([
			['private pages', "sealed by the source's firmware (PSP) for the target's certificates"],
			...besides,
			['page status', "the source host's list"],
		]);
	}
	if (helper.profile === 'rfc-2021') {
		return say([
			['private pages', "read out by the guest's helper and sent AS THEY ARE: whoever listens has the guest's memory"],
			...besides,
			['page status', "the source host's list"],
		]);
	}
	return say([
		['private pages', "sealed by the guest's own helpers, AES-256-GCM under keys of this migration that no host has"],
		...besides,
		['page status', "the guest's own record, in the manifest"],
		['manifest', 'sealed; the target’s helper held all private memory against it before the guest ran there'],
	]);
}
