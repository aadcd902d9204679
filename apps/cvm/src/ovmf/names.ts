/** What the numbers in metadata sections mean. */
const SEV: Readonly<Record<number, string>> = {
	1: 'memory to validate before launch',
	2: 'SNP secrets page',
	3: 'CPUID page',
	4: 'SVSM calling area',
	16: 'kernel hashes',
};
/** Intel TDX Virtual Firmware Design Guide, metadata section types. */
const TDX: Readonly<Record<number, string>> = {
	0: 'BFV, measured code',
	1: 'CFV, configuration',
	2: 'TD HOB',
	3: 'temporary memory',
	4: 'permanent memory',
};
const IGVM: Readonly<Record<number, string>> = {
	256: 'parameter area',
	257: 'memory map',
	258: 'VP count',
	512: 'HOB area',
};

const named = (names: Readonly<Record<number, string>>) => (type: number) =>
	names[type] ?? `unknown type 0x${type.toString(16)}`;

export const sevSectionName = named(SEV);
export const tdxSectionName = named(TDX);
export const igvmSectionName = named(IGVM);
