import { layout, u32, u64 } from '@cvm/layout';
import type { SharedRegion } from '@cvm/qemu-mig';

/** Names of the device sections that a host writes: three of this model's own, QEMU's run state, and one of the first helper series. */
export const SECTION = {
	endOfRam: 'end-of-confidential-ram',
	vcpu: 'cvm/vcpu',
	vm: 'cvm/vm',
	shared: 'cvm/shared',
	globalstate: 'globalstate',
} as const;

/** State of the VM that belongs to no device and that a running guest never sends again. */
export const vmSection = layout('cvm/vm', 16, {
	/** MSR_KVM_MIGRATION_CONTROL; without it a second hop A→B→C would be refused. */
	migrationMsr: u64(0),
	/** Version of the guest code that both sides must link: see `guest/program.ts`. */
	program: u32(8),
	vcpus: u32(12),
});

const sharedRange = layout('cvm/shared', 16, { gfnStart: u64(0), gfnEnd: u64(8) });
/** As many ranges as a host keeps. */
const MAX_RANGES = 1 << 16;

/** What the guest shares with its host, for dialects whose RAM has no record for it: 16 bytes a range, half-open, in frames. */
export function encodeShared(list: readonly SharedRegion[]): Uint8Array {
	const out = new Uint8Array(list.length * sharedRange.size);
	for (const [i, { gfnStart, gfnEnd }] of list.entries()) {
		const range = { gfnStart: BigInt(gfnStart), gfnEnd: BigInt(gfnEnd) };
		sharedRange.encodeInto(out.subarray(i * sharedRange.size), range);
	}
	return out;
}

/** @throws RangeError unless it is whole ranges that are none too large, none empty, and no more than a host keeps */
export function decodeShared(body: Uint8Array): SharedRegion[] {
	const count = body.length / sharedRange.size;
	if (!Number.isInteger(count) || count > MAX_RANGES) {
		throw new RangeError(`cvm/shared: expected at most ${MAX_RANGES} ranges of 16 bytes, got ${body.length} bytes`);
	}
	return Array.from({ length: count }, (_, i) => {
		const { gfnStart, gfnEnd } = sharedRange.decodePrefix(body.subarray(i * sharedRange.size));
		if (gfnStart >= gfnEnd || gfnEnd > 2n ** 40n) {
			throw new RangeError(`cvm/shared: expected a range of frames below 2^40, got ${gfnStart} to ${gfnEnd}`);
		}
		return { gfnStart: Number(gfnStart), gfnEnd: Number(gfnEnd) };
	});
}

const RUN_STATE_BYTES = 100;

/** Body of QEMU's `globalstate` section: be32 length with the NUL, then the run state in 100 bytes (qemu 7.2 migration/global_state.c). */
export function encodeGlobalState(state: string): Uint8Array {
	const out = new Uint8Array(4 + RUN_STATE_BYTES);
	new DataView(out.buffer).setUint32(0, state.length + 1);
	out.set(
		Uint8Array.from(state, (c) => c.charCodeAt(0)),
		4,
	);
	return out;
}

/** The run state in a `globalstate` body, or `undefined` if the body is not one. */
export function decodeGlobalState(body: Uint8Array): string | undefined {
	if (body.length !== 4 + RUN_STATE_BYTES) return undefined;
	const end = body.indexOf(0, 4);
	return end < 0 ? undefined : String.fromCharCode(...body.subarray(4, end));
}
