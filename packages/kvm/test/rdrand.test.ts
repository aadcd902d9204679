import { seededRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { describe, expect, it } from 'vitest';
import { openVcpu, type VcpuOptions } from '../src/vcpu/index.js';
import { createVmRig, programOf } from './vm-rig.js';

/** What three RDRANDs of a vCPU give. */
function drawn(options: Pick<VcpuOptions, 'random'>): bigint[] {
	const seen: bigint[] = [];
	const program = programOf({
		reset: (cpu) => {
			for (let i = 0; i < 3; i++) seen.push(cpu.rdrand());
			return cpu.out(0xf4, 1, 'reset');
		},
	});
	const { vcpu } = createVmRig({ program });
	expect(openVcpu(vcpu.share(), { provider: nodeProvider, program, ticks: false, ...options }).run()).toBe(0);
	return seen;
}

/** Bytes as u64s, little-endian. */
const words = (bytes: Uint8Array): bigint[] => [...new BigUint64Array(bytes.buffer)];

describe('RDRAND', () => {
	it('gives 64 bits at a time of the source that the vCPU was opened with', () => {
		expect(drawn({ random: seededRandom('rdrand') })).toEqual(words(seededRandom('rdrand').bytes(24)));
	});

	it('is fresh for every vCPU without one', () => {
		const all = [...drawn({}), ...drawn({})];
		expect(new Set(all).size).toBe(6);
		expect(all.every((value) => value >= 0n && value < 2n ** 64n)).toBe(true);
		expect(all.some((value) => value >= 2n ** 32n)).toBe(true);
	});
});
