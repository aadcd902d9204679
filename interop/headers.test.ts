import * as ccp from '@cvm/kvm/ccp';
import * as abi from '@cvm/sev-hw/abi';
import { COMMANDS, type CommandName, PlatformState, Status } from '@cvm/sev-hw/abi';
import { describe, expect, it } from 'vitest';
import { askCompiler, KERNEL_WORDS, kernelHeaders } from './headers.js';
import { compareNumbers, comparePairings, type Pairing, placesOf, renamed } from './layout-comparison.js';
import { temporaryFolder } from './programs.js';

/*
 * Our layouts and numbers of the secure processor against the C headers that Debian ships, by asking a C compiler. Ours is imported, theirs is
 * compiled; the tables here say only which name of ours is which of theirs.
 */

const folder = temporaryFolder();

const HANDLE = { handle: 'handle' };
const LAUNCH_UPDATE = { ...HANDLE, reserved: 'reserved', paddr: 'address', length: 'len' };
const TRANSPORT = {
	...HANDLE,
	reserved1: 'reserved1',
	hdrPaddr: 'hdr_address',
	hdrLen: 'hdr_len',
	reserved2: 'reserved2',
	guestPaddr: 'guest_address',
	guestLen: 'guest_len',
	reserved3: 'reserved3',
	transPaddr: 'trans_address',
	transLen: 'trans_len',
};

/** The kernel's command buffers: include/linux/psp-sev.h. */
const COMMAND_BUFFERS: readonly Pairing[] = [
	[
		'sev_data_init',
		abi.initBuffer,
		{ 'flags+reserved': 'flags+reserved', tmrPaddr: 'tmr_address', tmrLength: 'tmr_len' },
	],
	[
		'sev_data_init_ex',
		abi.initExBuffer,
		{
			length: 'length',
			'flags+reserved': 'flags',
			tmrPaddr: 'tmr_address',
			tmrLength: 'tmr_len',
			reserved2: 'reserved',
			nvPaddr: 'nv_address',
			nvLength: 'nv_len',
		},
	],
	['sev_data_pek_csr', abi.pekCsrBuffer, { csrPaddr: 'address', csrLen: 'len' }],
	[
		'sev_data_pek_cert_import',
		abi.pekCertImportBuffer,
		{
			pekPaddr: 'pek_cert_address',
			pekLen: 'pek_cert_len',
			reserved: 'reserved',
			ocaPaddr: 'oca_cert_address',
			ocaLen: 'oca_cert_len',
		},
	],
	[
		'sev_data_pdh_cert_export',
		abi.pdhCertExportBuffer,
		{
			pdhPaddr: 'pdh_cert_address',
			pdhLen: 'pdh_cert_len',
			reserved: 'reserved',
			certsPaddr: 'cert_chain_address',
			certsLen: 'cert_chain_len',
		},
	],
	['sev_data_download_firmware', abi.downloadFirmwareBuffer, { fwPaddr: 'address', fwLen: 'len' }],
	['sev_data_get_id', abi.getIdBuffer, { idPaddr: 'address', idLen: 'len' }],
	...['decommission', 'deactivate', 'launch_finish', 'send_finish', 'send_cancel', 'receive_finish'].map(
		(name): Pairing => [`sev_data_${name}`, abi.handleBuffer, HANDLE],
	),
	['sev_data_activate', abi.activateBuffer, { ...HANDLE, asid: 'asid' }],
	['sev_data_guest_status', abi.guestStatusBuffer, { ...HANDLE, policy: 'policy', asid: 'asid', state: 'state' }],
	[
		'sev_data_launch_start',
		abi.launchStartBuffer,
		{
			...HANDLE,
			policy: 'policy',
			dhCertPaddr: 'dh_cert_address',
			dhCertLen: 'dh_cert_len',
			reserved: 'reserved',
			sessionPaddr: 'session_address',
			sessionLen: 'session_len',
		},
	],
	['sev_data_launch_update_data', abi.launchUpdateBuffer, LAUNCH_UPDATE],
	['sev_data_launch_update_vmsa', abi.launchUpdateBuffer, LAUNCH_UPDATE],
	['sev_data_launch_measure', abi.launchMeasureBuffer, LAUNCH_UPDATE],
	...['launch_secret', 'send_update_data', 'receive_update_data', 'receive_update_vmsa'].map(
		(name): Pairing => [`sev_data_${name}`, abi.transportBuffer, TRANSPORT],
	),
	[
		'sev_data_send_start',
		abi.sendStartBuffer,
		{
			...HANDLE,
			policy: 'policy',
			pdhCertPaddr: 'pdh_cert_address',
			pdhCertLen: 'pdh_cert_len',
			reserved1: 'reserved1',
			platCertsPaddr: 'plat_certs_address',
			platCertsLen: 'plat_certs_len',
			reserved2: 'reserved2',
			amdCertsPaddr: 'amd_certs_address',
			amdCertsLen: 'amd_certs_len',
			reserved3: 'reserved3',
			sessionPaddr: 'session_address',
			sessionLen: 'session_len',
		},
	],
	[
		'sev_data_receive_start',
		abi.receiveStartBuffer,
		{
			...HANDLE,
			policy: 'policy',
			pdhCertPaddr: 'pdh_cert_address',
			pdhCertLen: 'pdh_cert_len',
			reserved: 'reserved1',
			sessionPaddr: 'session_address',
			sessionLen: 'session_len',
		},
	],
	[
		'sev_data_dbg',
		abi.debugBuffer,
		{ ...HANDLE, reserved: 'reserved', srcPaddr: 'src_addr', dstPaddr: 'dst_addr', length: 'len' },
	],
	[
		'sev_data_attestation_report',
		abi.attestationBuffer,
		{ ...HANDLE, reserved: 'reserved', paddr: 'address', mnonce: 'mnonce', length: 'len' },
	],
];

