import type { RandomSource } from '@cvm/crypto';
import type { GuestCpu } from '@cvm/kvm/vcpu';
import type { HelperMemory } from '../../session/index.js';
import type { RecordedGuest } from './record.js';

/** A helper's private memory through the helper's own tables, where an address is its guest-physical one. */
export const helperMemory = (cpu: GuestCpu, { ram }: RecordedGuest): HelperMemory => ({
	ram,
	read: cpu.load,
	write: cpu.store,
	exchange: cpu.exchangeU32,
});

/** RDRAND, 8 bytes at a time. */
export function rdrandSource(cpu: GuestCpu): RandomSource {
	const fill = (out: Uint8Array): void => {
		for (let at = 0; at < out.length; at += 8) {
			let word = cpu.rdrand();
			for (let i = at; i < Math.min(at + 8, out.length); i++) {
				out[i] = Number(word & 0xffn);
				word >>= 8n;
			}
		}
	};
	return {
		fill,
		bytes: (length) => {
			const out = new Uint8Array(length);
			fill(out);
			return out;
		},
	};
}
