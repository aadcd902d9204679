import { layout, u8, u32, u64 } from '@cvm/layout';

/*
 * Linux include/uapi/linux/psp-sev.h (v6.1): what programs give to /dev/sev. All structures are packed, so that import and
 * export lack the reserved word of the firmware's own command buffers.
 */

/** The only ioctl of /dev/sev: `_IOWR('S', 0, struct sev_issue_cmd)`. */
export const SEV_ISSUE_CMD = 0xc010_5300;

/** Values of `sev_issue_cmd.cmd`. */
export const SevUserCommand = {
	FACTORY_RESET: 0,
	PLATFORM_STATUS: 1,
	PEK_GEN: 2,
	PEK_CSR: 3,
	PDH_GEN: 4,
	PDH_CERT_EXPORT: 5,
	PEK_CERT_IMPORT: 6,
	/** Deprecated: two buffers of 64 bytes, one per socket. */
	GET_ID: 7,
	GET_ID2: 8,
} as const;
/** A value of `sev_issue_cmd.cmd`. */
export type SevUserCommand = (typeof SevUserCommand)[keyof typeof SevUserCommand];

/** `struct sev_issue_cmd`: `data` is the address of the command's own structure, `error` the firmware's status. */
export const sevIssueCmd = layout('sev_issue_cmd', 16, { cmd: u32(0), data: u64(4), error: u32(12) });

/** `struct sev_user_data_status`. `flags` bit 0: externally owned; bit 8: SEV-ES. */
export const sevUserDataStatus = layout('sev_user_data_status', 12, {
	apiMajor: u8(0),
	apiMinor: u8(1),
	state: u8(2),
	flags: u32(3),
	build: u8(7),
	guestCount: u32(8),
});

/** `struct sev_user_data_pek_csr`. `length`: in, room at `address`; out, 2084. */
export const sevUserDataPekCsr = layout('sev_user_data_pek_csr', 12, { address: u64(0), length: u32(8) });

/** `struct sev_user_data_pek_cert_import`. */
export const sevUserDataPekCertImport = layout('sev_user_data_pek_cert_import', 24, {
	pekCertAddress: u64(0),
	pekCertLen: u32(8),
	ocaCertAddress: u64(12),
	ocaCertLen: u32(20),
});

/** `struct sev_user_data_pdh_cert_export`. Lengths: in, room; out, 2084 and 6252. */
export const sevUserDataPdhCertExport = layout('sev_user_data_pdh_cert_export', 24, {
	pdhCertAddress: u64(0),
	pdhCertLen: u32(8),
	certChainAddress: u64(12),
	certChainLen: u32(20),
});

/** `struct sev_user_data_get_id2`. `length`: in, room at `address`; out, bytes of the id. */
export const sevUserDataGetId2 = layout('sev_user_data_get_id2', 12, { address: u64(0), length: u32(8) });

/** Bytes of `struct sev_user_data_get_id`: `socket1[64]`, `socket2[64]`. */
export const SEV_USER_DATA_GET_ID_SIZE = 128;