/** Commands of the specification that Linux 6.1 does not name. */
const UNKNOWN_TO_LINUX: readonly CommandName[] = ['NOP', 'COPY', 'ACTIVATE_EX', 'SWAP_OUT', 'SWAP_IN'];
const LINUX_COMMANDS: Partial<Record<CommandName, string>> = {
	PLATFORM_RESET: 'FACTORY_RESET',
	LAUNCH_SECRET: 'LAUNCH_UPDATE_SECRET',
	ATTESTATION: 'ATTESTATION_REPORT',
};

/** Status codes whose names Linux spells in its own way. */
const LINUX_STATUS: Readonly<Record<string, string>> = {
	INVALID_CONFIG: 'INAVLID_CONFIG',
	INVALID_LENGTH: 'INVALID_LEN',
	DF_FLUSH_REQUIRED: 'DFFLUSH_REQUIRED',
	HWERROR_PLATFORM: 'HWSEV_RET_PLATFORM',
	HWERROR_UNSAFE: 'HWSEV_RET_UNSAFE',
};

describe("the kernel's include/linux/psp-sev.h", () => {
	const kernel = kernelHeaders(folder);
	const ask = (questions: Parameters<typeof askCompiler>[2]) =>
		askCompiler(folder, `${KERNEL_WORDS}#include <linux/psp-sev.h>`, questions, `-I${kernel}`);

	it('lays out every command buffer as we do, field by field', () => {
		comparePairings(COMMAND_BUFFERS, (structs) => ask({ structs }));
	});

	it('covers every buffer of the command table that Linux knows', () => {
		const compared = new Set<unknown>(COMMAND_BUFFERS.map(([, layout]) => layout));
		for (const [name, rule] of Object.entries(COMMANDS)) {
			if (!('buffer' in rule) || UNKNOWN_TO_LINUX.includes(name as CommandName)) continue;
			// PLATFORM_STATUS has its structure in the user header.
			expect([name, compared.has(rule.buffer)]).toEqual([name, name !== 'PLATFORM_STATUS']);
		}
	});

	it('lacks the reserved word in the buffer of SEND_UPDATE_VMSA, a command that Linux never gives', () => {
		const { reserved1, ...rest } = TRANSPORT;
		const theirs = ask({ structs: { sev_data_send_update_vmsa: Object.values(rest) } }).structs[
			'sev_data_send_update_vmsa'
		];
		const { [reserved1]: word, ...ours } = placesOf(abi.transportBuffer);
		expect(word).toEqual([4, 4]);
		expect(theirs?.size).toBe(abi.transportBuffer.size - 4);
		for (const [our, their] of Object.entries(rest)) {
			const [offset = 0, size = 0] = ours[our] ?? [];
			expect([their, theirs?.members[their]]).toEqual([their, [offset === 0 ? 0 : offset - 4, size]]);
		}
	});

	it('numbers the commands as we do', () => {
		const known = Object.entries(COMMANDS).filter(([name]) => !UNKNOWN_TO_LINUX.includes(name as CommandName));
		const ids = Object.fromEntries(
			known.map(([name, { id }]) => [`SEV_CMD_${LINUX_COMMANDS[name as CommandName] ?? name}`, id]),
		);
		compareNumbers(ids, (constants) => ask({ constants }));
	});

	it('numbers the platform states, the ES flag and its blob limit as we do', () => {
		const ours = {
			...renamed(PlatformState, (name) => `SEV_STATE_${name}`),
			SEV_INIT_FLAGS_SEV_ES: abi.CONFIG_ES,
			SEV_FW_BLOB_MAX_SIZE: abi.PACKET_LIMIT,
		};
		compareNumbers(ours, (constants) => ask({ constants }));
	});
});

