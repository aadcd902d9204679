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

/**
 * The postings of "Add AMD SEV guest live migration support" (kvm list, 2019 to 2021) and what was merged instead. Up to
 * v10 KVM itself keeps the status of the pages, in v11 and later its VMM does. All but `upstream` have the ABI `v12`.
 */
export const SERIES = ['v1', 'v2', 'v3', 'v4', 'v5', 'v6', 'v7', 'v8', 'v9', 'v10', 'v11', 'v12', 'upstream'] as const;
/** One of {@link SERIES}. */
export type Series = (typeof SERIES)[number];
