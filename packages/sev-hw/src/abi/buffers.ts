import { bytes, ignored, layout, u8, u16, u32, u64 } from '@cvm/layout';

/*
 * Command buffers of SEV API 0.24 §5 and §6, packed. Reserved words are `ignored`: the firmware does not look at them
 * (INIT excepted, which names them) and echoes them when it copies a buffer back.
 */

/** INIT. The reserved bytes are a field: the firmware refuses a set bit with INVALID_CONFIG. */
export const initBuffer = layout('sev_init', 20, {
	flags: u16(0x00),
	reserved: bytes(0x02, 6),
	tmrPaddr: u64(0x08),
	tmrLength: u32(0x10),
});

/** INIT_EX: INIT with the storage of the platform's keys in system memory. `nvPaddr` 0: the SPI flash, as INIT. */
export const initExBuffer = layout('sev_init_ex', 36, {
	length: u32(0x00),
	flags: u16(0x04),
	reserved: bytes(0x06, 2),
	tmrPaddr: u64(0x08),
	tmrLength: u32(0x10),
	reserved2: bytes(0x14, 4),
	nvPaddr: u64(0x18),
	nvLength: u32(0x20),
});

/** PLATFORM_STATUS. `owner` bit 0: externally owned. `config` bit 0: SEV-ES. */
export const platformStatusBuffer = layout('sev_platform_status', 12, {
	apiMajor: u8(0x00),
	apiMinor: u8(0x01),
	state: u8(0x02),
	owner: u8(0x03),
	config: u16(0x04),
	reserved: ignored(0x06, 1),
	build: u8(0x07),
	guestCount: u32(0x08),
});

/** PEK_CSR. */
export const pekCsrBuffer = layout('sev_pek_csr', 12, { csrPaddr: u64(0x00), csrLen: u32(0x08) });

/** PEK_CERT_IMPORT. */
export const pekCertImportBuffer = layout('sev_pek_cert_import', 28, {
	pekPaddr: u64(0x00),
	pekLen: u32(0x08),
	reserved: ignored(0x0c, 4),
	ocaPaddr: u64(0x10),
	ocaLen: u32(0x18),
});

/** PDH_CERT_EXPORT. */
export const pdhCertExportBuffer = layout('sev_pdh_cert_export', 28, {
	pdhPaddr: u64(0x00),
	pdhLen: u32(0x08),
	reserved: ignored(0x0c, 4),
	certsPaddr: u64(0x10),
	certsLen: u32(0x18),
});

/** DOWNLOAD_FIRMWARE. */
export const downloadFirmwareBuffer = layout('sev_download_firmware', 12, { fwPaddr: u64(0x00), fwLen: u32(0x08) });

/** GET_ID. */
export const getIdBuffer = layout('sev_get_id', 12, { idPaddr: u64(0x00), idLen: u32(0x08) });

/** LAUNCH_START. `handle`: in, 0 or the guest whose key to share; out, the new guest. `dhCertPaddr` 0: no guest owner. */
export const launchStartBuffer = layout('sev_launch_start', 36, {
	handle: u32(0x00),
	policy: u32(0x04),
	dhCertPaddr: u64(0x08),
	dhCertLen: u32(0x10),
	reserved: ignored(0x14, 4),
	sessionPaddr: u64(0x18),
	sessionLen: u32(0x20),
});

/** LAUNCH_UPDATE_DATA, LAUNCH_UPDATE_VMSA. */
export const launchUpdateBuffer = layout('sev_launch_update', 20, {
	handle: u32(0x00),
	reserved: ignored(0x04, 4),
	paddr: u64(0x08),
	length: u32(0x10),
});

/** LAUNCH_MEASURE. */
export const launchMeasureBuffer = layout('sev_launch_measure', 20, {
	handle: u32(0x00),
	reserved: ignored(0x04, 4),
	paddr: u64(0x08),
	length: u32(0x10),
});

/** ATTESTATION. */
export const attestationBuffer = layout('sev_attestation', 36, {
	handle: u32(0x00),
	reserved: ignored(0x04, 4),
	paddr: u64(0x08),
	mnonce: bytes(0x10, 16),
	length: u32(0x20),
});

/** Commands that name a guest and nothing else. */
export const handleBuffer = layout('sev_handle', 4, { handle: u32(0x00) });

/** ACTIVATE. */
export const activateBuffer = layout('sev_activate', 8, { handle: u32(0x00), asid: u32(0x04) });

/** ACTIVATE_EX. `idsPaddr`: `numIds` APIC ids of cores, u32 each. */
export const activateExBuffer = layout('sev_activate_ex', 24, {
	exLen: u32(0x00),
	handle: u32(0x04),
	asid: u32(0x08),
	numIds: u32(0x0c),
	idsPaddr: u64(0x10),
});

