/**
 * Every status code once: name, number, text. Names and numbers: SEV API 0.24 §4.4. Texts: QEMU `target/i386/sev.c`
 * `sev_fw_errlist` where QEMU has one, else ours.
 */
const CODES = {
	SUCCESS: [0x00, ''],
	INVALID_PLATFORM_STATE: [0x01, 'Platform state is invalid'],
	INVALID_GUEST_STATE: [0x02, 'Guest state is invalid'],
	INVALID_CONFIG: [0x03, 'Platform configuration is invalid'],
	INVALID_LENGTH: [0x04, 'Buffer too small'],
	ALREADY_OWNED: [0x05, 'Platform is already owned'],
	INVALID_CERTIFICATE: [0x06, 'Certificate is invalid'],
	POLICY_FAILURE: [0x07, 'Policy is not allowed'],
	INACTIVE: [0x08, 'Guest is not active'],
	INVALID_ADDRESS: [0x09, 'Invalid address'],
	BAD_SIGNATURE: [0x0a, 'Bad signature'],
	BAD_MEASUREMENT: [0x0b, 'Bad measurement'],
	ASID_OWNED: [0x0c, 'Asid is already owned'],
	INVALID_ASID: [0x0d, 'Invalid ASID'],
	WBINVD_REQUIRED: [0x0e, 'WBINVD is required'],
	DF_FLUSH_REQUIRED: [0x0f, 'DF_FLUSH is required'],
	INVALID_GUEST: [0x10, 'Guest handle is invalid'],
	INVALID_COMMAND: [0x11, 'Invalid command'],
	ACTIVE: [0x12, 'Guest is active'],
	HWERROR_PLATFORM: [0x13, 'Hardware error'],
	HWERROR_UNSAFE: [0x14, 'Hardware unsafe'],
	UNSUPPORTED: [0x15, 'Feature not supported'],
	INVALID_PARAM: [0x16, 'Invalid parameter'],
	RESOURCE_LIMIT: [0x17, 'Required firmware resource depleted'],
	SECURE_DATA_INVALID: [0x18, 'Part-specific integrity check failure'],
	AEAD_OFLOW: [0x1d, 'Authenticated-encryption counter overflow'],
} as const;

type StatusName = keyof typeof CODES;

/** What the firmware answered: SEV API 0.24 §4.4. On the wire the field is 16 bits wide and open. */
export const Status = Object.freeze(
	Object.fromEntries(Object.entries(CODES).map(([name, [code]]) => [name, code])),
) as { readonly [N in StatusName]: (typeof CODES)[N][0] };
/** One of the status codes of SEV API 0.24 §4.4. */
export type Status = (typeof Status)[StatusName];

const NAMES = new Map<number, StatusName>();
for (const name of Object.keys(CODES) as StatusName[]) NAMES.set(CODES[name][0], name);

/** The specification's name of a code, such as `INVALID_GUEST_STATE`; `0x…` for a code it does not list. */
export const statusName = (code: number): string => NAMES.get(code) ?? `0x${code.toString(16)}`;

/** The text QEMU prints for a code (`sev_fw_errlist`); empty for success. */
export function statusText(code: number): string {
	const name = NAMES.get(code);
	return name === undefined ? 'unknown error' : CODES[name][1];
}