describe('linux/psp-sev.h for programs', () => {
	const ask = (questions: Parameters<typeof askCompiler>[2]) =>
		askCompiler(folder, '#include <sys/ioctl.h>\n#include <linux/psp-sev.h>', questions);

	it('lays out the platform status as the firmware does', () => {
		const names = {
			apiMajor: 'api_major',
			apiMinor: 'api_minor',
			state: 'state',
			'owner+config+reserved': 'flags',
			build: 'build',
			guestCount: 'guest_count',
		};
		comparePairings([['sev_user_data_status', abi.platformStatusBuffer, names]], (structs) => ask({ structs }));
	});

	it('lays out the structures of /dev/sev as we do, field by field', () => {
		const certs = { pdhCertAddress: 'pdh_cert_address', pdhCertLen: 'pdh_cert_len' };
		const owner = { pekCertAddress: 'pek_cert_address', pekCertLen: 'pek_cert_len' };
		const buffer = { address: 'address', length: 'length' };
		const status = { apiMajor: 'api_major', apiMinor: 'api_minor', state: 'state', flags: 'flags', build: 'build' };
		const pairings: Pairing[] = [
			['sev_issue_cmd', ccp.sevIssueCmd, { cmd: 'cmd', data: 'data', error: 'error' }],
			['sev_user_data_status', ccp.sevUserDataStatus, { ...status, guestCount: 'guest_count' }],
			['sev_user_data_pek_csr', ccp.sevUserDataPekCsr, buffer],
			[
				'sev_user_data_pek_cert_import',
				ccp.sevUserDataPekCertImport,
				{ ...owner, ocaCertAddress: 'oca_cert_address', ocaCertLen: 'oca_cert_len' },
			],
			[
				'sev_user_data_pdh_cert_export',
				ccp.sevUserDataPdhCertExport,
				{ ...certs, certChainAddress: 'cert_chain_address', certChainLen: 'cert_chain_len' },
			],
			['sev_user_data_get_id2', ccp.sevUserDataGetId2, buffer],
		];
		comparePairings(pairings, (structs) => ask({ structs }));
	});

	it('numbers the commands of /dev/sev and its ioctl as we do', () => {
		const ours = {
			...renamed(ccp.SevUserCommand, (name) => `SEV_${name}`),
			SEV_ISSUE_CMD: ccp.SEV_ISSUE_CMD,
			'sizeof(struct sev_user_data_get_id)': ccp.SEV_USER_DATA_GET_ID_SIZE,
		};
		compareNumbers(ours, (constants) => ask({ constants }));
	});

	it('numbers the status codes as we do', () => {
		const { AEAD_OFLOW, ...codes } = Status;
		compareNumbers(
			renamed(codes, (name) => `SEV_RET_${LINUX_STATUS[name] ?? name}`),
			(constants) => ask({ constants }),
		);
		expect(AEAD_OFLOW).toBe(0x1d);
	});
});