/** COPY. `length` in bytes, whole pages of 4 KiB. */
export const copyBuffer = layout('sev_copy', 24, {
	handle: u32(0x00),
	length: u32(0x04),
	srcPaddr: u64(0x08),
	dstPaddr: u64(0x10),
});

/** GUEST_STATUS. */
export const guestStatusBuffer = layout('sev_guest_status', 13, {
	handle: u32(0x00),
	policy: u32(0x04),
	asid: u32(0x08),
	state: u8(0x0c),
});

/** LAUNCH_SECRET, SEND_UPDATE_DATA, SEND_UPDATE_VMSA, RECEIVE_UPDATE_DATA, RECEIVE_UPDATE_VMSA: one transport packet. */
export const transportBuffer = layout('sev_transport', 52, {
	handle: u32(0x00),
	reserved1: ignored(0x04, 4),
	hdrPaddr: u64(0x08),
	hdrLen: u32(0x10),
	reserved2: ignored(0x14, 4),
	guestPaddr: u64(0x18),
	guestLen: u32(0x20),
	reserved3: ignored(0x24, 4),
	transPaddr: u64(0x28),
	transLen: u32(0x30),
});

/** SEND_START. Platform certificates: the target's PEK ‖ OCA ‖ CEK. AMD certificates: ASK ‖ ARK. */
export const sendStartBuffer = layout('sev_send_start', 68, {
	handle: u32(0x00),
	policy: u32(0x04),
	pdhCertPaddr: u64(0x08),
	pdhCertLen: u32(0x10),
	reserved1: ignored(0x14, 4),
	platCertsPaddr: u64(0x18),
	platCertsLen: u32(0x20),
	reserved2: ignored(0x24, 4),
	amdCertsPaddr: u64(0x28),
	amdCertsLen: u32(0x30),
	reserved3: ignored(0x34, 4),
	sessionPaddr: u64(0x38),
	sessionLen: u32(0x40),
});

/** RECEIVE_START. `handle` as in LAUNCH_START; the certificate is the source's PDH. */
export const receiveStartBuffer = layout('sev_receive_start', 36, {
	handle: u32(0x00),
	policy: u32(0x04),
	pdhCertPaddr: u64(0x08),
	pdhCertLen: u32(0x10),
	reserved: ignored(0x14, 4),
	sessionPaddr: u64(0x18),
	sessionLen: u32(0x20),
});

/** DBG_DECRYPT, DBG_ENCRYPT. */
export const debugBuffer = layout('sev_dbg', 28, {
	handle: u32(0x00),
	reserved: ignored(0x04, 4),
	srcPaddr: u64(0x08),
	dstPaddr: u64(0x10),
	length: u32(0x18),
});

/** SWAP_OUT. `flags` as in the metadata entry: bit 0 page size, bits 2:1 page type. `softwareData` goes into the entry. */
export const swapOutBuffer = layout('sev_swap_out', 40, {
	handle: u32(0x00),
	flags: u32(0x04),
	srcPaddr: u64(0x08),
	dstPaddr: u64(0x10),
	mdataPaddr: u64(0x18),
	softwareData: u64(0x20),
});

/** SWAP_IN. `flags` as in SWAP_OUT, and bit 3: in place. */
export const swapInBuffer = layout('sev_swap_in', 32, {
	handle: u32(0x00),
	flags: u32(0x04),
	srcPaddr: u64(0x08),
	dstPaddr: u64(0x10),
	mdataPaddr: u64(0x18),
});

/** Bytes of the session buffer that LAUNCH_START and RECEIVE_START take and SEND_START makes. */
export const SESSION_SIZE = 128;
/** Bytes of PEK ‖ OCA ‖ CEK, as PDH_CERT_EXPORT writes and SEND_START takes them. */
export const PLATFORM_CHAIN_SIZE = 3 * 2084;
/** Bytes of one chip id, as GET_ID writes it. */
export const CHIP_ID_SIZE = 64;
/** Bytes that LAUNCH_MEASURE writes: measurement 32 ‖ nonce 16. */
export const MEASUREMENT_SIZE = 48;
/** Bytes of the report that ATTESTATION writes. */
export const ATTESTATION_SIZE = 0xd0;
/** Bytes of a save area (VMSA), and what LAUNCH_UPDATE_VMSA takes at once. */
export const VMSA_SIZE = 4096;
/** Bytes of the storage that INIT_EX takes in system memory. */
export const NV_SIZE = 0x8000;
/** Largest payload of one transport packet: what tools assume; firmware 1.55.25 takes up to 0x5000. */
export const PACKET_LIMIT = 0x4000;
/** Size and alignment of the trusted memory region that INIT takes for SEV-ES. */
export const TMR_SIZE = 0x100000;
/** INIT flags, and PLATFORM_STATUS config: SEV-ES on. */
export const CONFIG_ES = 1;
