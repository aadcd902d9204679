import type { PvFeature } from '../abi/msr.js';
import { VcpuWord } from '../vm/vcpu-state.js';

/** Bits of `VcpuWord.requests`: what KVM has to write to guest memory before the vCPU goes on. */
export const Update = { wallClock: 1, systemTime: 2, stealTime: 4 } as const;

/** kvm_make_request. */
export const requestUpdate = (words: Int32Array, what: number): void => void Atomics.or(words, VcpuWord.requests, what);

/** guest_pv_has: with KVM_CAP_ENFORCE_PV_FEATURE_CPUID off, a guest may use what it was not told about. */
export const pvHas = (words: Int32Array, feature: PvFeature): boolean =>
	Atomics.load(words, VcpuWord.pvEnforce) === 0 || ((Atomics.load(words, VcpuWord.pvFeatures) >>> feature) & 1) === 1;
