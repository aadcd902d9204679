import { layout, u32, u64 } from '@cvm/layout';

/** Names of the device sections that a host writes: two of this model's own, and QEMU's run state. */
export const SECTION = {
	vcpu: 'cvm/vcpu',
	vm: 'cvm/vm',
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
