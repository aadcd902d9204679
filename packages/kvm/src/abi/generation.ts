/**
 * Which host kernel is modelled. Hypercall 12, CPUID feature bit 16 and MSR 0x4B564D08 mean different things in the
 * series and in what was merged, so one switch decides for a whole KVM and nothing mixes them.
 *
 * - `v12`: "Add AMD SEV guest live migration support", twelfth posting (kvm list, April 2021)
 * - `upstream`: what was merged from Linux v5.13 on
 */
export type KvmAbi = 'v12' | 'upstream';

/** The Linux releases that differ in what is modelled, oldest first. */
export const LINUX_RELEASES = ['5.12', '5.13', '5.15', '5.16', '5.18', '6.1', '6.10'] as const;
/** One of {@link LINUX_RELEASES}: it stands for all up to the next one. */
export type LinuxRelease = (typeof LINUX_RELEASES)[number];
