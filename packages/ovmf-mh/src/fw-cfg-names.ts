/** What an fw_cfg item of the migration handler says, and how it is read. */
export interface HandlerItem {
	/** Name of the file in fw_cfg. */
	readonly name: string;
	/** `start`: set the handler up. `target`: do nothing else and wait for a guest to arrive. */
	readonly role: 'start' | 'target';
	/** `boolean`: {@link parsePcdBoolean}. `presence`: that it is there says yes, whatever it holds. */
	readonly reading: 'boolean' | 'presence';
	/** Which document has this name. */
	readonly source: string;
}

const OVMF_MH = 'edk2 branch sev-mirror2-patches, OvmfPkg/PlatformPei (August 2021)';
const QEMU_DOCS = 'QEMU "Confidential guest-assisted live migration" v2 12/12, docs/confidential-guest-live-migration';
const RESUME = 'resume-from-efi-edk2, branch mh-state-dev, OvmfPkg/PlatformPei (October 2020)';

/**
 * The names by which three documents of the same authors ask for the same two things; no two agree.
 *
 * UNCERTAIN(QEMU v2 12/12): that document starts the handler by `PcdSevIsMigrationHelper,string=0`, which as a boolean would be no. It
 * may be a number in code that was never posted. PROJECT: the item's presence is the request, since that is how the document
 * uses it, and its commands are to work as they are written.
 *
 * PROJECT: OVMF's own name goes first. Only if it is absent or says nothing do the others count, the first that does.
 */
export const HANDLER_ITEMS = [
	{ name: 'opt/ovmf/PcdStartConfidentialMigrationHandler', role: 'start', reading: 'boolean', source: OVMF_MH },
	{ name: 'opt/ovmf/PcdSevIsMigrationHelper', role: 'start', reading: 'presence', source: QEMU_DOCS },
	{ name: 'opt/ovmf/PcdSevIsMigrationHandler', role: 'start', reading: 'boolean', source: RESUME },
	{ name: 'opt/ovmf/PcdIsConfidentialMigrationTarget', role: 'target', reading: 'boolean', source: OVMF_MH },
	{ name: 'opt/ovmf/PcdSevIsMigrationTarget', role: 'target', reading: 'boolean', source: QEMU_DOCS },
] as const satisfies readonly HandlerItem[];

/** The words of a boolean PCD, in lower case. */
const WORDS: Readonly<Record<string, boolean>> = {
	true: true,
	yes: true,
	y: true,
	enable: true,
	enabled: true,
	'1': true,
	false: false,
	no: false,
	n: false,
	disable: false,
	disabled: false,
	'0': false,
};
/** The longest word with CR, LF and NUL. */
const MAX_BOOLEAN = 11;
const [NUL, LF, CR] = [0x00, 0x0a, 0x0d];

/**
 * Reads a boolean as OVMF's QemuFwCfgParseBool does (edk2 OvmfPkg/Library/QemuFwCfgSimpleParserLib): a word in any case, then at most one
 * LF or CR LF, then at most one NUL. At most 11 bytes with a final NUL, 10 without. `undefined` for everything else: the PCD
 * keeps its default.
 */
export function parsePcdBoolean(file: Uint8Array): boolean | undefined {
	const terminated = file.at(-1) === NUL;
	if (file.length > MAX_BOOLEAN || (file.length === MAX_BOOLEAN && !terminated)) return undefined;
	let length = terminated ? file.length - 1 : file.length;
	if (file[length - 1] === LF) length -= file[length - 2] === CR ? 2 : 1;
	// It is compared as a C string.
	const end = file.subarray(0, length).indexOf(NUL);
	const word = String.fromCharCode(...file.subarray(0, end < 0 ? length : end)).toLowerCase();
	return Object.hasOwn(WORDS, word) ? WORDS[word] : undefined;
}

/** What the items of a machine ask of the handler. */
export interface HandlerSettings {
	/** Set it up. */
	readonly start: boolean;
	/** Wait for a guest. As posted it means nothing without `start`. */
	readonly target: boolean;
}

/** Both settings, from the contents of the items that are there. Shared by firmware and VMM. */
export function handlerSettings(contents: (name: string) => Uint8Array | undefined): HandlerSettings {
	const says = (wanted: HandlerItem['role']): boolean => {
		for (const { name, role, reading } of HANDLER_ITEMS) {
			const file = role === wanted ? contents(name) : undefined;
			if (file === undefined) continue;
			const value = reading === 'presence' ? true : parsePcdBoolean(file);
			if (value !== undefined) return value;
		}
		return false;
	};
	return { start: says('start'), target: says('target') };
}
