/**
 * Which host kernel is modelled. Hypercall 12, CPUID feature bit 16 and MSR 0x4B564D08 mean different things in the two,
 * so one switch decides for a whole KVM and nothing mixes them.
 *
 * - `v12`: "Add AMD SEV guest live migration support", twelfth posting (kvm list, April 2021)
 * - `upstream`: what was merged, Linux v5.13 to v5.16
 */
export type KvmAbi = 'v12' | 'upstream';
