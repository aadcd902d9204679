import { type Infer, layout, u64 } from '@cvm/layout';

/** GUID of the configuration table by which firmware tells the OS where secrets are (edk2 `ConfidentialComputingSecret.h`). */
export const SECRET_LOCATION_GUID = 'adf956ad-e98c-484c-ae11-b51c7d336447';

/** What that configuration table points at: guest-physical address and length in bytes. */
export const secretLocation = layout('CONFIDENTIAL_COMPUTING_SECRET_LOCATION', 16, { base: u64(0), size: u64(8) });
export type SecretLocation = Infer<typeof secretLocation>;

/** Where builds of OVMF had the secret area, guest-physical; each shares its page with the hash table behind it. */
export const SECRET_AREAS = [
	{ source: 'edk2, August 2021, OvmfPkg/AmdSev/AmdSevX64.fdf', base: 0x80c000, size: 0xc00 },
	{ source: 'confidential-containers-demo/edk2, branch snp-kernel-hashes-v3', base: 0x80f000, size: 0xc00 },
	{ source: 'edk2 master c5aa7e7d94, OvmfPkg/AmdSev/AmdSevX64.fdf', base: 0x810000, size: 0xc00 },
] as const;

/** How the area was kept for the OS, oldest first. Each adds to what was before it or replaces it. */
export const SECRET_RESERVATIONS = [
	{
		source: 'edk2, August 2021, OvmfPkg/AmdSev',
		change: 'the area’s whole page is EfiBootServicesData: the OS may take it once it has read it',
	},
	{
		source: 'confidential-containers-demo/edk2, branch erase-secret-area',
		change: 'the area is zeroed at ExitBootServices: only boot loaders see secrets',
	},
	{
		source: 'confidential-containers-demo/edk2, branch sev-alloc-runtime-secret-area-v2',
		change: 'the configuration table is allocated as EfiACPIReclaimMemory, so that it is still there for the OS',
	},
	{ source: 'edk2 master c5aa7e7d94', change: 'the area is EfiReservedMemoryType: the OS leaves it alone' },
] as const;
